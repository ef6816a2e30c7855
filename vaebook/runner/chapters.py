"""What a chapter is: where its source lies, which parameters it declares, when it has changed.

A chapter is ``notebooks/NN_name.md``, a MyST notebook. One of its cells carries the tag
``parameters`` and declares them, one a line: ``name: type = value  # help``.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vaebook
from vaebook.runner.files import digest, files_below

Value = int | float | str | bool


class UsageError(Exception):
    """The request cannot be carried out as it stands: nothing was executed, nothing written."""


def _to_bool(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _to_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


# What each type is called in an error message, and how its text is read.
TYPES: dict[str, tuple[str, Callable[[str], Value]]] = {
    "int": ("a whole number such as 3", int),
    "float": ("a finite number such as 0.2 or 1e-4", _to_float),
    "str": ("text", str),
    "bool": ("true or false", _to_bool),
}


@dataclass(frozen=True)
class Parameter:
    """One declared parameter; its text is the line that declares it.

    >>> print(Parameter("epochs", "int", "3", "passes over the training set"))
    epochs: int = 3  # passes over the training set
    """

    name: str
    type: str
    default: str
    help: str

    def __str__(self) -> str:
        line = f"{self.name}: {self.type} = {self.default}"
        return f"{line}  # {self.help}" if self.help else line

    def parse(self, text: str) -> Value:
        """The value that ``text`` stands for, as a native Python value.

        Raises:
            UsageError: if ``text`` is not of the declared type.

        >>> Parameter("learning_rate", "float", "1e-3", "").parse("1e-4")
        0.0001
        """
        wanted, convert = TYPES[self.type]
        try:
            return convert(text)
        except (ValueError, KeyError):
            raise UsageError(
                f"parameter {self.name!r} is declared as {self.type}: expected {wanted}, got {text!r}"
            ) from None


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


def declared_parameters(notebook: Any, where: str) -> dict[str, Parameter]:
    """The parameters that the cell tagged ``parameters`` declares, by name.

    Raises:
        UsageError: if a line of that cell is not ``name: type = value  # help``.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            return {p.name: p for p in _declarations(cell.source, where)}
    return {}


def _declarations(source: str, where: str) -> Iterator[Parameter]:
    lines = source.splitlines()
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise UsageError(f"{where}: the parameters cell is not Python: {error}") from None
    for statement in statements:
        line = lines[statement.lineno - 1]
        match statement:
            case ast.AnnAssign(
                target=ast.Name(name), annotation=ast.Name(kind), value=ast.expr() as value
            ) if kind in TYPES and statement.end_lineno == statement.lineno:
                # The syntax tree counts columns in bytes, and leaves comments out.
                rest = line.encode()[statement.end_col_offset :].decode()
                default = ast.get_source_segment(source, value) or ""
                yield Parameter(name, kind, default, rest.strip(" #"))
            case _:
                raise UsageError(
                    f"{where}: the parameters cell holds {line!r}; each line must read "
                    f"name: type = value  # help, with a type of {', '.join(TYPES)}"
                )


def parse_values(texts: Mapping[str, str], declared: Mapping[str, Parameter], where: str) -> dict[str, Value]:
    """Native values of the parameters given as text.

    Raises:
        UsageError: if a name is not declared (the message lists those that are), or a value is
            not of the declared type.
    """
    for name in texts:
        if name not in declared:
            known = "".join(f"\n  {parameter}" for parameter in declared.values())
            raise UsageError(f"{where} has no parameter {name!r}; it declares:{known or ' none'}")
    return {name: declared[name].parse(text) for name, text in texts.items()}


def fingerprint(source: Path, root: Path, values: Mapping[str, Value]) -> str:
    """SHA-256 of all that a chapter's outputs depend on.

    That is its source, the module it imports, the locked versions of everything else, and the
    parameters it is given. A text parameter that names files stands for their contents too.
    """
    module = Path(vaebook.__file__).parent
    lock = root / "requirements.lock"
    parts = [
        digest(root, [source]),
        digest(module, files_below(module)),
        digest(root, [lock]) if lock.is_file() else "",
        json.dumps(sorted(values.items())),
        *(_named_files(value) for value in values.values() if isinstance(value, str)),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _named_files(value: str) -> str:
    """State of the file or folder that ``value`` may name: a reader's own images can change."""
    path = Path(value).expanduser().resolve()
    if not value or not path.exists():
        return ""
    files = files_below(path) if path.is_dir() else [path]
    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return json.dumps(states)
