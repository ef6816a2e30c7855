"""What a chapter is: where its source lies, how it is read, when it has changed.

A chapter is ``notebooks/NN_name.md``, a MyST notebook.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vaebook
from vaebook.runner.files import UsageError, digest, files_below
from vaebook.runner.parameters import Value

SIDE = ("runner", "cli.py")


@dataclass(frozen=True)
class Book:
    """The project that ``_toc.yml`` describes: its chapters' sources and its other pages."""

    root: Path
    chapters: tuple[Path, ...]
    pages: tuple[Path, ...]


def find_root(start: Path | None = None) -> Path | None:
    """The nearest folder, from the current one upwards, with ``_toc.yml`` and ``notebooks/``."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "_toc.yml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return None


def read_book() -> Book:
    """Read the table of contents of the project around the current folder.

    Raises:
        UsageError: if there is no project here, or its table of contents names a missing file.
    """
    import yaml  # type: ignore[import-untyped]

    root = find_root()
    if root is None:
        raise UsageError(
            f"no book here: neither {Path.cwd()} nor a folder above it has _toc.yml and notebooks/"
        )
    try:
        toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"_toc.yml cannot be read: {error}") from None
    names = list(_names(toc))
    chapters = [name for name in names if name.startswith("notebooks/")]
    pages = [name for name in names if not name.startswith("notebooks/")]
    return Book(
        root,
        tuple(_source(root, name) for name in chapters),
        tuple(_source(root, name) for name in pages),
    )


def _names(toc: Any) -> Iterator[str]:
    """Every ``root`` and ``file`` of a table of contents, in reading order."""
    if isinstance(toc, list):
        for entry in toc:
            yield from _names(entry)
    elif isinstance(toc, dict):
        for key, value in toc.items():
            if key in ("root", "file"):
                yield str(value)
            elif isinstance(value, list):
                yield from _names(value)


def _source(root: Path, name: str) -> Path:
    # A chapter's entry names the .ipynb that is rendered; its source is the .md beside it.
    path = root / (name if name.endswith((".md", ".ipynb")) else f"{name}.md")
    path = path.with_suffix(".md")
    if not path.is_file():
        raise UsageError(f"_toc.yml lists {name}, but there is no {path.relative_to(root)}")
    return path


def find_notebook(name: str) -> Path:
    """The notebook that ``name`` means: a path to .md or .ipynb, or the stem of a chapter.

    A stem finds the MyST source; the stored .ipynb stands in only where there is no source.

    Raises:
        UsageError: if there is no such notebook; the message lists the chapters there are.
    """
    path = Path(name)
    if path.suffix in (".md", ".ipynb") and path.is_file():
        return path
    root = find_root()
    if root is None:
        raise UsageError(
            f"no notebook {name!r}: not a path to .md or .ipynb, and no book (a folder with "
            f"_toc.yml and notebooks/) at or above {Path.cwd()}"
        )
    folder = root / "notebooks"
    if path.name == name:
        stem = path.stem if path.suffix in (".md", ".ipynb") else name
        for candidate in (folder / f"{stem}.md", folder / f"{stem}.ipynb"):
            if candidate.is_file():
                return candidate
    known = sorted({path.stem for path in folder.glob("[0-9]*.md")})
    raise UsageError(f"no notebook {name!r}; the chapters are: {', '.join(known)}")


def read_notebook(path: Path) -> Any:
    """Read a notebook from MyST text or from .ipynb, with cell ids that depend on sources alone.

    Raises:
        UsageError: if the file is not a notebook.
    """
    import jupytext

    try:
        notebook = jupytext.read(path)
        _name_cells(notebook.cells)
    except Exception as error:  # Readers of broken files raise whatever they stumble over.
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} cannot be read as a notebook ({reason})") from None
    return notebook


def _name_cells(cells: list[Any]) -> None:
    """Identify each cell by a hash of its source, and equal cells by a counter as well."""
    seen: dict[str, int] = {}
    for cell in cells:
        name = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        seen[name] = seen.get(name, 0) + 1
        cell["id"] = name if seen[name] == 1 else f"{name}-{seen[name]}"


def fingerprint(source: Path, root: Path, values: Mapping[str, Value]) -> str:
    """SHA-256 of all that a chapter's outputs depend on.

    That is what it is made from (:func:`source_state`) and the parameters it is given. A text
    parameter that names files stands for their contents too.
    """
    return with_values(source_state(source, root), values)


def source_state(source: Path, root: Path) -> str:
    """SHA-256 of a chapter's source, the module it imports, and the locked versions of the rest.

    What a chapter reads besides lies in a folder of its name beside it, and counts as its source.
    """
    module = Path(vaebook.__file__).parent
    # Few chapters use what runs the chapters: a change there makes no other out of date.
    uses_side = re.search(r"vaebook\.(runner|cli)\b", source.read_text(encoding="utf-8", errors="replace"))
    left_out = () if uses_side else SIDE
    imported = [path for path in files_below(module) if path.relative_to(module).parts[0] not in left_out]
    lock = root / "requirements.lock"
    parts = [
        digest(source.parent, [source, *files_below(source.with_suffix(""))]),
        digest(module, imported),
        digest(root, [lock]) if lock.is_file() else "",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def with_values(state: str, values: Mapping[str, Value]) -> str:
    """SHA-256 of a source's state and of the parameters that it is given."""
    parts = [
        state,
        json.dumps(sorted(values.items())),
        *(_named_files(value) for value in values.values() if isinstance(value, str)),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _named_files(value: str) -> str:
    """State of the file or folder that ``value`` may name: a reader's own images can change."""
    try:
        path = Path(value).expanduser().resolve()
        if not value or not path.exists():
            return ""
    except (OSError, ValueError, RuntimeError):  # too long for a name, or of no home
        return ""
    files = files_below(path) if path.is_dir() else [path]
    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return json.dumps(states)
