"""The published table, from the records that the book stores: nothing is trained here."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Row
from vaebook_runner.chapters import read_notebook

Cell = tuple[str, int, str]  # objective, k and budget
RECORDS = ROOT / "notebooks" / "15_published_table"
CHAPTER = RECORDS.with_suffix(".ipynb")
MOST_NATS, MOST_MINUTES = 0.6, 45.0
LAYERS = {"dataset": "mnist", "latent_dim": 50, "hidden": 200, "passes": 0}


def rows(quick: bool = False, folder: Path = RECORDS) -> list[Row]:
    paper = printed()
    done = [run for run in map(read, sorted(folder.glob("*.json"))) if run["status"] == "done"]
    first = found(done, ("vae", 1, "full"))
    # A run that was interrupted says only how long its last part took.
    minutes = [run["seconds"] / 60 for run in first if not run["values"]["published-resumed"]["value"]]
    name = "published table, VAE, k = 1: time to train and to evaluate"
    differences = [difference(found(done, cell), cell, nats) for cell, (nats, _) in paper.items()]
    return [*differences, Row(name, minutes, "min", most=MOST_MINUTES, note=origin(first))]


def printed() -> dict[Cell, tuple[float, int]]:
    """What the paper reports for each cell, nats and active units, from the chapter that says so."""
    for cell in read_notebook(CHAPTER).cells:
        for node in ast.parse(cell.source).body if cell.cell_type == "code" else ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "paper":
                table: dict[Cell, tuple[float, int]] = ast.literal_eval(node.value)
                return table
    raise LookupError(f"{CHAPTER} has no table named paper")


def difference(runs: list[dict[str, Any]], cell: Cell, paper: float) -> Row:
    """How far our negative log-likelihood lies above the paper's, a value for each seed."""
    objective, k, budget = cell
    start = ", warm start" * (budget == "warm")
    nats = [run["values"]["published-nll"]["value"] - paper for run in runs]
    label = f"published table, {objective.upper()}, k = {k}{start}: above the paper"
    return Row(label, nats, "nats", most=MOST_NATS, note=origin(runs))


def origin(runs: list[dict[str, Any]]) -> str:
    return f"on {runs[0]['device']}, {runs[0]['began'][:10]}" if runs else "no record"


def read(file: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return record


def found(runs: list[dict[str, Any]], cell: Cell) -> list[dict[str, Any]]:
    wanted = LAYERS | dict(zip(("objective", "k", "budget"), cell, strict=True))
    return [run for run in runs if wanted.items() <= run["parameters"].items()]
