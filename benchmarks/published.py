"""The published table, from the records that the book stores: nothing is trained here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Row

RECORDS = ROOT / "notebooks" / "15_published_table"
# Objective, k and budget of a cell, with what the paper reports in nats.
PAPER = {
    ("vae", 1, "full"): 86.76,
    ("iwae", 1, "full"): 86.76,
    ("vae", 5, "full"): 86.47,
    ("iwae", 5, "full"): 85.54,
    ("vae", 50, "ramp"): 86.35,
    ("iwae", 50, "ramp"): 84.78,
    ("iwae", 50, "warm"): 84.88,
}
MOST_NATS, MOST_MINUTES = 0.6, 45.0
LAYERS = {"dataset": "mnist", "latent_dim": 50, "hidden": 200, "passes": 0}


def rows(quick: bool = False, folder: Path = RECORDS) -> list[Row]:
    done = [run for run in map(read, sorted(folder.glob("*.json"))) if run["status"] == "done"]
    first = found(done, ("vae", 1, "full"))
    minutes = [run["seconds"] / 60 for run in first]
    name = "published table, VAE, k = 1: time to train and to evaluate"
    differences = [difference(found(done, cell), cell) for cell in PAPER]
    return [*differences, Row(name, minutes, "min", most=MOST_MINUTES, note=origin(first))]


def difference(runs: list[dict[str, Any]], cell: tuple[str, int, str]) -> Row:
    """How far our negative log-likelihood lies above the paper's, a value for each seed."""
    objective, k, budget = cell
    start = ", warm start" * (budget == "warm")
    nats = [run["values"]["published-nll"]["value"] - PAPER[cell] for run in runs]
    label = f"published table, {objective.upper()}, k = {k}{start}: above the paper"
    return Row(label, nats, "nats", most=MOST_NATS, note=origin(runs))


def origin(runs: list[dict[str, Any]]) -> str:
    return f"on {runs[0]['device']}, {runs[0]['began'][:10]}" if runs else "no record"


def read(file: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return record


def found(runs: list[dict[str, Any]], cell: tuple[str, int, str]) -> list[dict[str, Any]]:
    wanted = LAYERS | dict(zip(("objective", "k", "budget"), cell, strict=True))
    return [run for run in runs if wanted.items() <= run["parameters"].items()]
