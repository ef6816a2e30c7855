"""The notebooks stored beside their sources: the outputs that a reader sees and nbval compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vaebook.runner.chapters import read_notebook
from vaebook.runner.files import ipynb_text, read_ipynb, write_atomically


def store(source: Path, executed: Path) -> bool:
    """Write the outputs of ``executed`` with the cells of ``source`` to the .ipynb beside it.

    Nothing is stored that depends on the machine or the moment, so equal outputs give an equal
    file. Returns whether the stored notebook changed.
    """
    notebook = read_notebook(source)
    ran = read_ipynb(executed)
    for cell, done in zip(notebook.cells, ran.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = done.outputs, done.execution_count
    notebook.metadata = _metadata(notebook.metadata)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    text = ipynb_text(notebook)
    stored = source.with_suffix(".ipynb")
    if stored.is_file() and stored.read_text(encoding="utf-8") == text:
        return False
    write_atomically(stored, text)
    return True


def in_step(source: Path) -> bool:
    """Whether the stored notebook has exactly the cells of its source, outputs aside."""
    stored = source.with_suffix(".ipynb")
    return stored.is_file() and _inputs(read_notebook(source)) == _inputs(read_notebook(stored))


def _inputs(notebook: Any) -> list[tuple[str, str, dict[str, Any]]]:
    return [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in notebook.cells]


def _metadata(metadata: Any) -> dict[str, Any]:
    """What Jupytext needs to see the pair, and any tool to find kernel and language."""
    jupytext = dict(metadata.get("jupytext", {}))
    jupytext.pop("text_representation", None)  # That of the .md, not of the .ipynb.
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "jupytext": jupytext,
        "kernelspec": metadata.get("kernelspec", kernel),
        "language_info": {"name": "python"},
    }
