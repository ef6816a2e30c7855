"""What the runs of a folder measured, as a table of pandas; and two runs compared."""

import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pandas

from vaebook_runner import records
from vaebook_runner.files import UsageError, printable
from vaebook_runner.parameters import parameters_of, values_of
from vaebook_runner.records import Measured

ABOUT = ("chapter", "status", "seconds", "cell_seconds", "began", "device", "commit", "error")

Columns = dict[str, dict[int, Any]]  # by the number of the run


def read(folder: Path) -> tuple[pandas.DataFrame, list[str]]:
    """The runs recorded in a folder, oldest first, and a line for each file that was skipped or is not as recorded."""
    found, problems = records.read_all(folder)
    if not found:
        raise UsageError("\n".join([f"DIR needs to be a folder with records of runs, got {folder}", *problems]))
    for name, record in found.items():
        notebook = folder / f"{name}.ipynb"  # records may be kept without their notebooks
        if os.path.lexists(notebook) and record.status == "done" and not record.is_done(notebook):
            problems.append(f"{notebook.name} is not the notebook that its record speaks of")
    runs = sorted(found.values(), key=lambda record: record.began)
    parameters, values, about = Columns(), Columns(), Columns()
    known = {"id", *ABOUT}
    for k, run in enumerate(runs):
        for name, value in run.parameters.items():
            parameters.setdefault(f"parameter {name}" if name in known else name, {})[k] = value
        for name in ("id", *ABOUT):
            about.setdefault(name, {})[k] = getattr(run, name)
    for k, run in enumerate(runs):
        for name, measured in run.values.items():
            title = f"recorded {name}" if name in known | set(parameters) else name
            values.setdefault(title, {})[k] = measured.value
            values.setdefault(f"{title}.stderr", {})[k] = measured.stderr
    columns = {"id": about.pop("id")} | parameters | values | about
    return pandas.DataFrame({n: column([c.get(k) for k in range(len(runs))]) for n, c in columns.items()}), problems


def column(values: list[Any]) -> pandas.Series:
    """Values with the type that they share; whole numbers with gaps stay what they are, where pandas makes floats."""
    floats = {type(value) for value in values if value is not None} == {float}
    return pandas.Series(values, dtype=float if floats else object if None in values else None)


def text(table: pandas.DataFrame) -> str:
    """The columns in which runs differ, as many as the terminal has room for."""
    shown = pandas.DataFrame({"id": table["id"].str[:8]})
    for name in ("status", *(n for n in table if n not in ("id", *ABOUT) and not n.endswith(".stderr")), "seconds"):
        errors = table.get(f"{name}.stderr")
        if name == "seconds" or table[name].nunique(dropna=False) > 1 or (errors is not None and len(table) == 1):
            shown[printable(name)] = list(map(cell, table[name], [None] * len(table) if errors is None else errors))
    kept, room = len(shown.columns), shutil.get_terminal_size((200, 24)).columns
    while kept > 1 and len(shown.iloc[:, :kept].to_string(index=False, max_colwidth=40).partition("\n")[0]) > room:
        kept -= 1
    left_out = f"\n{len(shown.columns) - kept} more columns do not fit here; --csv FILE writes them all"
    return shown.iloc[:, :kept].to_string(index=False, max_colwidth=40) + left_out * (kept < len(shown.columns))


def cell(value: Any, stderr: float | None = None) -> str:
    """A value as the table shows it, with its standard error if it has one, as an Estimate, which would load torch."""
    if value is None or value != value:
        return "–"
    if stderr and math.isfinite(stderr):
        return "{0:.{2}f} ± {1:.{2}f}".format(value, stderr, max(0, 1 - math.floor(math.log10(stderr))))
    return f"{value:.5g}" if isinstance(value, float) else printable(value)


def write_csv(table: pandas.DataFrame, path: Path) -> None:
    """All columns, numbers with all digits; a text that a spreadsheet would compute gets an apostrophe in front."""

    def guard(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(tuple("=+-@\t\r")) else value

    guarded = {guard(n): pandas.Series(list(map(guard, table[n])), dtype=table[n].dtype) for n in table}
    pandas.DataFrame(guarded).to_csv(path, index=False, lineterminator="\r\n")


def compare(a: Path, b: Path) -> str:
    """Two runs' parameters and values side by side, with b − a, for estimates also in its standard errors."""
    (parameters_a, values_a), (parameters_b, values_b) = contents(a), contents(b)
    lines = []
    for name in {**parameters_a, **parameters_b}:
        left, right = (printable(side.get(name, "–")) for side in (parameters_a, parameters_b))
        lines.append((printable(name), left, right, "" if left == right else "differs", ""))
    for name in {**values_a, **values_b}:
        one, two = values_a.get(name), values_b.get(name)
        left, right = (cell(m.value, m.stderr) if m else "–" for m in (one, two))
        gap = two.value - one.value if one and two else None
        stderr = math.hypot(one.stderr or 0, two.stderr or 0) if one and two else 0
        in_errors = f"{round(gap / stderr, 1) or 0:+.1f}".replace("+0.0", "0.0") if gap is not None and stderr else ""
        lines.append((printable(name), left, right, "" if gap is None else f"{gap:+.4g}" if gap else "0", in_errors))
    names = [printable(re.sub(r"^([0-9a-f]{8})[0-9a-f]{12}\b", r"\1", run.name)) for run in (a, b)]  # as in the table
    table = pandas.DataFrame(lines, columns=["name", *names, "b − a", "÷ its std. error"])
    return table.set_index("name").rename_axis(None).to_string()


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Measured]]:
    """The parameters and the recorded values of a run, from its record or its executed notebook; else UsageError."""
    try:
        if path.suffix == ".json":
            record = records.read(path)
            return dict(record.parameters), dict(record.values)
        notebook = nbformat.read(path, as_version=4)
        given = notebook.metadata.get("papermill", {}).get("parameters", {})
        return values_of(parameters_of(notebook, path.stem), given), records.recorded_values(notebook)
    except Exception as error:  # readers of broken files raise whatever they stumble over
        raise UsageError(f"{path} cannot be read as a record or an executed notebook: {error!r}") from None
