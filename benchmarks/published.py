"""The first cell of the published table, from the record that the book stores: nothing is trained here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Row

RECORDS = ROOT / "notebooks" / "15_published_table"
CELL = {"dataset": "mnist", "objective": "vae", "k": 1, "budget": "full"}
NAME = "published table, VAE, k = 1"
MOST_NATS, MOST_MINUTES = 87.3, 45.0


def rows(quick: bool = False, folder: Path = RECORDS) -> list[Row]:
    found = [run for run in map(read, sorted(folder.glob("*.json"))) if is_the_cell(run)]
    nll = [run["values"]["published-nll"]["value"] for run in found]
    minutes = [run["seconds"] / 60 for run in found]
    note = f"on {found[0]['device']}, {found[0]['began'][:10]}" if found else "no record"
    return [
        Row(f"{NAME}: negative log-likelihood", nll, "nats", most=MOST_NATS, note=note),
        Row(f"{NAME}: time to train and to evaluate", minutes, "min", most=MOST_MINUTES, note=note),
    ]


def read(file: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return record


def is_the_cell(run: dict[str, Any]) -> bool:
    return run["status"] == "done" and CELL.items() <= run["parameters"].items()
