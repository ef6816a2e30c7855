"""What the runs of a folder measured: as a table, as files, as a plot; and two runs compared."""

from __future__ import annotations

import csv
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from vaebook.runner import records
from vaebook.runner.files import UsageError, read_ipynb
from vaebook.runner.parameters import Value, declared_parameters, default_values
from vaebook.runner.records import Measured, Record, printable
from vaebook.runner.runs import is_done

Cell = Value | None
STDERR = ".stderr"
ABOUT = ("chapter", "status", "seconds", "cell_seconds", "attempts", "began", "device", "commit", "error")
LARGEST_NOTEBOOK = 100_000_000


@dataclass(frozen=True)
class Table:
    """Rows of runs. Every row has every column; what a run has not is None."""

    parameters: tuple[str, ...]
    values: tuple[str, ...]
    rows: tuple[Mapping[str, Cell], ...]

    @property
    def columns(self) -> list[str]:
        """The names in a fixed order: id, parameters, values each with its standard error, and the rest."""
        pairs = [name for value in self.values for name in (value, value + STDERR)]
        # What a chapter calls "device" goes before the run's own.
        return list(dict.fromkeys(["id", *self.parameters, *pairs, *ABOUT]))


def read(folder: Path) -> tuple[Table, list[str]]:
    """The runs recorded in a folder, and a line for each file that was skipped or does not fit its record.

    Raises:
        UsageError: if there is no such folder, or no record in it.
    """
    if not folder.is_dir():
        raise UsageError(f"DIR needs to be a folder of runs, got {folder}")
    found, problems = records.read_all(folder)
    if not found:
        raise UsageError("\n".join([f"{folder} holds no record of a run", *problems]))
    for record in found.values():
        # Records may be kept without their notebooks; a notebook that is there has to be the right one.
        there = os.path.lexists(folder / f"{record.id}.ipynb")
        if there and record.status == "done" and not is_done(folder, record):
            problems.append(f"{record.id}.ipynb is not the notebook that its record speaks of")
    parameters = tuple(dict.fromkeys(name for r in found.values() for name in r.parameters))
    values = tuple(dict.fromkeys(name for r in found.values() for name in r.values))
    rows = sorted((row(r, parameters, values) for r in found.values()), key=lambda r: str(r["began"]))
    return Table(parameters, values, tuple(rows)), problems


def row(record: Record, parameters: Sequence[str], values: Sequence[str]) -> dict[str, Cell]:
    cells: dict[str, Cell] = {name: getattr(record, name) for name in ABOUT}
    for name in values:
        measured = record.values.get(name)
        cells[name] = measured.value if measured else None
        cells[name + STDERR] = measured.stderr if measured else None
    return cells | {name: record.parameters.get(name) for name in parameters} | {"id": record.id}


def ordered(table: Table, column: str, largest_first: bool) -> Table:
    """The table with its rows in the order of a column; rows without a value there come last.

    Raises:
        UsageError: if there is no such column.
    """
    known(table, column)
    have = [r for r in table.rows if r[column] is not None]
    have.sort(key=lambda r: (isinstance(r[column], str), r[column]), reverse=largest_first)
    return Table(table.parameters, table.values, (*have, *(r for r in table.rows if r[column] is None)))


def known(table: Table, column: str) -> None:
    """Raise UsageError, which lists the columns, unless ``column`` is one."""
    if column not in table.columns:
        raise UsageError(f"no column {column!r}; there are: {', '.join(table.columns)}")


def text(table: Table) -> str:
    """The columns in which runs differ, as wide as the terminal allows: all others are in the files."""
    names = ["id", *(n for n in (*table.parameters, *table.values) if differs(table, n)), "seconds"]
    if any(r["status"] != "done" for r in table.rows):
        names.insert(1, "status")
    columns = [[name, *(shown(r, name) for r in table.rows)] for name in names]
    widths = [max(map(len, column)) for column in columns]
    room, kept = shutil.get_terminal_size((200, 24)).columns, len(columns)
    while kept > 2 and sum(widths[:kept]) + 2 * kept > room:
        kept -= 1
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip()
        for line in zip(*columns[:kept], strict=True)
    ]
    if kept < len(columns):
        lines.append(f"{len(columns) - kept} more columns do not fit here; --csv FILE writes them all")
    return "\n".join(lines)


def differs(table: Table, name: str) -> bool:
    return len({r[name] for r in table.rows}) > 1 or (name in table.values and len(table.rows) == 1)


def shown(row: Mapping[str, Cell], name: str) -> str:
    value, stderr = row[name], row.get(name + STDERR)
    if value is None:
        return "–"
    if name == "id":
        return str(value)[:8]
    if isinstance(value, float):
        return f"{value:.5g} ± {stderr:.2g}" if isinstance(stderr, float) else f"{value:.5g}"
    return printable(value)


def write_csv(table: Table, path: Path) -> None:
    """All columns as CSV, numbers with all their digits; what is missing is empty."""
    with writing(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, table.columns)
        writer.writeheader()
        writer.writerows(table.rows)


