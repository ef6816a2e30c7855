"""Build the book: execute the chapters that changed, several at once, and render the pages.

``_build/executed/`` keeps each chapter's executed copy beside a record of what it was made from,
``_build/source/`` is the folder that Sphinx reads, ``_build/html/`` the rendered book.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from vaebook.runner import checks
from vaebook.runner.chapters import Book, fingerprint, read_book, read_notebook
from vaebook.runner.files import UsageError, digest, files_below, write_atomically
from vaebook.runner.parameters import Parameter, Value, declared_parameters, parse_values
from vaebook.runner.processes import cores, end, spawn, with_threads
from vaebook.runner.stored import in_step, store

# The project's own part of Sphinx, and this file: pages depend on them as well.
RENDERERS = [Path(__file__), Path(__file__).with_name("pages.py")]


@dataclass(frozen=True)
class Run:
    """One chapter to execute: its source, and the texts and values of its parameters."""

    source: Path
    root: Path
    texts: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Value] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.root / "_build" / "executed" / f"{self.source.stem}.ipynb"

    @property
    def partial(self) -> Path:
        return self.out.with_suffix(".partial.ipynb")

    @property
    def record(self) -> Path:
        return self.out.with_suffix(".json")

    def fingerprint(self) -> str:
        return fingerprint(self.source, self.root, self.values)


class RunFailed(Exception):
    """A chapter could not be executed, or the pages not be rendered; the message says why."""


def build(texts: Mapping[str, str], fresh: bool = False, jobs: int | None = None) -> Path:
    """Execute what changed, render what changed, and return the path of the first page.

    Raises:
        UsageError: if a parameter is not declared or its value is of the wrong type.
        RunFailed: if a chapter failed (all others have run), or the renderer warned.
    """
    book = read_book()
    execute_changed(plan(book, texts), fresh, jobs)
    return render(book)


def refresh(names: Sequence[str], jobs: int | None = None) -> list[Path]:
    """Execute chapters with their defaults and store their outputs beside their sources.

    Returns the stored notebooks that changed.
    """
    runs = _selected(names)
    execute_changed(runs, fresh=False, jobs=jobs)
    return [run.source.with_suffix(".ipynb") for run in runs if store(run.source, run.out)]


def out_of_step(names: Sequence[str]) -> list[Path]:
    """The stored notebooks whose cells differ from their sources'; writes nothing."""
    sources = [run.source for run in _selected(names)]
    return [source.with_suffix(".ipynb") for source in sources if not in_step(source)]


def _selected(names: Sequence[str]) -> list[Run]:
    book = read_book()
    runs = {source.stem: Run(source, book.root) for source in book.chapters}
    stems = [Path(name).stem for name in names] or list(runs)
    if unknown := [stem for stem in stems if stem not in runs]:
        raise UsageError(f"no chapter {unknown[0]!r}; the chapters are: {', '.join(runs)}")
    return [runs[stem] for stem in dict.fromkeys(stems)]


def plan(book: Book, texts: Mapping[str, str]) -> list[Run]:
    """Give each chapter the parameters it declares.

    Raises:
        UsageError: if no chapter declares a name, or a value is not of the declared type.
    """
    if not texts:
        # Reading notebooks takes seconds that a build with nothing changed need not spend.
        return [Run(source, book.root) for source in book.chapters]
    declared = {source: declared_parameters(read_notebook(source), source.stem) for source in book.chapters}
    for name in texts:
        if not any(name in parameters for parameters in declared.values()):
            raise UsageError(f"no chapter declares the parameter {name!r}; {_listing(declared)}")
    runs = []
    for source, parameters in declared.items():
        mine = {name: text for name, text in texts.items() if name in parameters}
        runs.append(Run(source, book.root, mine, parse_values(mine, parameters, source.stem)))
    return runs


def _listing(declared: Mapping[Path, Mapping[str, Parameter]]) -> str:
    lines = ["declared are:"]
    for source, parameters in declared.items():
        lines += [f"  {source.stem}", *(f"    {parameter}" for parameter in parameters.values())]
    return "\n".join(lines)


