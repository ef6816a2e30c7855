"""The command ``vaebook``: run a chapter once or many times, compare runs, build the book.

Exit codes: 0 when all went well; 1 when a cell or a run failed, the pages did not render or a stored
notebook is out of step; 2 for wrong usage, with nothing executed and nothing written; 130 when
interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from vaebook import __version__
from vaebook.runner.book import RunFailed, build, out_of_step, refresh
from vaebook.runner.chapters import find_notebook, read_notebook
from vaebook.runner.execute import CellFailed, execute
from vaebook.runner.files import SweepFailed, UsageError
from vaebook.runner.parameters import declared_parameters, parse_values, read_parameter_file, table
from vaebook.runner.processes import cores


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` and return the exit code."""
    arguments = _parser().parse_args(argv)
    # An optional part of jsonschema, which reads notebooks: it compiles grammars of web addresses
    # for two seconds at import, in each process, and no notebook needs them.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    # A terminated run must still stop its kernels, as after Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        return int(arguments.command(arguments))
    except UsageError as error:
        return _complain(f"vaebook: error: {error}", 2)
    except (CellFailed, RunFailed, SweepFailed) as error:
        return _complain(str(error), 1)
    except ModuleNotFoundError as error:
        return _complain(f"vaebook: {error}; install vaebook with its dependencies", 1)
    except KeyboardInterrupt as error:
        return _complain(": ".join(["vaebook: interrupted", *map(str, error.args)]), 130)


def _complain(message: str, code: int) -> int:
    print(message, file=sys.stderr, flush=True)
    return code


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    # A second signal of the kind must not cut the cleaning up short.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vaebook", description="An executable book on variational auto-encoders."
    )
    parser.add_argument("--version", action="version", version=f"vaebook {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_run(commands.add_parser("run", help="execute one chapter", allow_abbrev=False))
    _add_params(commands.add_parser("params", help="show a chapter's parameters", allow_abbrev=False))
    _add_sweep(commands.add_parser("sweep", help="execute a chapter many times", allow_abbrev=False))
    _add_results(commands.add_parser("results", help="show the runs of a sweep", allow_abbrev=False))
    _add_compare(commands.add_parser("compare", help="show two runs side by side", allow_abbrev=False))
    _add_build(commands.add_parser("build", help="build the book", allow_abbrev=False))
    _add_refresh(commands.add_parser("refresh", help="store the chapters' outputs", allow_abbrev=False))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = "Execute one chapter through papermill and keep the executed copy."
    _add_notebook(parser)
    _add_parameters(parser)
    _add_parameter_file(parser)
    parser.add_argument(
        "-o",
        "--out",
        metavar="OUT.ipynb",
        type=Path,
        help="executed copy (default: the stem + .out.ipynb in the current folder)",
    )
    parser.set_defaults(command=_run)


def _add_notebook(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "notebook",
        metavar="NOTEBOOK",
        help="stem of a chapter (08_training), or a path to .md or .ipynb",
    )


def _add_params(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show the parameters that a chapter declares: name, type, default, meaning."
    _add_notebook(parser)
    parser.set_defaults(command=_params)


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Execute a chapter for every combination of the given values. Each run leaves an executed notebook "
        "and a record in DIR; what is done there is not run again, so that the same command resumes a sweep."
    )
    _add_notebook(parser)
    parser.add_argument(
        "-g",
        "--grid",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "V1,V2,…"),
        help="values of a parameter, may be repeated",
    )
    _add_parameters(parser)
    _add_parameter_file(parser)
    parser.add_argument("--seeds", type=_positive, metavar="N", help="each with N seeds: seed, seed + 1, …")
    _add_jobs(parser)
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="seconds that a run may take")
    parser.add_argument(
        "--retries", type=_count, default=0, metavar="K", help="times that a run that fails is tried again"
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="run on the workers of a Dask scheduler, tcp://HOST:PORT"
    )
    parser.add_argument("-o", "--out", metavar="DIR", type=Path, help="folder of runs (default: STEM.runs)")
    parser.add_argument("--dry-run", action="store_true", help="only show the runs, and which are done")
    parser.set_defaults(command=_sweep)


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show the runs of a sweep as a table, and write it to files."
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of runs")
    order = parser.add_mutually_exclusive_group()
    order.add_argument("--best", metavar="COLUMN", help="largest values of this column first")
    order.add_argument("--least", metavar="COLUMN", help="smallest values of this column first")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write all columns as CSV")
    parser.add_argument("--parquet", metavar="FILE", type=Path, help="write all columns as Parquet")
    parser.add_argument("--plot", nargs=2, metavar=("X", "Y"), help="draw one column against another")
    parser.add_argument("--by", metavar="Z", help="with --plot: a line for each value of this column")
    parser.add_argument(
        "-o", "--out", metavar="FILE", type=Path, help="with --plot: the picture (default: DIR/plot.svg)"
    )
    parser.set_defaults(command=_results)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Show the parameters and the recorded values of two runs side by side, with the difference in "
        "standard errors where there are any. A and B are executed notebooks or records (.json)."
    )
    parser.add_argument("a", metavar="A", type=Path)
    parser.add_argument("b", metavar="B", type=Path)
    parser.set_defaults(command=_compare)


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Execute every chapter that changed (source, module, lock or parameter) and render "
        "the book to _build/html/index.html."
    )
    _add_parameters(parser)
    parser.add_argument("--fresh", action="store_true", help="execute every chapter")
    parser.add_argument("--pdf", action="store_true", help="print it all to _build/vaebook.pdf as well")
    _add_jobs(parser)
    parser.set_defaults(command=_build)


