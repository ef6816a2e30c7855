"""Errors that a user meets, and files that are written whole or not at all."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from click import ClickException


class UsageError(ClickException):
    exit_code = 2  # the command cannot do what it was asked for: nothing was executed, nothing written


class Failed(ClickException):
    exit_code = 1  # of a cell, a run or the rendering; the message says which and why


def printable(text: object) -> str:
    """One line without control characters, which a file from elsewhere might send to the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` under a temporary name in the same folder, then move it to ``path``, or to where a link leads."""
    path = path.resolve()
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def digest(paths: Iterable[Path | str]) -> str:
    """SHA-256 over the names and contents of files, in their order; a missing file counts as empty."""
    total = hashlib.sha256()
    for path in map(Path, paths):
        content = hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()
        total.update(f"{path.parent.name}/{path.name}\0{content}\n".encode())
    return total.hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Every file below ``folder`` in a fixed order, without hidden ones and Python's compiled copies."""
    found = (p.relative_to(folder).parts for p in folder.rglob("*") if p.is_file())
    return sorted(folder.joinpath(*p) for p in found if not any(n.startswith((".", "__pycache__")) for n in p))