def execute_changed(runs: Sequence[Run], fresh: bool, jobs: int | None) -> None:
    """Execute each chapter whose executed copy is missing or was made from something else.

    Raises:
        RunFailed: if any failed, after all have run; the message names each with its error.
    """
    changed = [run for run in runs if fresh or not is_current(run)]
    if not changed:
        say(f"all {len(runs)} chapters are up to date")
        return
    changed[0].out.parent.mkdir(parents=True, exist_ok=True)
    say(f"executing {len(changed)} of {len(runs)} chapters")
    if failures := _execute_all(changed, min(jobs or cores(), len(changed))):
        raise RunFailed("\n\n".join([*failures, f"{len(failures)} of {len(changed)} failed"]))


def is_current(run: Run) -> bool:
    """Whether the executed copy is whole and was made from what is there now."""
    try:
        record = json.loads(run.record.read_text(encoding="utf-8"))
        content = hashlib.sha256(run.out.read_bytes()).hexdigest()
        return bool(record == {"fingerprint": run.fingerprint(), "content": content})
    except (OSError, ValueError):
        return False


def _execute_all(runs: Sequence[Run], jobs: int) -> list[str]:
    """Run each chapter in a process of its own, ``jobs`` at a time; return the failures."""
    # On a fresh machine matplotlib builds a font cache and says so, which must not land in a chapter.
    importlib.import_module("matplotlib.font_manager")
    # The later chapters train models and take longest: begin with them.
    waiting, running, failures = list(runs), list[_Child](), list[str]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                child = _Child(waiting.pop(), max(1, cores() // jobs))
                running.append(child)
                say(f"[{_done(runs, waiting, running)}] {child.run.source.stem}: started")
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                failures += child.finish()
                outcome = f"{child.seconds():.1f} s" if child.ok() else "FAILED"
                say(f"[{_done(runs, waiting, running)}] {child.run.source.stem}: {outcome}")
            time.sleep(0.05)
    finally:
        _stop(running)
    return failures


def _done(runs: Sequence[Run], waiting: Sequence[Run], running: Sequence[_Child]) -> str:
    return f"{len(runs) - len(waiting) - len(running)}/{len(runs)}"


class _Child:
    """A chapter being executed by ``vaebook run`` in a process of its own."""

    def __init__(self, run: Run, threads: int) -> None:
        self.run = run
        # Taken before the chapter is read: an edit while it runs makes it out of date again.
        self.fingerprint = run.fingerprint()
        self.begun = time.monotonic()
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        words = ["run", str(run.source), "--out", str(run.partial)]
        for name, text in run.texts.items():
            words += ["-p", name, text]
        # Kernels side by side share the cores.
        self.process = spawn(words, with_threads(threads), self.log)

    def ok(self) -> bool:
        return self.process.returncode == 0

    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def finish(self) -> list[str]:
        """Keep the executed copy with its record; or keep the part that ran and say what failed."""
        run = self.run
        self.log.seek(0)
        log = self.log.read().decode(errors="replace").strip()
        self.log.close()
        if not self.ok():
            reason = log or f"{run.source.stem}: stopped with exit code {self.process.returncode}"
            return [reason]
        keep(run, self.fingerprint)
        return []


def keep(run: Run, made_from: str) -> None:
    """Make the finished copy the executed one, and record the fingerprint it was made from."""
    content = hashlib.sha256(run.partial.read_bytes()).hexdigest()
    run.partial.replace(run.out)
    record = {"fingerprint": made_from, "content": content}
    write_atomically(run.record, json.dumps(record, indent=1) + "\n")


def _stop(children: Sequence[_Child]) -> None:
    for child in children:
        child.process.send_signal(signal.SIGTERM)
    for child in children:
        end(child.process)
        child.log.close()


def render(book: Book) -> Path:
    """Render the staged pages to ``_build/html``, unless they are there; return the first page.

    The pages are rendered from scratch in a folder that replaces the former book when all went
    well: no page of a removed chapter stays, and a warning is never hidden by an earlier build.

    Raises:
        RunFailed: if Sphinx warned or failed; the former book is then still in place.
    """
    folder = book.root / "_build"
    stage, html, record = folder / "source", folder / "html", folder / "html.sha256"
    _stage(book, stage)
    lock = book.root / "requirements.lock"
    state = digest(book.root, [*files_below(stage), *book.chapters, *([lock] if lock.is_file() else [])])
    state += digest(RENDERERS[0].parent, RENDERERS)
    # The pages as they lie there count too: one that was deleted or changed by hand comes back.
    if record.is_file() and record.read_text() == state + digest(html, files_below(html)):
        say("the pages are up to date")
        return html / "index.html"
    say("rendering the pages")
    fresh = _run_sphinx(stage, folder / "render")
    _write_downloads(book, fresh)
    record.unlink(missing_ok=True)
    if html.exists():
        shutil.rmtree(html)
    fresh.replace(html)
    write_atomically(record, state + digest(html, files_below(html)))
    shutil.rmtree(folder / "render")
    return html / "index.html"


def _stage(book: Book, stage: Path) -> None:
    """Lay out a folder with what Sphinx reads and nothing else."""
    shutil.rmtree(stage, ignore_errors=True)
    (stage / "notebooks").mkdir(parents=True)
    for page in book.pages:
        target = stage / page.relative_to(book.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, target)
    for name in ("_config.yml", "_toc.yml", "index.yml", "references.bib"):
        if (book.root / name).is_file():
            shutil.copyfile(book.root / name, stage / name)
    if (book.root / "_static").is_dir():
        shutil.copytree(book.root / "_static", stage / "_static")
    for source in book.chapters:
        run = Run(source, book.root)
        shutil.copyfile(run.out, stage / "notebooks" / run.out.name)
    if (stage / "checks.md").is_file():
        _write_checks(book, stage / "checks.md")


def _write_checks(book: Book, target: Path) -> None:
    """Fill the page of checks with what the executed chapters compared.

    Raises:
        RunFailed: if a label stands twice, or a check names an equation that is not there.
    """
    chapters = []
    for source in book.chapters:
        executed = json.loads(Run(source, book.root).out.read_text(encoding="utf-8"))
        chapters.append(checks.read(source.stem, executed))
    try:
        target.write_text(checks.page(target.read_text(encoding="utf-8"), chapters), encoding="utf-8")
    except checks.ChecksDisagree as error:
        raise RunFailed(str(error)) from None


def _write_downloads(book: Book, html: Path) -> None:
    """Lay each chapter's source, and its Python script, beside the notebook that Sphinx put there."""
    import jupytext

    folder = html / "_sources" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for source in book.chapters:
        shutil.copyfile(source, folder / source.name)
        script = jupytext.writes(read_notebook(source), fmt="py:percent")
        (folder / f"{source.stem}.py").write_text(script, encoding="utf-8", newline="\n")


def _run_sphinx(stage: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    # -W and -n: a broken reference or an unknown citation stops the build.
    options = ["--path-output", str(target), "-W", "-n", "--keep-going"]
    # Without the module that costs two seconds at import (see vaebook.cli).
    jupyter_book = (
        "import sys; sys.modules['rfc3987_syntax'] = None; from jupyter_book.cli.main import main; main()"
    )
    command = [sys.executable, "-c", jupyter_book, "build", str(stage), *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    log = target.parent / "render.log"
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    html = target / "_build" / "html"
    if done.returncode != 0 or not (html / "index.html").is_file():
        raise RunFailed(f"{done.stderr.strip()}\n\nrendering failed; the whole log is in {log}")
    return html


def say(message: str) -> None:
    """Progress goes to standard error; standard output is for results."""
    print(message, file=sys.stderr, flush=True)
