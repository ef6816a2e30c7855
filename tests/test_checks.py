"""The page of checks says what was checked, and refuses labels that do not fit together."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import evidence
import pytest
from book_checks import MARK, page, read, write
from sphinx.errors import ExtensionError


def check(label: str) -> dict[str, Any]:
    outcome = {"label": label, "kind": "exact", "found": "deviation 2 · 10⁻¹⁶, tolerance 10⁻¹⁰", "resolution": 1e-8}
    return {"output_type": "display_data", "data": {}, "metadata": {"vaebook": {"check": outcome}}}


def notebook(labels: list[str], checked: list[str]) -> dict[str, Any]:
    text = ["(ch-x)=\n# A title\n"] + [f"```{{math}}\n:label: {label}\n\nx = x\n```\n" for label in labels]
    code = {"cell_type": "code", "source": [], "outputs": [check(label) for label in checked]}
    return {"cells": [{"cell_type": "markdown", "source": text}, code]}


def test_checks_have_rows_in_the_order_of_the_equations_and_every_equation_one_anchor() -> None:
    one = read("01_one", notebook(["def-a", "eq-a", "eq-b"], ["eq-b", "eq-a", "eq-a"]))
    two = read("02_two", notebook(["eq-c"], ["eq-c", "eq-a"]))
    written = page(f"Before.\n\n{MARK}\n", [one, two], {})
    assert "**All 3 equations are checked in their own chapter;** the book has 5 checks." in written
    assert written.count("(checked-eq-a)=") == written.count("(checked-eq-c)=") == 1
    assert written.index("{eq}`eq-a`") < written.index("{eq}`eq-b`")
    assert written.count("{eq}`eq-a`") == 2  # two checks that found the same have one row
    assert "checked-def-a" not in written
    assert "The ticks are in {doc}`chapter 2 </notebooks/02_two>`." in written
    row = "\n  - exact\n  - deviation 2 · 10⁻¹⁶, tolerance 10⁻¹⁰%s\n  - <\N{NO-BREAK SPACE}0.01\N{NO-BREAK SPACE}%%\n"
    assert (written.count(row % ""), written.count(row % ", 2 times")) == (3, 1)
    assert written.count("## A title") == 2
    assert MARK not in written


def test_an_equation_is_named_by_the_heading_that_it_stands_under_in_whatever_chapter_it_is_checked() -> None:
    one, two = notebook(["eq-a"], ["eq-a"]), notebook(["eq-d"], ["eq-d", "eq-b", "eq-c"])
    one["cells"][0]["source"] += [
        "## The KL of $q$\n### In closed form\n```{math}\n:label: eq-b\n```\n## Exercises\n",
        "**1.** Show it.\n\n**2. The worst turn.** Given $W$, **show it**.\n\n```{math}\n:label: eq-c\n```\n",
    ]
    written = page(MARK, [read("01_one", one), read("02_two", two)], {})
    for row in ("eq-a` A title", "eq-b` In closed form", "eq-c` The worst turn", "eq-d` A title"):
        assert f"{{eq}}`{row}\n" in written


def test_a_claim_without_a_check_lowers_the_coverage_and_is_named() -> None:
    written = page(MARK, [read("01_one", notebook(["eq-a", "eq-b"], ["eq-a"]))], {})
    assert "1 of 2 equations, 50 %, are checked in their own chapter;" in written
    assert "Without a check in this build: {eq}`eq-b`." in written


def test_a_check_in_another_chapter_does_not_count() -> None:
    written = page(MARK, [read("01_one", notebook(["eq-a"], [])), read("02_two", notebook([], ["eq-a"]))], {})
    assert "0 of 1 equations, 0 %," in written
    assert "Without a check in this build: {eq}`eq-a`." in written


def test_a_definition_claims_nothing() -> None:
    assert "All 0 equations" in page(MARK, [read("01_one", notebook(["def-a"], []))], {})


@pytest.mark.parametrize(
    ("chapters", "said"),
    [
        ([(["eq-a"], ["eq-a", "eq-z"])], r"do not exist: \['eq-z'\]"),
        ([(["eq-a"], []), (["eq-a"], [])], r"twice: \['eq-a'\]"),
    ],
)
def test_labels_that_do_not_fit_stop_the_build(chapters: list[tuple[list[str], list[str]]], said: str) -> None:
    with pytest.raises(ExtensionError, match=said):
        page(MARK, [read(f"{k:02d}", notebook(*c)) for k, c in enumerate(chapters)], {})


def test_the_four_numbers_come_from_the_build_and_from_stored_runs() -> None:
    one = read("01_one", notebook(["eq-a", "eq-b"], ["eq-a", "eq-b"]))
    checks = {"eq-a": [{**one.checks["eq-a"][0], "resolution": 30.0}], "eq-b": one.checks["eq-b"]}
    claims = [{"claim": "a beats b", "holds": True, "found": "2.0 ± 0.1 > 1, 3 seeds"}]
    one = one._replace(checks=checks, claims=claims)
    two = read("02_two", notebook([], []))
    seeds = list(range(100, 300, 10))
    evidence = {
        "mutants": {"01_one": {"code": one.code, "mistakes": 10, "noticed": 7, "crashed": 2}},
        "replication": {"01_one": {"code": "older", "seeds": seeds, "held": {"eq-a": 20, "eq-b": 19, "a beats b": 18}}},
        "ranges": {"01_one": {"code": one.code, "runs": 5, "well": 5}, "02_two": {"code": "x", "runs": 2, "well": 1}},
    }
    written = page(MARK, [one, two], evidence)
    assert "1 of 2 equations that say what something equals have a check with a resolution of 10 % or less" in written
    assert "noticed 7, and 2 stopped the chapter otherwise (chapter 1).\n" in written
    assert "Of 10 small mistakes" in written
    assert "Of 3 equations and claims, 2 held at 95 % or more" in written
    assert "(chapter 1). Measured on an earlier code: chapter 1.\n" in written
    assert "Of 7 runs at the ends" in written
    assert "6 ended well (chapters 1, 2). Measured on an earlier code: chapter 2.\n" in written
    assert "  - a beats b\n" not in written
    assert "* - a beats b\n  - 2.0 ± 0.1 > 1, 3 seeds\n  - 18 of 20\n" in written
    assert written.count("  - 19 of 20\n") == 1
    assert written.count("  - 30\N{NO-BREAK SPACE}%\n") == 1


def test_what_was_never_measured_is_not_said() -> None:
    written = page(MARK, [read("01_one", notebook(["eq-a"], ["eq-a"]))], {})
    assert "Of 0 small mistakes" not in written
    assert "held for" not in written
    assert "seeds" not in written


def test_the_page_reads_what_the_long_runs_stored(tmp_path: Path) -> None:
    """From the folder of pages: the build lays it out whole for Sphinx."""
    stored = tmp_path / evidence.STORE.relative_to(evidence.ROOT)
    assert stored.parent == tmp_path / "pages"
    for folder in ("notebooks", "pages"):
        (tmp_path / folder).mkdir()
    chapter = notebook(["eq-a"], ["eq-a"])
    (tmp_path / "notebooks" / "01_one.ipynb").write_text(json.dumps(chapter), encoding="utf-8")
    found = {"code": read("01_one", chapter).code, "seeds": [100, 110], "held": {"eq-a": 2}}
    stored.write_text(json.dumps({"replication": {"01_one": found}}), encoding="utf-8")
    source = [MARK]
    write(SimpleNamespace(srcdir=tmp_path), "pages/checks", source)  # type: ignore[arg-type]
    assert "  - 2 of 2\n" in source[0]
    assert "Of 1 equations and claims, 1 held" in source[0]