def _add_refresh(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Execute chapters with their defaults where they changed, and store the outputs in "
        "notebooks/NN_name.ipynb beside the source."
    )
    parser.add_argument("notebooks", metavar="NOTEBOOK", nargs="*", help="chapters (default: all)")
    parser.add_argument(
        "--check",
        action="store_true",
        help="only tell whether the stored cells are those of the sources",
    )
    _add_jobs(parser)
    parser.set_defaults(command=_refresh)


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        dest="parameters",
        metavar=("NAME", "VALUE"),
        help="a declared parameter, may be repeated",
    )
    # argparse takes -1e-4 for an option: its own pattern of a negative number has no exponent.
    parser._negative_number_matcher = re.compile(r"^-\.?\d")


def _add_parameter_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--params", metavar="FILE", type=Path, help="parameters in a YAML or JSON file; -p goes before it"
    )


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=_positive, metavar="N", help="notebooks run at once (default: one for each core)"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text!r}")
    return value


def _given(arguments: argparse.Namespace) -> dict[str, object]:
    """The parameters of a file, and over them those of the command line."""
    from_file = read_parameter_file(arguments.params) if arguments.params else {}
    return from_file | _texts(arguments.parameters)


def _params(arguments: argparse.Namespace) -> int:
    source = find_notebook(arguments.notebook)
    print(table(declared_parameters(read_notebook(source), source.stem)))
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from vaebook.runner.sweep import plan, preview, sweep

    source = find_notebook(arguments.notebook)
    folder = arguments.out or Path(f"{source.stem}.runs")
    grid = {name: values.split(",") for name, values in _texts(arguments.grid).items()}
    if arguments.jobs and arguments.scheduler:
        raise UsageError("--jobs is for this machine; how many runs a cluster has at once, its workers say")
    if (arguments.jobs or 1) > cores():
        raise UsageError(f"--jobs needs at most {cores()}, the cores of this machine, got {arguments.jobs}")
    jobs = plan(
        source,
        folder,
        _given(arguments),
        grid,
        arguments.seeds,
        timeout=arguments.timeout,
        attempts=arguments.retries + 1,
    )
    if arguments.dry_run:
        print(preview(jobs, folder))
    else:
        print(sweep(jobs, folder, arguments.scheduler, arguments.jobs))
    return 0


def _results(arguments: argparse.Namespace) -> int:
    from vaebook.runner import results

    if (arguments.by or arguments.out) and not arguments.plot:
        raise UsageError("--by and --out need --plot X Y")
    table, problems = results.read(arguments.folder)
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    if column := arguments.best or arguments.least:
        table = results.ordered(table, column, largest_first=bool(arguments.best))
    if arguments.csv:
        results.write_csv(table, arguments.csv)
    if arguments.parquet:
        results.write_parquet(table, arguments.parquet)
    if arguments.plot:
        x, y = arguments.plot
        results.plot(table, x, y, arguments.by, arguments.out or arguments.folder / "plot.svg")
    print(results.text(table))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from vaebook.runner.results import compare

    print(compare(arguments.a, arguments.b))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    given = _given(arguments)
    source = find_notebook(arguments.notebook)
    out = _writable(arguments.out or Path(f"{source.stem}.out.ipynb"), source)
    notebook = read_notebook(source)
    values = parse_values(given, declared_parameters(notebook, source.stem), source.stem)
    try:
        execute(notebook, source, out, values, progress=sys.stderr.isatty())
    except CellFailed as error:
        raise CellFailed(f"{error}\n\nthe part that ran is kept in {out}") from None
    print(out)
    return 0


def _texts(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    texts = dict(pairs)
    if len(texts) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"parameter {twice!r} is given more than once")
    return texts


def _writable(out: Path, source: Path) -> Path:
    """``out``, if an executed copy may be written there."""
    if out.suffix != ".ipynb":
        raise UsageError(f"OUT must end in .ipynb, got {out}")
    if not out.parent.is_dir():
        raise UsageError(f"the folder of OUT does not exist: {out.parent}")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise UsageError(f"OUT cannot be written: {out}")
    if out.resolve() == source.resolve() or out.with_suffix(".md").is_file():
        raise UsageError(
            f"{out} is a notebook of its own, not an executed copy; choose another OUT "
            "(vaebook refresh stores outputs beside a chapter's source)"
        )
    return out


def _build(arguments: argparse.Namespace) -> int:
    if arguments.pdf:
        from vaebook.runner.pdf import check_browser, write_pdf

        check_browser()
    first_page = build(_texts(arguments.parameters), arguments.fresh, arguments.jobs)
    print(write_pdf(first_page) if arguments.pdf else first_page)
    return 0


def _refresh(arguments: argparse.Namespace) -> int:
    if arguments.check:
        stale = out_of_step(arguments.notebooks)
        if stale:
            listing = "\n".join(f"  {path.name}" for path in stale)
            raise RunFailed(f"out of step with their sources (vaebook refresh):\n{listing}")
        return 0
    for path in refresh(arguments.notebooks, arguments.jobs):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
