"""What long runs found of each chapter: ``pages/evidence.json``, which the page of checks shows.

A chapter has an entry for each kind of run, with the digest of the code that ran: a page says where the code has
changed since.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jupytext

ROOT = Path(__file__).parent.parent
# The scripts that import this are started by themselves too, without pytest's conftest.py.
sys.path.append(str(ROOT / "pages" / "_ext"))
import book_checks  # noqa: E402

STORE = ROOT / "pages" / "evidence.json"
# Chapter 16 runs commands and computes nothing.
COMPUTING = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9]*.md")) if path.stem < "16"]


def cells_of(stem: str) -> list[str]:
    """The code of a chapter, cell by cell."""
    notebook = jupytext.read(ROOT / "notebooks" / f"{stem}.md")
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def digest(stem: str) -> str:
    return book_checks.digest(cells_of(stem))


def store(kind: str, stem: str, found: dict[str, Any]) -> None:
    """Put one chapter's result of one kind of run in its place."""
    everything = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    everything.setdefault(kind, {})[stem] = {"code": digest(stem), **found}
    text = json.dumps(everything, indent=1, sort_keys=True, ensure_ascii=False)
    STORE.write_text(text + "\n", encoding="utf-8")
