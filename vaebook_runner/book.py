"""The book: execute the chapters that changed, render the pages, store outputs beside the sources."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from vaebook_runner import pairs
from vaebook_runner.chapters import Book, read_notebook
from vaebook_runner.execute import cores
from vaebook_runner.files import Failed, digest, files_below, write_atomically
from vaebook_runner.jobs import Job
from vaebook_runner.plain import Names, names_of, plain
from vaebook_runner.sweep import here, sweep

RENDERERS = [Path(__file__).with_name(name) for name in ("book.py", "plain.py")]  # pages depend on them


def execute_changed(jobs: Sequence[Job], at_once: int | None) -> None:
    """Execute the chapters that are not up to date; Failed if some failed, when all others have run."""
    if not all(job.is_done() for job in jobs):
        # On a fresh machine matplotlib builds a font cache and says so, which must not land in a chapter.
        import matplotlib.font_manager  # noqa: F401
    # The later chapters train models and take longest: begin with them.
    click.echo(sweep(jobs[::-1], partial(here, min(at_once or cores(), len(jobs)))), err=True)


def store(source: Path, executed: Path, over: bool = False) -> bool:
    """Write the outputs of ``executed`` with the cells of ``source`` to the .ipynb beside it, if that changes it."""
    import nbformat

    pairs.check_unedited([] if over else [source])
    notebook, ran = read_notebook(source), nbformat.read(executed, as_version=4)
    for cell, done in zip(notebook.cells, ran.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = done.outputs, done.execution_count
    # Nothing is stored that depends on the machine or the moment, so that equal outputs give an equal file.
    pair = {k: v for k, v in notebook.metadata.get("jupytext", {}).items() if k != "text_representation"}
    kernel, language = notebook.metadata.kernelspec, {"name": "python"}
    about = {"language_info": language, "vaebook": pairs.note(notebook)}
    notebook.metadata = {"jupytext": pair, "kernelspec": kernel, **about}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    text, stored = nbformat.writes(notebook) + "\n", source.with_suffix(".ipynb")
    if changed := not stored.is_file() or stored.read_text(encoding="utf-8") != text:
        write_atomically(stored, text)
    return changed


def render(book: Book, jobs: Sequence[Job]) -> Path:
    """Render the pages, unless they are up to date, and let them replace the former ones if there was no warning."""
    folder = book.root / "_build"
    stage, html, record = folder / "source", folder / "html", folder / "html.sha256"
    lay_out(book, jobs, stage)
    state = digest([*files_below(stage), *book.chapters, book.root / "requirements.lock", *RENDERERS])
    # The pages themselves count too: one that was deleted or changed by hand comes back.
    if record.is_file() and record.read_text() == state + digest(files_below(html)):
        click.echo("the pages are up to date", err=True)
        return html / "index.html"
    click.echo("rendering the pages", err=True)
    fresh = run_sphinx(stage, folder / "render")
    if (references := fresh / "references.json").is_file():  # for JupyterLab and for runs, which render no pages
        write_atomically(book.root / "notebooks" / "references.json", references.read_text(encoding="utf-8"))
    offer(jobs, fresh / "_sources" / "notebooks", names_of(book.root))
    record.unlink(missing_ok=True)
    shutil.rmtree(html, ignore_errors=True)
    fresh.replace(html)
    write_atomically(record, state + digest(files_below(html)))
    shutil.rmtree(folder / "render")
    return html / "index.html"


def lay_out(book: Book, jobs: Sequence[Job], stage: Path) -> None:
    """Lay out a folder with what Sphinx reads and nothing else."""
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(book.root / "pages", stage / "pages", ignore=shutil.ignore_patterns("__pycache__"))
    (stage / "notebooks").mkdir()
    for name in ("_config.yml", "_toc.yml"):
        shutil.copyfile(book.root / name, stage / name)
    for job in jobs:
        shutil.copyfile(job.notebook, stage / "notebooks" / job.notebook.name)
    (stage / "genindex.md").write_text("# Index\n")  # Sphinx fills it


def run_sphinx(stage: Path, target: Path) -> Path:
    """Render the folder ``stage`` with Jupyter Book below ``target``; returns the folder of pages."""
    shutil.rmtree(target, ignore_errors=True)
    # Without an optional part of jsonschema that takes a second. -W and -n: a broken reference stops the build.
    start = "import sys; sys.modules['rfc3987_syntax'] = None; from jupyter_book.cli.main import main; main()"
    options = ["--path-output", str(target), "-W", "-n", "--keep-going"]
    command = [sys.executable, "-c", start, "build", str(stage), *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    log = target.with_suffix(".log")
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    html = target / "_build" / "html"
    if done.returncode != 0 or not (html / "index.html").is_file():
        raise Failed(f"{done.stderr.strip()}\n\nrendering failed; the whole log is in {log}")
    return html


def offer(jobs: Sequence[Job], folder: Path, names: Names) -> None:
    """Write what a chapter's page offers for download: the executed chapter as a plain notebook, and its source."""
    import nbformat

    for job in jobs:
        chapter = plain(nbformat.read(job.notebook, as_version=4), f"notebooks/{job.name}", names)
        write_atomically(folder / f"{job.name}.ipynb", nbformat.writes(chapter) + "\n")
        shutil.copyfile(job.source, folder / f"{job.name}.md")
