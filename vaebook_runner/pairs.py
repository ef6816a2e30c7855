"""A chapter's source and its stored notebook: neither is overwritten unasked while it has what the other lacks."""

import hashlib
import json
from collections.abc import Iterable
from difflib import ndiff
from pathlib import Path
from typing import Any

from vaebook_runner.chapters import read_notebook
from vaebook_runner.files import Failed, printable, write_atomically

MEANT = ("tags", "mystnb")  # what the book reads of a cell's metadata; the rest is what editors note for themselves


def cells_of(notebook: Any) -> list[str]:
    """Digest and first line of each cell that is not empty; editors differ in blank lines around."""
    cells = []
    for cell in (cell for cell in notebook.cells if cell.source.strip()):
        lines, meant = cell.source.strip().splitlines(), {k: cell.metadata[k] for k in MEANT if cell.metadata.get(k)}
        state = json.dumps([cell.cell_type, lines, meant, cell.get("attachments") or {}], sort_keys=True)
        cells.append(f"{hashlib.sha256(state.encode()).hexdigest()[:8]} {printable(lines[0]):.80}")
    return cells


def note(notebook: Any) -> dict[str, str]:
    """What a stored notebook notes of its cells; if it has others, and not those of its source, it was edited."""
    return {"cells": " ".join(cell[:8] for cell in cells_of(notebook))}


def compare(source: Path) -> tuple[list[str], bool]:
    """A line for each cell that only the source or only its stored notebook has, and whether the latter was edited."""
    if not (path := source.with_suffix(".ipynb")).is_file():
        return [f"  there is no {path.name}"], False
    a, notebook, only = cells_of(read_notebook(source)), read_notebook(path), {"-": source.name, "+": path.name}
    b, noted = cells_of(notebook), notebook.metadata.get("vaebook", {}).get("cells", "").split()
    found = [(only[line[0]], line[2:10], line[11:]) for line in ndiff(a, b) if line[0] in only]
    told = [f"  only {name} has{', as it was stored' if cell in noted else ''}: {text}" for name, cell, text in found]
    return told, a != b and [cell[:8] for cell in b] != noted


def check_unedited(sources: Iterable[Path]) -> None:
    """Failed if a stored notebook was edited, with what a refresh would overwrite and how to keep it."""
    found = {source.stem: told for source in sources for told, edited in [compare(source)] if edited}
    if names := " ".join(found):
        told = [line for lines in found.values() for line in lines]
        keep = f"to keep one side: vaebook refresh {names} --take md, or --take ipynb; or copy what you keep into .md"
        raise Failed("\n".join([f"a refresh would drop what was edited in the .ipynb: {names}", *told, keep]))


def take_stored(source: Path) -> None:
    """Write the cells of the stored notebook into the source."""
    import jupytext

    notebook, stored = read_notebook(source), read_notebook(source.with_suffix(".ipynb"))
    notebook.cells = [cell for cell in stored.cells if cell.source.strip()]
    for cell in notebook.cells:
        cell.source = cell.source.strip()
        cell.metadata = {k: cell.metadata[k] for k in MEANT if cell.metadata.get(k)}
    write_atomically(source, jupytext.writes(notebook, fmt="md:myst"))
