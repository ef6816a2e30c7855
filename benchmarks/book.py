"""The book's own speed: starting, importing, and building when nothing or one chapter has changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from benchmarks.measure import ROOT, Row, fresh, interleaved

MOST_HELP, MOST_IMPORT, MOST_UNCHANGED, MOST_RENDER = 0.5, 0.15, 6.0, 25.0  # seconds
CHAPTER = "01_kl"
HEAVY = ("torchvision", "sklearn")

IMPORT = f"""
import json, sys, time
import torch
begun = time.perf_counter()
import vaebook.objectives
seconds = time.perf_counter() - begun
print(json.dumps([seconds, sum(name in sys.modules for name in {HEAVY!r})]))
"""


def rows(quick: bool = False) -> list[Row]:
    rounds = 2 if quick else 7
    heavy = fresh(IMPORT)[1]  # and what is read from disk for the first time
    measures = {"help": lambda: command(ROOT, "--help"), "import": lambda: fresh(IMPORT)[0]}
    with nullcontext() if quick else built_copy() as copy:
        if copy is not None:
            measures["unchanged"] = lambda: command(copy, "build")
        found = interleaved(measures, rounds)
        rebuilt = one_chapter(copy) if copy is not None else []
    note, nothing = "" if copy else "needs the built book: make book", found.get("unchanged", [])
    return [
        Row("vaebook --help", found["help"], "s", most=MOST_HELP),
        Row("import vaebook.objectives, beyond torch", found["import"], "s", most=MOST_IMPORT),
        Row(f"of {' and '.join(HEAVY)}, imported by it", [heavy], "", most=0),
        Row("vaebook build, nothing changed", nothing, "s", most=MOST_UNCHANGED, note=note),
        Row("one chapter changed, beyond its own time", rebuilt, "s", most=MOST_RENDER, note=note),
    ]


def command(folder: Path, *words: str) -> float:
    """Seconds of ``vaebook WORDS…`` with the module of that folder."""
    begun = time.perf_counter()
    run(folder, *words)
    return time.perf_counter() - begun


def run(folder: Path, *words: str) -> str:
    """What ``vaebook WORDS…`` says while it works."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    line = [sys.executable, "-m", "vaebook.cli", *words]
    return subprocess.run(
        line, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stderr


@contextmanager
def built_copy() -> Iterator[Path | None]:
    """A copy of the project whose book is up to date, or nothing where no book is built."""
    if not up_to_date():
        yield None
        return
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "book"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"), symlinks=True)
        run(copy, "build")
        yield copy


def up_to_date() -> bool:
    """Whether every chapter's executed copy is there and current: executing them all takes minutes."""
    code = (
        "import json\nfrom vaebook.runner.book import is_current, plan\n"
        "from vaebook.runner.chapters import read_book\n"
        "print(json.dumps(all(is_current(run) for run in plan(read_book(), {}))))"
    )
    return bool(fresh(code))


def one_chapter(copy: Path) -> list[float]:
    """Seconds of a build beyond those of the chapter that changed."""
    source = copy / "notebooks" / f"{CHAPTER}.md"
    source.write_text(source.read_text(encoding="utf-8") + "\nOne more sentence.\n", encoding="utf-8")
    begun = time.perf_counter()
    said = run(copy, "build")
    seconds = time.perf_counter() - begun
    own = re.search(rf"{CHAPTER}: ([\d.]+) s", said)
    if own is None:
        raise RuntimeError(f"the chapter was not executed:\n{said}")
    return [seconds - float(own[1])]
