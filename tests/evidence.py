"""What long runs found of each chapter: ``notebooks/evidence.json``, which the page of checks shows.

A chapter has an entry for each kind of run, with the digest of the code that ran: a page says where the code has
changed since.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jupytext

ROOT = Path(__file__).parent.parent
STORE = ROOT / "notebooks" / "evidence.json"


def cells_of(stem: str) -> list[str]:
    """The code of a chapter, cell by cell."""
    notebook = jupytext.read(ROOT / "notebooks" / f"{stem}.md")
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def digest(stem: str) -> str:
    return hashlib.sha256("\n\n".join(cells_of(stem)).encode()).hexdigest()[:12]


def store(kind: str, stem: str, found: dict[str, Any]) -> None:
    """Put one chapter's result of one kind of run in its place."""
    everything = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    everything.setdefault(kind, {})[stem] = {"code": digest(stem), **found}
    text = json.dumps(everything, indent=1, sort_keys=True, ensure_ascii=False)
    STORE.write_text(text + "\n", encoding="utf-8")
