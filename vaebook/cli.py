"""The command ``vaebook``: run a chapter, build the book, refresh the stored outputs.

Exit codes: 0 when all went well; 1 when a cell failed, the pages did not render or a stored
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
from vaebook.runner.chapters import (
    UsageError,
    declared_parameters,
    find_notebook,
    parse_values,
    read_notebook,
)
from vaebook.runner.execute import CellFailed, execute


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
    except (CellFailed, RunFailed) as error:
        return _complain(str(error), 1)
    except ModuleNotFoundError as error:
        return _complain(f"vaebook: {error}; install vaebook with its dependencies", 1)
    except KeyboardInterrupt:
        return _complain("vaebook: interrupted", 130)


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
    _add_build(commands.add_parser("build", help="build the book", allow_abbrev=False))
    _add_refresh(commands.add_parser("refresh", help="store the chapters' outputs", allow_abbrev=False))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = "Execute one chapter through papermill and keep the executed copy."
    parser.add_argument(
        "notebook",
        metavar="NOTEBOOK",
        help="stem of a chapter (08_training), or a path to .md or .ipynb",
    )
    _add_parameters(parser)
    parser.add_argument(
        "-o",
        "--out",
        metavar="OUT.ipynb",
        type=Path,
        help="executed copy (default: the stem + .out.ipynb in the current folder)",
    )
    parser.set_defaults(command=_run)


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Execute every chapter that changed (source, module, lock or parameter) and render "
        "the book to _build/html/index.html."
    )
    _add_parameters(parser)
    parser.add_argument("--fresh", action="store_true", help="execute every chapter")
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


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=_positive, metavar="N", help="chapters run at once (default: all cores)"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    texts = _texts(arguments.parameters)
    source = find_notebook(arguments.notebook)
    out = _writable(arguments.out or Path(f"{source.stem}.out.ipynb"), source)
    notebook = read_notebook(source)
    values = parse_values(texts, declared_parameters(notebook, source.stem), source.stem)
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
    print(build(_texts(arguments.parameters), arguments.fresh, arguments.jobs))
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
