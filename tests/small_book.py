"""A book of two short chapters, for tests of what plans, executes and renders a book."""

from pathlib import Path

import nbformat
from sources import HEADER

from vaebook_runner import records
from vaebook_runner.jobs import Job

CONFIG = """\
title: Sample
only_build_toc_files: true
execute:
  execute_notebooks: "off"
"""
TOC = """\
format: jb-book
root: pages/intro
parts:
  - caption: Chapters
    numbered: 1
    chapters:
      - file: notebooks/01_first.ipynb
      - file: notebooks/02_second.ipynb
  - caption: Appendix
    chapters:
      - file: genindex
"""


def myst(title: str, *cells: str) -> str:
    """A MyST notebook whose first cell declares parameters."""
    blocks = [f"```{{code-cell}} ipython3\n:tags: [parameters]\n\n{cells[0]}\n```"]
    blocks += [f"```{{code-cell}} ipython3\n{cell}\n```" for cell in cells[1:]]
    return HEADER + "\n\n".join([f"# {title}", *blocks]) + "\n"


def write_project(root: Path) -> Path:
    for folder in ("notebooks", "pages"):
        (root / folder).mkdir(parents=True)
    (root / "_toc.yml").write_text(TOC)
    (root / "_config.yml").write_text(CONFIG)
    (root / "pages" / "intro.md").write_text("# Welcome\n")
    (root / "requirements.lock").write_text("torch==2\n")
    first = myst("First", "seed: int = 1  # of the generator", "print('seed', seed)", "print('seed', seed)")
    second = myst("Second", "seed: int = 2\nrate: float = 0.5  # step", "print(seed, rate)")
    (root / "notebooks" / "01_first.md").write_text(first)
    (root / "notebooks" / "02_second.md").write_text(second)
    return root


def pretend(jobs: list[Job]) -> list[str]:
    """Record each job that is not done as if it had been executed; returns their names."""
    rest = [job for job in jobs if not job.is_done()]
    for job in rest:
        job.notebook.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(), job.notebook)
        size = job.notebook.stat().st_size
        record = records.Record(id=job.id, status="done", chapter=job.name, parameters=job.values, notebook_bytes=size)
        job.record.write_text(record.model_dump_json())
    return [job.name for job in rest]


def printed(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