def write_parquet(table: Table, path: Path) -> None:
    """All columns as Parquet, each with its type; what is missing is null.

    Raises:
        UsageError: if pyarrow is not installed, or a parameter is a text in one run and a number in another.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UsageError("--parquet needs pyarrow: pip install 'vaebook[parquet]'") from None
    columns = {name: [r[name] for r in table.rows] for name in table.columns}
    numbers = {name for value in table.values for name in (value, value + STDERR)}
    try:
        arrays = {
            n: pyarrow.array(c, pyarrow.float64() if n in numbers else None) for n, c in columns.items()
        }
    except (pyarrow.ArrowException, OverflowError) as error:
        raise UsageError(f"no Parquet of parameters of several types, or over 64 bits: {error}") from None
    parquet.write_table(pyarrow.table(arrays), writing(path))


def writing(path: Path) -> Path:
    """``path``, if a file may be written there."""
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(f"FILE cannot be written: {path}")
    return path


def plot(table: Table, x: str, y: str, by: str | None, path: Path) -> None:
    """Draw every run as a point with its standard error, and a line through the means at each x.

    Raises:
        UsageError: if there is no such column, or no run has numbers in both.
    """
    for column in filter(None, (x, y, by)):
        known(table, column)
    rows = [r for r in table.rows if all(isinstance(r[c], int | float) for c in (x, y))]
    if not rows:
        raise UsageError(f"no run has numbers in both {x!r} and {y!r}")
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    ax = figure.subplots()
    groups = sorted({r[by] for r in rows}, key=str) if by else [None]
    for group, style in zip(groups, ["o-", "s--", "^:", "D-."] * len(groups), strict=False):
        mine = [r for r in rows if not by or r[by] == group]
        points = [(float(r[x] or 0), float(r[y] or 0), float(r.get(y + STDERR) or 0)) for r in mine]
        at = sorted({point[0] for point in points})
        means = [mean(v for p, v, _ in points if p == position) for position in at]
        (line,) = ax.plot(at, means, style[1:], label=f"{by} = {group}" if by else None)
        xs, ys, errors = zip(*points, strict=True)
        ax.errorbar(xs, ys, errors, fmt=style[0], color=line.get_color(), capsize=3)
    # A "$" in a name is no mathematics.
    ax.set_xlabel(x, parse_math=False)
    ax.set_ylabel(y, parse_math=False)
    for entry in ax.legend().get_texts() if by else []:
        entry.set_parse_math(False)
    try:
        figure.savefig(writing(path))
    except ValueError as error:
        raise UsageError(f"the picture cannot be written: {error}") from None


def compare(a: Path, b: Path) -> str:
    """Two runs' parameters and recorded values side by side, in aligned columns.

    Each is an executed notebook or the record of one. A difference is b − a; where one of them is an
    estimate, also in standard errors of the difference.

    Raises:
        UsageError: if one of them is neither.
    """
    (parameters_a, values_a), (parameters_b, values_b) = contents(a), contents(b)
    lines = [("", a.name, b.name, "b − a", "in standard errors")]
    for name in {**parameters_a, **parameters_b}:
        left, right = parameters_a.get(name, "–"), parameters_b.get(name, "–")
        lines.append((name, printable(left), printable(right), "" if left == right else "differs", ""))
    lines.append(("", "", "", "", ""))
    for name in {**values_a, **values_b}:
        lines.append((printable(name), *difference(values_a.get(name), values_b.get(name))))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def difference(a: Measured | None, b: Measured | None) -> tuple[str, str, str, str]:
    """Both values, their difference, and it in units of its standard error."""
    cells = [shown({"v": m.value, "v.stderr": m.stderr}, "v") if m else "–" for m in (a, b)]
    if not (a and b):
        return cells[0], cells[1], "", ""
    gap, stderr = b.value - a.value, math.hypot(a.stderr or 0.0, b.stderr or 0.0)
    return cells[0], cells[1], f"{gap:+.4g}", f"{gap / stderr:+.1f}" if stderr else ""


def contents(path: Path) -> tuple[dict[str, Value], dict[str, Measured]]:
    """The parameters and the recorded values of a run, from its record or its notebook."""
    if path.suffix != ".json":
        return executed(path)
    try:
        record = records.read(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a record: {error}") from None
    return dict(record.parameters), dict(record.values)


def executed(path: Path) -> tuple[dict[str, Value], dict[str, Measured]]:
    """The parameters and the recorded values of an executed notebook."""
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        if path.stat().st_size > LARGEST_NOTEBOOK:
            raise ValueError(f"it has more than {LARGEST_NOTEBOOK:,} bytes")
        notebook = read_ipynb(path)
        given = notebook.metadata.get("papermill", {}).get("parameters", {})
        defaults = default_values(declared_parameters(notebook, path.stem))
        return {**defaults, **given}, records.values_of(notebook)
    except Exception as error:  # readers of broken files raise whatever they stumble over
        raise UsageError(f"{path} cannot be read as an executed notebook: {error!r}") from None
