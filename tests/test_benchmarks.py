"""The benchmarks still run, on the digits and a few steps, and judge what they measure by the right side."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import __main__ as table, book, epoch, growth, likelihood, measure, published
from benchmarks.measure import Row


def in_this_process(code: str, **environment: str) -> object:
    """What a fresh process would print, without the seconds that one takes to start."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    return json.loads(out.getvalue().splitlines()[-1])


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (epoch, growth, likelihood, book):
        monkeypatch.setattr(module, "fresh", in_this_process)
    monkeypatch.setattr(epoch, "installed", lambda name: "")  # others' libraries take seconds to load
    monkeypatch.setattr(epoch, "compiled", lambda loss: loss)  # as does a compiler; tests/test_faster.py compiles


@pytest.mark.parametrize(
    ("name", "most_rows"),
    [("epoch", 26), ("growth", 18), ("likelihood", 9), ("published", 8), ("book", 6), ("tests", 1)],
)
def test_a_part_runs(name: str, most_rows: int) -> None:
    rows = table.measured(name, quick=True, dataset="digits")
    assert min(5, most_rows) <= len(rows) <= most_rows
    assert len({row.what for row in rows}) == len(rows)
    unmeasured = {row.note for row in rows if not row.values}
    needs = {f"needs {what}" for what in ("a C++ compiler", "units for bfloat16", "a compiler and units for bfloat16")}
    assert unmeasured <= {"not installed", "not in a quick run", "no record", *needs}
    text = table.markdown(rows)
    assert all(line.count("|") == len(table.HEAD) + 1 for line in text.splitlines())
    assert len(table.plain(rows).splitlines()) == len(rows) + 1


def test_the_readme_says_what_the_last_run_measured() -> None:
    """Its figures, rounded, are those of the table that it links."""
    readme = (table.RESULTS.parent.parent / "README.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in table.RESULTS.read_text(encoding="utf-8").splitlines() if " | " in line]
    medians = {row[0].lstrip("| "): row[1].split()[0] for row in rows}
    for name, text in {
        "an epoch: this module": "{} s",
        "this module: as fast as pythae 0.1.2": "{} times as fast as in pythae",
        "this module: as fast as pyro-ppl 1.9.2": "{} as in Pyro",
        "this module: as fast as a tutorial's loop": "{} as in the usual tutorial's",
        "an epoch: this module, compiled, bfloat16": "with both it takes {} s",
    }.items():
        assert text.format(medians[name]) in " ".join(readme.split())


def test_a_part_replaces_its_own_lines(tmp_path: Path) -> None:
    out, (epochs, growths) = tmp_path / "results.md", list(table.PARTS.values())[:2]
    for title, section in ((growths, "| a |"), (epochs, "| b |"), (growths, "| c |\n\n![d](e.svg)")):
        table.keep("Measured on this.\n", title, section, out)
    assert (
        out.read_text()
        == f"""Measured on this.

**{epochs}**

| b |

**{growths}**

| c |

![d](e.svg)
"""
    )


def test_without_a_record_nothing_is_claimed_of_the_published_table(tmp_path: Path) -> None:
    for row in published.rows(folder=tmp_path):
        assert (row.values, row.verdict(), row.note) == ([], "", "no record")


def test_the_median_decides() -> None:
    values = [1.0, 1.2, 9.0]
    assert Row("", values, most=1.3).verdict() == "met"
    assert Row("", values, most=1.1).verdict() == "missed"
    assert Row("", values, least=1.1).verdict() == "met"
    assert Row("", values, least=1.3).verdict() == "missed"
    assert Row("", values, least=1.3, reached=[1.4]).verdict() == "missed"
    assert Row("", values, least=1.3, reached=[1.25]).verdict() == "beyond the limit here"
    assert Row("", values).verdict() == Row("", [], most=1.0).verdict() == ""
    row = Row("", values, "s", most=1.3)
    assert (row.measured(), row.spread(), row.target()) == ("1.20 s", "1–9", "at most 1.30")


@pytest.mark.parametrize(("power", "slope"), [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)])
def test_growth_is_the_steepest_slope(power: float, slope: float) -> None:
    found = {n: {"milliseconds": [0.5 * max(n, 100) ** power, float(n)]} for n in (10, 100, 1000)}
    assert growth.slopes(found, "milliseconds") == pytest.approx([slope, 1.0])


def test_rounds_are_interleaved() -> None:
    order: list[str] = []

    def logged(name: str) -> Callable[[], float]:
        return lambda: float(order.append(name) is None)

    assert measure.interleaved({"a": logged("a"), "b": logged("b")}, 2) == {"a": [1, 1], "b": [1, 1]}
    assert order == ["a", "b", "a", "b"]


def test_pixels_in_a_file_are_what_is_measured(tmp_path: Path) -> None:
    growth.write_pixels(tmp_path / "pixels", 1500)
    assert (tmp_path / "pixels").stat().st_size == 1500 * growth.D * 4
