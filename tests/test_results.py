"""The table of runs: its order, its files, its plot; and two runs compared."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from vaebook import cli
from vaebook.runner import records, results, sweep
from vaebook.runner.records import Measured, Record
from vaebook.runner.runs import now

NASTY = 'a "b", $(c)\n$d é'


def store(folder: Path, number: int, **changes: Any) -> Record:
    """A finished run, as a sweep leaves it."""
    fields: dict[str, Any] = {
        "id": f"{number:020x}",
        "status": "done",
        "chapter": "tiny",
        "parameters": {
            "latent_dim": number % 3,
            "rate": 0.5 * number,
            "mode": NASTY,
            "flag": number % 2 == 0,
        },
        "values": {"elbo": Measured(value=-10.0 + number, stderr=0.25), "m": Measured(value=2.0)},
        "seed": number,
        "began": now(),
        "seconds": 1.5,
        "notebook_bytes": 4,
    }
    record = Record(**fields | changes)
    (folder / f"{record.id}.json").write_text(records.text(record))
    (folder / f"{record.id}.ipynb").write_text("x" * record.notebook_bytes)
    return record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "runs"
    path.mkdir()
    for number in (1, 0, 3, 2):
        store(path, number)
    failed = {"status": "failed", "values": {}, "error": "ValueError:\n  'x', \"y\"", "notebook_bytes": 0}
    store(path, 4, **failed)
    return path


def shown(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert cli.main(["results", str(folder), *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_table_shows_what_differs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(folder, capsys)
    assert lines[0].split() == ["id", "status", "latent_dim", "rate", "flag", "elbo", "m", "seconds"]
    assert [line.split()[3] for line in lines[1:]] == ["0.5", "0", "1.5", "1", "2"]  # As they began.
    assert "-9 ± 0.25" in lines[1]
    assert "–" in lines[5]


@pytest.mark.parametrize(
    ("words", "rates"),
    [
        (["--best", "elbo"], [1.5, 1.0, 0.5, 0.0, 2.0]),
        (["--least", "elbo"], [0.0, 0.5, 1.0, 1.5, 2.0]),
        (["--best", "rate"], [2.0, 1.5, 1.0, 0.5, 0.0]),
        (["--least", "status"], [0.5, 0.0, 1.5, 1.0, 2.0]),
    ],
)
def test_the_best_come_first_and_the_unmeasured_last(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], rates: list[float]
) -> None:
    assert [float(line.split()[3]) for line in shown(folder, capsys, *words)[1:]] == rates


def test_a_narrow_terminal_says_what_it_leaves_out(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    *lines, last = shown(folder, capsys)
    assert all(len(line) <= 40 for line in lines)
    assert last == "4 more columns do not fit here; --csv FILE writes them all"


def test_csv_is_read_by_pandas_and_duckdb(folder: Path, tmp_path: Path) -> None:
    import duckdb
    import pandas

    path = tmp_path / "t.csv"
    assert cli.main(["results", str(folder), "--csv", str(path), "--best", "elbo"]) == 0
    frame = pandas.read_csv(path)
    assert list(frame.columns) == [
        "id", "latent_dim", "rate", "mode", "flag", "elbo", "elbo.stderr", "m", "m.stderr", *results.ABOUT
    ]  # fmt: skip
    assert frame["rate"].tolist() == [1.5, 1.0, 0.5, 0.0, 2.0]
    assert frame["elbo"].isna().tolist() == [False] * 4 + [True]
    assert frame["mode"].unique().tolist() == [NASTY]
    assert frame["error"].iloc[-1] == "ValueError:\n  'x', \"y\""
    found = duckdb.sql(f"select mode, sum(elbo), count(*) from '{path}' group by mode").fetchall()
    assert found == [(NASTY, -34.0, 5)]


def test_parquet_keeps_the_types(folder: Path, tmp_path: Path) -> None:
    import duckdb
    import pandas
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    assert cli.main(["results", str(folder), "--parquet", str(path)]) == 0
    types = {field.name: str(field.type) for field in parquet.read_schema(path)}
    assert types["latent_dim"] == "int64"
    assert types["flag"] == "bool"
    assert types["mode"] == types["status"] == "string"
    # No run has a standard error of m: a column of numbers nevertheless.
    assert {types[name] for name in ("rate", "elbo", "elbo.stderr", "m.stderr", "seconds")} == {"double"}
    frame = pandas.read_parquet(path)
    assert frame["flag"].tolist() == [False, True, False, True, True]
    assert frame["mode"].unique().tolist() == [NASTY]
    assert duckdb.sql(f"select max(elbo) from '{path}' where latent_dim = 0").fetchall() == [(-7.0,)]


@pytest.mark.parametrize("other", ["text", 2**80, True])
def test_parameters_of_several_types_are_no_parquet(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], other: object
) -> None:
    store(folder, 5, parameters={"latent_dim": other})
    path = tmp_path / "t.parquet"
    assert cli.main(["results", str(folder), "--parquet", str(path)]) == 2
    assert "no Parquet of parameters of several types, or over 64 bits" in capsys.readouterr().err
    assert not path.exists()
    assert cli.main(["results", str(folder), "--csv", str(tmp_path / "t.csv")]) == 0


def test_a_parameter_goes_before_what_is_noted_of_a_run(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    store(folder, 1, parameters={"device": "cuda", "id": 3}, device="a processor")
    table, _ = results.read(folder)
    (row,) = table.rows
    assert row["device"] == "cuda"
    assert row["id"] == f"{1:020x}"
    assert len(table.columns) == len(set(table.columns))


@pytest.mark.parametrize("option", ["--best", "--least"])
def test_an_unknown_column_lists_those_there_are(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert cli.main(["results", str(folder), option, "elbow"]) == 2
    assert "no column 'elbow'; there are: id, latent_dim, rate, mode, flag, elbo," in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_plot_has_the_right_points(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    from matplotlib.axes import Axes

    drawn: list[tuple[list[float], list[float], list[float]]] = []
    true_errorbar = Axes.errorbar

    def errorbar(self: Axes, x: Any, y: Any, errors: Any, **options: Any) -> Any:
        drawn.append((list(x), list(y), list(errors)))
        return true_errorbar(self, x, y, errors, **options)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    path = tmp_path / f"p.{ending}"
    words = ["results", str(folder), "--plot", "rate", "elbo", "--by", "mode", "-o", str(path)]
    assert cli.main(words) == 0
    assert drawn == [([0.5, 0.0, 1.5, 1.0], [-9.0, -10.0, -7.0, -8.0], [0.25] * 4)]
    assert path.read_bytes().startswith({"svg": b"<?xml", "png": b"\x89PNG"}[ending])
    drawn.clear()
    assert cli.main(["results", str(folder), "--plot", "latent_dim", "elbo", "--by", "flag"]) == 0
    assert drawn == [([1.0, 0.0], [-9.0, -7.0], [0.25] * 2), ([0.0, 2.0], [-10.0, -8.0], [0.25] * 2)]
    assert (folder / "plot.svg").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plot", "rate", "elbow"], "no column 'elbow'"),
        (["--plot", "rate", "elbo", "--by", "what"], "no column 'what'"),
        (["--plot", "mode", "elbo"], "no run has numbers in both 'mode' and 'elbo'"),
        (["--plot", "rate", "elbo", "-o", "p.xyz"], "the picture cannot be written"),
        (["--plot", "rate", "elbo", "-o", "missing/p.svg"], "FILE cannot be written"),
        (["--csv", "missing/t.csv"], "FILE cannot be written"),
        (["--by", "rate"], "--by and --out need --plot"),
        (["-o", "p.svg"], "--by and --out need --plot"),
    ],
)
def test_wrong_usage_writes_nothing(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["results", str(folder), *words]) == 2
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{}")
    assert cli.main(["results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "holds no record of a run\nx.json is no record and was skipped" in error
    assert cli.main(["results", str(tmp_path / "missing")]) == 2


# Two runs


def executed(path: Path, parameters: dict[str, object], **values: tuple[float, float | None]) -> None:
    source = 'latent_dim: int = 2  # m\nmode: str = "a"\nrate: float = 0.5'
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})]
    for name, (value, stderr) in values.items():
        data = {"application/vnd.vaebook.record+json": {"name": name, "value": value, "stderr": stderr}}
        output = nbformat.v4.new_output("display_data", data=data)
        cells.append(nbformat.v4.new_code_cell("", outputs=[output]))
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"papermill": {"parameters": parameters}})
    nbformat.write(notebook, path)


def test_compare_shows_parameters_with_defaults_and_differences_in_standard_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = tmp_path / "a.ipynb", tmp_path / "b.ipynb"
    executed(a, {"latent_dim": 5}, elbo=(-10.0, 0.3), exact=(2.0, None), gone=(1.0, None))
    executed(b, {"mode": "x\ny"}, elbo=(-8.0, 0.4), exact=(2.5, None))
    assert cli.main(["compare", str(a), str(b)]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells == [
        ["a.ipynb", "b.ipynb", "b − a", "in standard errors"],
        ["latent_dim", "5", "2", "differs"],
        ["mode", "a", r"x\ny", "differs"],
        ["rate", "0.5", "0.5"],
        [],
        ["elbo", "-10 ± 0.3", "-8 ± 0.4", "+2", "+4.0"],  # 2 / √(0.3² + 0.4²)
        ["exact", "2", "2.5", "+0.5"],
        ["gone", "1", "–"],
    ]


def test_what_is_no_executed_notebook_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    for path in (bad, tmp_path, tmp_path / "missing"):
        assert cli.main(["compare", str(good), str(path)]) == 2
        assert "cannot be read as an executed notebook" in capsys.readouterr().err


# Many runs


def test_a_thousand_runs_are_listed_and_resumed_in_no_time(tmp_path: Path) -> None:
    """Ten thousand take under 3 s, see benchmarks/sweep.py; a busy machine gets a margin."""
    chapter = tmp_path / "tiny.ipynb"
    cell = nbformat.v4.new_code_cell("seed: int = 0", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), chapter)
    folder = tmp_path / "runs"
    folder.mkdir()
    for job in sweep.plan(chapter, folder, {}, {}, 1000):
        store(folder, 0, id=job.id, parameters=job.values)
    begun = time.monotonic()
    jobs = sweep.plan(chapter, folder, {}, {}, 1000)
    assert sweep.sweep(jobs, folder) == f"all 1000 runs are done, in {folder}"
    assert len(sweep.preview(jobs, folder).splitlines()) == 1001
    table, problems = results.read(folder)
    assert len(results.text(table).splitlines()) == 1001
    assert not problems
    assert time.monotonic() - begun < 5
