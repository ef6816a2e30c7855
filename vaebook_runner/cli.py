"""The command line: words become a plan of jobs, and the plan is carried out.

Exit codes: 0 all went well; 1 something failed or is out of step; 2 wrong usage, nothing executed; 130 interrupted.
"""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import click

from vaebook import __version__
from vaebook_runner import book as books, pairs, sweep as sweeps
from vaebook_runner.chapters import find_notebook, find_root, read_book, read_notebook, was_executed
from vaebook_runner.execute import cores, execute, settle
from vaebook_runner.files import Failed, UsageError, printable
from vaebook_runner.html_page import check_parts, write_html
from vaebook_runner.jobs import Job, plan_book, plan_sweep
from vaebook_runner.parameters import parameters_of, read_parameter_file, values_of

SIGNALS = {getattr(signal, name, signal.SIGINT) for name in ("SIGINT", "SIGTERM", "SIGHUP")}
Pairs = tuple[tuple[str, str], ...]
PATH, FILE = click.Path(path_type=Path), click.Path(path_type=Path, dir_okay=False)
pairs_of = partial(click.option, nargs=2, multiple=True)
values = pairs_of("-p", "--parameter", "values", metavar="NAME VALUE", help="A parameter's value; may be repeated.")
params_file = click.option("--params", type=PATH, metavar="FILE", help="Values in a YAML or JSON file; -p goes first.")
at_once = click.option("--jobs", "at_once", type=click.IntRange(1, cores()), help="Notebooks at once (default: cores).")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` and return the exit code."""
    settle()
    for stream in (sys.stdout, sys.stderr):  # a pipe on Windows, or LANG=C, may not know σ and −
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    for number in SIGNALS:
        if number != signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # as behind a script's &
            signal.signal(number, interrupt)
    try:
        return int(commands.main(argv, prog_name="vaebook", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        print("vaebook: interrupted", file=sys.stderr)
        return 130
    except OSError as error:  # a disk that is full, a file that may not be read, a reader that has gone
        if not isinstance(error, BrokenPipeError):
            print(f"Error: {error.strerror or error}{f': {error.filename}' * bool(error.filename)}", file=sys.stderr)
        with suppress(OSError, ValueError):  # or the interpreter would try once more, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def interrupt(_: int, __: object) -> None:
    """A terminated command must still stop its kernels, and a second signal not cut that short."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def given(values: Pairs, params: Path | None = None) -> dict[str, object]:
    """The parameters of a file, and over them those of the command line, where each may be given once."""
    names = [name for name, _ in values]
    if len(set(names)) < len(names):
        raise UsageError(f"parameter {max(names, key=names.count)!r} is given more than once")
    return (read_parameter_file(params) if params else {}) | dict(values)


def writable(path: Path, name: str) -> Path:
    """``path``, if a file may be written there."""
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"{name} cannot be written: {path} needs to be a file in a folder that can be written")
    return path


def preview(jobs: Sequence[Job]) -> None:
    """Print a line for each run that says whether it is done."""
    for job in jobs:
        click.echo(f"{'done ' if job.is_done() else 'to do'} {job.label}")
    click.echo(f"{len(jobs)} runs, {sum(job.is_done() for job in jobs)} done")


@click.group()
@click.version_option(__version__)
def commands() -> None:
    """An executable book on variational auto-encoders."""


@commands.command()
@click.argument("notebook")
@values
@params_file
@click.option("-o", "--out", type=FILE, metavar="OUT", help="A .ipynb (default: STEM.out.ipynb here) or .html.")
def run(notebook: str, values: Pairs, params: Path | None, out: Path | None) -> None:
    """Execute a chapter (08_training, or a path to .md or .ipynb), and keep the notebook, or a page of it to send."""
    source = find_notebook(notebook)
    out = writable(out or Path(f"{source.stem}.out.ipynb"), "OUT")
    if out.suffix not in (".ipynb", ".html") or out.resolve() == source.resolve() or out.with_suffix(".md").is_file():
        wanted = "to end in .ipynb or .html, and not to be a notebook with a source of its own"
        raise UsageError(f"OUT needs {wanted}, got {out}")
    content = read_notebook(source)
    parsed = values_of(parameters_of(content, source.stem), given(values, params), defaults=False)
    with suppress(UsageError):  # of the other file, which nobody asked for
        if source.with_suffix(".ipynb").is_file() and pairs.compare(source.with_suffix(".md"))[0]:
            click.echo(f"{source.name} is run, and its pair differs: see vaebook refresh --check", err=True)
    if out.exists() and not was_executed(out):
        raise UsageError(f"OUT would overwrite {out}, which no run has made; give another name")
    page = out.suffix == ".html" and check_parts()
    # What an earlier run made stays if this one fails.
    target = out.with_suffix(".part.ipynb") if page or out.exists() else out
    try:
        execute(content, target, parsed, name=source.stem, progress=sys.stderr.isatty())
    except Failed as error:
        raise Failed(f"{error.message}\n\nthe part that ran is kept in {target}") from None
    if page:
        write_html(target, f"notebooks/{source.stem}", find_root(source.parent), out)
        target.unlink()
    elif target != out:
        target.replace(out)
    click.echo(out)


@commands.command()
@click.argument("notebook")
def params(notebook: str) -> None:
    """Show the parameters that a chapter declares: name, type, default, meaning."""
    source = find_notebook(notebook)
    click.echo(parameters_of(read_notebook(source), source.stem).text)


@commands.command()
@click.argument("notebook")
@pairs_of("-g", "--grid", metavar="NAME V1,V2,…", help="Values of a parameter; may be repeated.")
@values
@params_file
@click.option("--seeds", type=click.IntRange(1), metavar="N", help="Each with N seeds: seed, seed + 1, …")
@at_once
@click.option("--timeout", type=click.IntRange(1), metavar="S", help="Seconds that a run may take.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on the workers of a Dask scheduler, tcp://HOST:PORT.")
@click.option("-o", "--out", "folder", type=PATH, metavar="DIR", help="Folder of runs (default: STEM.runs).")
@click.option("--dry-run", is_flag=True, help="Only show the runs, and which are done.")
def sweep(
    notebook: str, grid: Pairs, values: Pairs, params: Path | None, seeds: int | None, at_once: int | None,
    timeout: int | None, scheduler: str | None, folder: Path | None, dry_run: bool,
) -> None:  # fmt: skip
    """Execute a chapter for every combination of the given values; the same command resumes what was stopped."""
    source = find_notebook(notebook)
    axes = {name: str(texts).split(",") for name, texts in given(grid).items()}
    planned = plan_sweep(source, folder or Path(f"{source.stem}.runs"), given(values, params), axes, seeds)
    jobs = [job._replace(timeout=timeout) for job in planned]
    if scheduler and at_once:
        raise UsageError("--jobs is for this machine; a cluster's workers say how many runs they take")
    workers = partial(sweeps.dask_workers, scheduler) if scheduler else partial(sweeps.here, at_once or cores())
    preview(jobs) if dry_run else click.echo(sweeps.sweep(jobs, workers))


@commands.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--best", metavar="COLUMN", help="Largest values of this column first.")
@click.option("--csv", type=FILE, metavar="FILE", help="Write all columns as CSV.")
def results(folder: Path, best: str | None, csv: Path | None) -> None:
    """Show the runs of a sweep as a table, and write it to a file."""
    from vaebook_runner import results as tables

    table, problems = tables.read(folder)
    click.echo("".join(f"{problem}\n" for problem in problems), err=True, nl=False)
    known = [name for name in table if table[name].dropna().map(type).nunique() < 2]  # others have no order
    if best and best not in known:
        raise UsageError(f"no column {best!r}; there are: {printable(', '.join(known))}")
    table = table.sort_values(best, ascending=False, kind="stable") if best else table
    if csv:
        tables.write_csv(table, writable(csv, "FILE"))
    click.echo(tables.text(table))


@commands.command()
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
def compare(a: Path, b: Path) -> None:
    """Show two runs, executed notebooks or records, side by side, with the difference in standard errors."""
    from vaebook_runner import results as tables

    click.echo(tables.compare(a, b))


@commands.command()
@values
@at_once
@click.option("--pdf", is_flag=True, help="Print it all to _build/vaebook.pdf as well.")
@click.option("--dry-run", is_flag=True, help="Only show the chapters, and which are up to date.")
def build(values: Pairs, at_once: int | None, pdf: bool, dry_run: bool) -> None:
    """Execute every chapter that changed (source, module, lock, parameters) and render _build/html/index.html."""
    from vaebook_runner.pdf import check_browser, write_pdf

    book = read_book()
    jobs = plan_book(book, given(values))
    if dry_run:
        return preview(jobs)
    if pdf:
        check_browser()
    books.execute_changed(jobs, at_once)
    first_page = books.render(book, jobs)
    click.echo(write_pdf(first_page) if pdf else first_page)


@commands.command()
@click.argument("notebooks", nargs=-1)
@click.option("--check", is_flag=True, help="Only tell what a source has, or its notebook, that the other lacks.")
@click.option("--take", type=click.Choice(["md", "ipynb"]), help="The file whose cells go into the other.")
@at_once
def refresh(notebooks: Sequence[str], check: bool, take: str | None, at_once: int | None) -> None:
    """Execute chapters with their defaults where they changed, and store the outputs beside the sources."""
    book, stems = read_book(), {Path(name).stem for name in notebooks}
    if unknown := stems - set(known := [source.stem for source in book.chapters]):
        raise UsageError(f"no chapter {min(unknown)!r}; the chapters are: {', '.join(known)}")
    if take and (check or not stems):
        raise UsageError(f"--take {take} overwrites: name the chapters, and leave --check away")
    sources = [source for source in book.chapters if not stems or source.stem in stems]
    if check:
        if said := [line for source in sources for line in pairs.compare(source)[0]]:
            raise Failed("\n".join(["sources and stored notebooks are out of step (vaebook refresh):", *said]))
        return
    for source in sources if take == "ipynb" else []:
        pairs.take_stored(source)
    pairs.check_unedited(sources if take != "md" else [])
    jobs = plan_book(book._replace(chapters=sources), {})
    books.execute_changed(jobs, at_once)
    for job in (job for job in jobs if books.store(Path(job.source), job.notebook, over=take == "md")):
        click.echo(Path(job.source).with_suffix(".ipynb"))
