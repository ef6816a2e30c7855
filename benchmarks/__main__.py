"""Measure, print the table, and write it to benchmarks/results.md.

    python -m benchmarks [--quick] [--dataset mnist] [epoch] [growth] [likelihood] [published] [book] [tests]

Measure on a quiet machine; the whole takes half an hour. A part alone replaces its own lines, if the others
are of the same machine and day. With --quick it only shows that everything runs.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks import book, epoch, growth, likelihood, published
from benchmarks.measure import Row
from vaebook_runner.execute import cores

HEAD = ("what", "median", "from–to", "target", "verdict", "")
PARTS = {
    "epoch": "One epoch of MNIST, 784-400-20, batches of 128, Adam, float32",
    "growth": "How cost grows",
    "likelihood": "The importance-weighted estimate, decoder 50-200-200-784",
    "published": "The published table, as stored in the book",
    "book": "The book",
    "tests": "The tests",
}
CAPTIONS = {"epoch": epoch.CAPTION, "growth": growth.CAPTION}
RESULTS = Path(__file__).with_name("results.md")


def measured(name: str, quick: bool, dataset: str) -> list[Row]:
    if name == "epoch":
        return epoch.rows(quick, dataset)
    parts: dict[str, Callable[[bool], list[Row]]] = {
        "growth": growth.rows,
        "likelihood": likelihood.rows,
        "published": published.rows,
        "book": book.rows,
        "tests": book.of_the_tests,
    }
    return parts[name](quick)


def cells(row: Row) -> tuple[str, ...]:
    return row.what, row.measured(), row.spread(), row.target(), row.verdict(), row.note


def plain(table: Sequence[Row]) -> str:
    """Columns for a terminal."""
    lines = [HEAD, *(cells(row) for row in table)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def markdown(table: Sequence[Row]) -> str:
    lines = [HEAD, ("---",) * len(HEAD), *(cells(row) for row in table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def keep(head: str, title: str, section: str, out: Path) -> None:
    """Put a part in its place among the results."""
    parts = {**sections(out), title: section}
    results = head + "".join(f"\n**{name}**\n\n{parts[name]}\n" for name in PARTS.values() if name in parts)
    out.write_text(results, encoding="utf-8")


def sections(out: Path) -> dict[str, str]:
    """The text of each part, by its title."""
    pieces = out.read_text(encoding="utf-8").split("\n**")[1:] if out.is_file() else []
    return {title: text.strip() for title, text in (piece.split("**\n", 1) for piece in pieces)}


def machine() -> str:
    """What the numbers were measured on, in one line."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    gigabytes = f", {memory_of_machine():.0f} GB" if hasattr(os, "sysconf") else ""
    today = datetime.date.today().isoformat()
    return (
        f"{name}, {cores()} cores ({torch.get_num_threads()} threads){gigabytes}, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, {today}"
    )


def memory_of_machine() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few steps each: numbers that mean nothing")
    parser.add_argument("--dataset", default="mnist", help="of the epoch (default: mnist)")
    parser.add_argument("-o", "--out", type=Path, help="(default: benchmarks/results.md, if all is measured)")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {sorted(unknown)[0]!r}; the parts are: {', '.join(PARTS)}")
    head, missed = f"Measured on {machine()}.\n", 0
    print(head, flush=True)
    out = arguments.out or (None if arguments.quick else RESULTS)
    if out is not None and out.is_file() and not out.read_text(encoding="utf-8").startswith(head):
        if arguments.parts:
            print(f"{out} is of another machine or day and stays as it is: measure all parts to replace it.\n")
            out = None
        else:
            out.unlink()
    for name in arguments.parts or PARTS:
        table = measured(name, arguments.quick, arguments.dataset)
        print(f"{PARTS[name]}\n\n{plain(table)}\n", flush=True)
        section = markdown(table)
        if name in CAPTIONS:
            section += f"\n\n{CAPTIONS[name]}"
        missed += sum(row.verdict() == "missed" for row in table)
        if out is not None:  # after each part: a later one that fails takes none of it away
            keep(head, PARTS[name], section, out)
    print(f"{missed} missed" if missed else "all met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
