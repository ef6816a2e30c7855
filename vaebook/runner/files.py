"""Write files so that an interrupted run never leaves half of one; and the errors that a user meets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class UsageError(Exception):
    """The request cannot be carried out as it stands: nothing was executed, nothing written."""


class SweepFailed(Exception):
    """Some runs of a sweep did not end well; the message lists them."""


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` under a temporary name in the same folder, then move it there.

    Raises:
        OSError: if the folder is missing or cannot be written; ``path`` is then as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def digest(root: Path, paths: Iterable[Path]) -> str:
    """SHA-256 over the names (relative to ``root``) and contents of ``paths``, in their order."""
    total = hashlib.sha256()
    for path in paths:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Every file below ``folder`` in a fixed order, without Python's compiled copies."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if "__pycache__" not in path.parts)


def read_ipynb(path: Path) -> Any:
    """The notebook in an .ipynb file."""
    import nbformat

    return nbformat.read(path, as_version=4)


def ipynb_text(notebook: Any) -> str:
    """The text of an .ipynb file that holds ``notebook``."""
    import nbformat

    return str(nbformat.writes(notebook)) + "\n"
