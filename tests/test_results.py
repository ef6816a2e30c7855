"""The table of runs: its order, its columns, its file; and two runs compared."""

import csv
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import pandas
import pytest

from vaebook_runner import cli, results
from vaebook_runner.jobs import plan_sweep

NASTY = 'a "b", $(c)\n$d é'
CONTROL = "\x1b[2J\x07\u202e"
FORMULAS = ["=1+1", "+1", "-p", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"]


def store(folder: Path, number: int, **changes: Any) -> None:
    """A finished run, as a sweep leaves it; or a file that says so, with ``changes``."""
    record = {
        "id": f"{number:020x}",
        "status": "done",
        "chapter": "tiny",
        "parameters": {"latent_dim": number % 3, "rate": 0.5 * number, "mode": NASTY, "flag": number % 2 == 0},
        "values": {"elbo": {"value": -10.0 + number, "stderr": 0.25}, "m": {"value": 2.0}},
        "began": datetime.now(UTC).isoformat(timespec="microseconds"),
        "seconds": 1.5,
        "notebook_bytes": 4,
    }
    record |= changes
    (folder / f"{record['id']}.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / f"{record['id']}.ipynb").write_text("x" * record["notebook_bytes"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "runs"
    path.mkdir()
    for number in (1, 0, 3, 2):
        store(path, number)
    store(path, 4, status="failed", values={}, error="ValueError:\n  'x', \"y\"", notebook_bytes=0)
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty"
    path.mkdir()
    return path


def shown(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert cli.main(["results", str(folder), *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_table_shows_what_differs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(folder, capsys)
    assert lines[0].split() == ["id", "status", "latent_dim", "rate", "flag", "elbo", "m", "seconds"]
    assert [float(line.split()[3]) for line in lines[1:]] == [0.5, 0.0, 1.5, 1.0, 2.0]  # in the order of their start
    assert "-9.00 ± 0.25" in lines[1]
    assert "–" in lines[5]


def test_a_single_run_is_shown_with_its_values(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(empty, 1)
    lines = shown(empty, capsys)
    assert lines[0].split() == ["id", "status", "elbo", "m", "seconds"] or {"elbo", "m"} <= set(lines[0].split())
    assert "-9.00 ± 0.25" in lines[1]


@pytest.mark.parametrize(
    ("column", "rates"),
    [
        ("elbo", [1.5, 1.0, 0.5, 0.0, 2.0]),  # the run without a value comes last
        ("rate", [2.0, 1.5, 1.0, 0.5, 0.0]),
        ("status", [2.0, 0.5, 0.0, 1.5, 1.0]),  # equal ones in the order of their start
    ],
)
def test_the_largest_come_first_and_the_unmeasured_last(
    folder: Path, capsys: pytest.CaptureFixture[str], column: str, rates: list[float]
) -> None:
    assert [float(line.split()[3]) for line in shown(folder, capsys, "--best", column)[1:]] == rates


@pytest.mark.parametrize("room", [40, 20])
def test_a_narrow_terminal_says_what_it_leaves_out(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    columns = len(shown(folder, capsys)[0].split())
    monkeypatch.setenv("COLUMNS", str(room))
    *lines, last = shown(folder, capsys)
    assert all(len(line) <= room for line in lines)
    kept = len(lines[0].split())
    assert last == f"{columns - kept} more columns do not fit here; --csv FILE writes them all"


@pytest.mark.parametrize("room", ["1", "7", "10"])
def test_the_narrowest_terminal_still_shows_which_runs_there_are(folder: Path, room: str) -> None:
    command = [sys.executable, "-m", "vaebook_runner", "results", str(folder)]
    done = subprocess.run(
        command, env={**os.environ, "COLUMNS": room}, capture_output=True, encoding="utf-8", timeout=60, check=True
    )
    assert done.stdout.splitlines()[1].startswith("00000000")


def test_an_unknown_column_lists_the_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["results", str(folder), "--best", "elbow"]) == 2
    assert "'elbow'; there are: id, latent_dim, rate, mode, flag, elbo," in capsys.readouterr().err


def test_values_of_several_types_are_sorted_or_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(folder, 5, parameters={"latent_dim": "five"})
    code = cli.main(["results", str(folder), "--best", "latent_dim"])
    assert code in (0, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main(["results", str(folder)]) == 0


def test_pandas_reads_the_csv(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    assert cli.main(["results", str(folder), "--csv", str(path), "--best", "elbo"]) == 0
    frame = pandas.read_csv(path)
    about = list(results.ABOUT)
    assert list(frame.columns) == [
        "id", "latent_dim", "rate", "mode", "flag", "elbo", "elbo.stderr", "m", "m.stderr", *about
    ]  # fmt: skip
    assert frame["rate"].tolist() == [1.5, 1.0, 0.5, 0.0, 2.0]
    assert frame["elbo"].isna().tolist() == [False] * 4 + [True]
    assert frame["flag"].tolist() == [False, True, False, True, True]
    assert frame["mode"].unique().tolist() == [NASTY]
    assert frame["error"].iloc[-1] == "ValueError:\n  'x', \"y\""
    assert frame.groupby("mode")["elbo"].sum().tolist() == [-34.0]


def test_the_csv_keeps_all_digits_of_negative_and_other_numbers(empty: Path, tmp_path: Path) -> None:
    numbers = [-0.1 - 0.2, 1e-300, 12345678.912345678, -1.0]
    for number, value in enumerate(numbers):
        store(empty, number, values={"m": {"value": value}})
    path = tmp_path / "t.csv"
    assert cli.main(["results", str(empty), "--csv", str(path)]) == 0
    with path.open(encoding="utf-8", newline="") as file:
        assert [float(row["m"]) for row in csv.DictReader(file)] == numbers
    assert "'" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_spreadsheet_computes_no_text_of_the_csv(empty: Path, tmp_path: Path, formula: str) -> None:
    store(empty, 1, parameters={"mode": formula, "x": 1}, chapter=formula, error=formula, device=formula)
    path = tmp_path / "t.csv"
    assert cli.main(["results", str(empty), "--csv", str(path)]) == 0
    (row,) = pandas.read_csv(path).to_dict("records")
    assert [row[name] for name in ("mode", "chapter", "error", "device")] == [f"'{formula}"] * 4


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_spreadsheet_computes_no_column_name_of_the_csv(empty: Path, tmp_path: Path, formula: str) -> None:
    store(empty, 1, parameters={formula: 1})
    store(empty, 2, values={formula: {"value": 1.0, "stderr": 1.0}})
    store(empty, 3)
    path = tmp_path / "t.csv"
    assert cli.main(["results", str(empty), "--csv", str(path)]) == 0
    assert not [name for name in pandas.read_csv(path).columns if name.startswith(tuple("=+-@\t\r"))]


def test_a_table_has_the_types_of_its_values(folder: Path) -> None:
    table, _ = results.read(folder)
    assert table["latent_dim"].dtype.kind == "i"
    assert table["flag"].dtype.kind == "b"
    assert [table[name].dtype.kind for name in ("rate", "elbo", "elbo.stderr", "seconds")] == ["f"] * 4
    assert table.groupby("latent_dim")["elbo"].max().to_dict() == {0: -7.0, 1: -9.0, 2: -8.0}


def test_names_that_come_twice_hide_nothing(empty: Path) -> None:
    store(empty, 1, parameters={"device": "cuda", "id": 3, "elbo": 7}, device="a processor")
    table, _ = results.read(empty)
    (row,) = table.to_dict("records")
    assert (row["device"], row["elbo"], row["id"]) == ("a processor", 7, f"{1:020x}")
    assert (row["parameter device"], row["parameter id"], row["recorded elbo"]) == ("cuda", 3, -9.0)
    assert len(table.columns) == len(set(table.columns))


def test_a_run_that_failed_shows_so_whatever_was_recorded(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(empty, 1, values={"status": {"value": 1.0}})
    store(empty, 2, values={"status": {"value": 1.0}}, status="failed", error="x")
    table, _ = results.read(empty)
    assert list(table["status"]) == ["done", "failed"]
    assert list(table["recorded status"]) == [1.0, 1.0]


def test_whole_numbers_stay_whole_beside_gaps(empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, seed in enumerate((123_456, 123_457, 2**53 + 1)):
        store(empty, number, parameters={"seed": seed})
    store(empty, 3, parameters={"m": 2})
    text = "\n".join(shown(empty, capsys))
    assert [str(seed) in text for seed in (123_456, 123_457, 2**53 + 1)] == [True] * 3
    assert cli.main(["results", str(empty), "--csv", str(tmp_path / "t.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["seed"] for row in rows] == ["123456", "123457", "9007199254740993", ""]


@pytest.mark.parametrize("words", [[], ["--best", "no"], ["--best", "elbo"]])
def test_no_file_sends_control_characters_to_the_terminal(
    empty: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    for number in (1, 2):
        store(empty, number, parameters={"mode": f"{CONTROL}{number}"}, error=CONTROL, chapter=CONTROL)
        store(empty, 10 + number, parameters={f"p{CONTROL}": number})
        store(empty, 20 + number, values={f"v{CONTROL}": {"value": 1.0 * number, "stderr": 1.0}})
    record = json.loads((empty / f"{1:020x}.json").read_text(encoding="utf-8"))
    (empty / f"{3:020x}.json").write_text(json.dumps(record | {CONTROL: 1}))
    (empty / f"{CONTROL}.json").write_text("{}")
    (empty / f"{1:020x}.ipynb").write_text("another one")
    code = cli.main(["results", str(empty), *words])
    assert code == (2 if "no" in words else 0)
    said = "".join(capsys.readouterr())
    assert not [c for c in said if not c.isprintable() and c != "\n"]


def test_a_file_that_cannot_be_written_is_wrong_usage(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    for path in (tmp_path / "missing" / "t.csv", tmp_path):
        try:
            code = cli.main(["results", str(folder), "--csv", str(path)])
        except SystemExit as stopped:
            code = stopped.code
        assert code == 2
        assert sorted(tmp_path.rglob("*")) == before
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{}")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "x.json"):
        assert cli.main(["results", str(path)]) == 2
        error = capsys.readouterr().err
        assert f"DIR needs to be a folder with records of runs, got {path}" in error
        assert ("x.json is not a record and was skipped" in error) == (path == tmp_path)


# Two runs


def executed(path: Path, parameters: dict[str, object], **values: tuple[float, float | None]) -> None:
    source = 'latent_dim: int = 2  # m\nmode: str = "a"\nrate: float = 0.5'
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})]
    for name, (value, stderr) in values.items():
        data = {"application/vnd.vaebook.record+json": {"name": name, "value": value, "stderr": stderr}}
        output = nbformat.v4.new_output("display_data", data=data)
        cells.append(nbformat.v4.new_code_cell("", outputs=[output]))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"papermill": {"parameters": parameters}, "kernelspec": kernel}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def compared(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of the comparison below the line of names, without the space that aligns them."""
    assert cli.main(["compare", str(a), str(b)]) == 0
    names, *lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    shown = [f"{path.stem[:8]}{path.suffix}" for path in (a, b)]  # of a run's name as many letters as in the table
    assert names == f"{shown[0]} {shown[1]} b − a ÷ its std. error"
    return lines


def test_compare_shows_parameters_with_defaults_and_differences_in_standard_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = tmp_path / "a.ipynb", tmp_path / "b.ipynb"
    executed(a, {"latent_dim": 5}, elbo=(-10.0, 0.3), exact=(2.0, None), gone=(1.0, None))
    executed(b, {"mode": "x\ny"}, elbo=(-8.0, 0.4), exact=(2.5, None))
    assert compared(a, b, capsys) == [
        "latent_dim 5 2 differs",
        r"mode a x\ny differs",
        "rate 0.5 0.5",
        "elbo -10.00 ± 0.30 -8.00 ± 0.40 +2 +4.0",  # 2 / √(0.3² + 0.4²)
        "exact 2 2.5 +0.5",
        "gone 1 –",
    ]


def test_compare_takes_a_record_as_well_as_a_notebook(
    empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(empty, 1, parameters={"latent_dim": 5, "mode": "a", "rate": 0.5})
    store(empty, 2, parameters={"latent_dim": 5, "mode": "a", "rate": 0.25})
    one, two = (empty / f"{number:020x}.json" for number in (1, 2))
    assert compared(one, two, capsys) == [
        "latent_dim 5 5",
        "mode a a",
        "rate 0.5 0.25 differs",
        "elbo -9.00 ± 0.25 -8.00 ± 0.25 +1 +2.8",
        "m 2 2 0",
    ]
    notebook = tmp_path / "c.ipynb"
    executed(notebook, {"latent_dim": 5}, elbo=(-9.0, 0.25), m=(2.0, None))
    assert compared(one, notebook, capsys) == [
        "latent_dim 5 5",
        "mode a a",
        "rate 0.5 0.5",
        "elbo -9.00 ± 0.25 -9.00 ± 0.25 0 0.0",
        "m 2 2 0",
    ]


@pytest.mark.parametrize(
    "changes",
    [{"parameters": {"mode": CONTROL}}, {"parameters": {CONTROL: 1}}, {"values": {CONTROL: {"value": 1.0}}}],
)
def test_compare_sends_no_control_characters_to_the_terminal(
    empty: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    store(empty, 1)
    store(empty, 2, **changes)
    cli.main(["compare", *(str(empty / f"{number:020x}.json") for number in (1, 2))])
    said = "".join(capsys.readouterr())
    assert "00000000.json" in said
    assert not [c for c in said if not c.isprintable() and c != "\n"]


def test_compare_refuses_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.ipynb", tmp_path / "bad.ipynb"
    executed(good, {}, elbo=(1.0, None))
    whole = json.loads(good.read_text())
    poison = [
        "",
        good.read_text()[:-30],
        "[]",
        "[" * 100_000,
        json.dumps(whole | {"metadata": {"papermill": {"parameters": [1]}}}),
        good.read_text().replace("1.0", '"1"'),
        good.read_text().replace("1.0", "NaN"),
        good.read_text().replace("= 2  #", "= open('x')  #"),
    ]
    for text in poison:
        bad.write_text(text)
        assert cli.main(["compare", str(good), str(bad)]) == 2, text[:100]
        assert "bad.ipynb" in capsys.readouterr().err
    with bad.open("wb") as file:
        file.truncate(200_000_000)
    for path in (bad, tmp_path, tmp_path / "missing", tmp_path / "missing.json"):
        assert cli.main(["compare", str(good), str(path)]) == 2
        assert "cannot be read as a record or an executed notebook" in capsys.readouterr().err


# Many runs


def test_a_thousand_runs_are_listed_and_resumed_within_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten thousand take a few seconds, see benchmarks/sweep.py; a busy machine gets a margin."""
    chapter = tmp_path / "tiny.ipynb"
    cell = nbformat.v4.new_code_cell("seed: int = 0", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), chapter)
    folder = tmp_path / "runs"
    folder.mkdir()
    for job in plan_sweep(chapter, folder, {}, {}, 1000):
        store(folder, 0, id=job.id, parameters=job.values)
    begun = time.monotonic()
    words = ["sweep", str(chapter), "-o", str(folder), "--seeds", "1000"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == f"all 1000 runs are done, in {folder}\n"
    assert cli.main([*words, "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1001
    assert len(shown(folder, capsys)) == 1001
    assert time.monotonic() - begun < 10
