"""A chapter is ``notebooks/NN_name.md``, a MyST notebook; what it reads lies in a folder of its name beside it."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

import vaebook
from vaebook_runner.files import UsageError, files_below


class Book(NamedTuple):
    root: Path
    chapters: list[Path]


def find_root(start: Path | None = None) -> Path | None:
    """The nearest folder, from the current one upwards, with ``_toc.yml`` and ``notebooks/``."""
    here = (start or Path.cwd()).resolve()
    books = (f for f in (here, *here.parents) if (f / "_toc.yml").is_file() and (f / "notebooks").is_dir())
    return next(books, None)


def read_book() -> Book:
    """The project around the current folder, from its table of contents; UsageError if that names a missing file."""
    if not (root := find_root()):
        raise UsageError(f"no book here: neither {Path.cwd()} nor a folder above it has _toc.yml and notebooks/")
    try:
        names = list(_names(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"_toc.yml cannot be read: {error}") from None
    # A chapter's entry names the .ipynb that is rendered; its source is the .md beside it.
    sources = [root / f"{name.removesuffix('.ipynb').removesuffix('.md')}.md" for name in names]
    if missing := [path.relative_to(root) for path in sources if not path.is_file()]:
        raise UsageError(f"_toc.yml lists a page whose source is missing: there is no {missing[0]}")
    return Book(root, [path for path in sources if path.parent == root / "notebooks"])


def _names(toc: Any) -> Iterator[str]:
    """Every ``root`` and ``file`` of a table of contents, in order; the index is a page that Sphinx makes itself."""
    for key, value in toc.items() if isinstance(toc, dict) else enumerate(toc):
        if key in ("root", "file") and value != "genindex":
            yield value
        elif isinstance(value, dict | list):
            yield from _names(value)


def find_notebook(name: str) -> Path:
    """The notebook that a path to .md or .ipynb means, or a chapter's stem: its source, or else its stored pair."""
    path, folder = Path(name), (find_root() or Path()) / "notebooks"
    stem = path.stem if path.suffix in (".md", ".ipynb") else name
    there = [path] if path.suffix in (".md", ".ipynb") else []
    there += [folder / f"{stem}{suffix}" for suffix in (".md", ".ipynb") if path.name == name]
    for candidate in there:
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(source.stem for source in folder.glob("[0-9]*.md"))) or "those of a folder with _toc.yml"
    raise UsageError(f"no notebook {name!r}: not a path to .md or .ipynb; the chapters are: {known}")


def read_notebook(path: Path) -> Any:
    """Read a notebook from MyST text or .ipynb, with cell ids that depend on sources alone; UsageError if broken."""
    import jupytext

    seen: dict[str, int] = {}
    try:
        notebook = jupytext.read(path)
        for cell in notebook.cells:  # equal cells are told apart by a counter
            name = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
            seen[name] = seen.get(name, 0) + 1
            cell["id"] = name if seen[name] == 1 else f"{name}-{seen[name]}"
    except Exception as error:  # readers of broken files raise whatever they stumble over
        raise UsageError(f"{path} cannot be read as a notebook ({type(error).__name__}: {error})") from None
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata.kernelspec = {**kernel, **notebook.metadata.get("kernelspec", {})}
    return notebook


def made_from(source: Path) -> list[Path]:
    """Every file that a chapter's outputs depend on: its source, what it reads, the module, the lock."""
    source, module = source.resolve(), files_below(Path(vaebook.__file__).parent)
    # Few chapters use what runs the chapters: a change there makes no other out of date.
    if re.search(r"\bvaebook_runner\b", source.read_text(encoding="utf-8", errors="replace")):
        module += files_below(Path(__file__).parent)
    root = find_root(source.parent) or source.parent
    return [source, *files_below(source.with_suffix("")), *module, root / "requirements.lock"]


def was_executed(path: Path) -> bool:
    """Whether a file is a notebook that papermill has executed, or a page of one."""
    with suppress(OSError, ValueError, TypeError):
        content = path.read_text(encoding="utf-8")
        page = path.suffix == ".html"  # html_page.j2 writes this into its head
        return 'content="vaebook run"' in content if page else "papermill" in json.loads(content)["metadata"]
    return False
