"""The book's own speed: starting, importing, building all, nothing or one chapter, and the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import ROOT, Row, fresh, interleaved
from vaebook_runner import records

MOST_HELP, MOST_IMPORT = 0.5, 0.15  # seconds, as all that follow
MOST_TEST = 720.0
WHOLE, UNCHANGED, ONE = "nothing built yet", "nothing changed", "one chapter changed, beyond its own time"
BUILDS = ((WHOLE, 300.0), (UNCHANGED, 6.0), (ONE, 25.0))
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
    found = interleaved({"help": lambda: command(ROOT, "--help"), "import": lambda: fresh(IMPORT)[0]}, rounds)
    built = {} if quick else of_the_build(rounds)
    note = "not in a quick run" if quick else ""
    return [
        Row("vaebook --help", found["help"], "s", most=MOST_HELP),
        Row("import vaebook.objectives, beyond torch", found["import"], "s", most=MOST_IMPORT),
        Row(f"of {' and '.join(HEAVY)}, imported by it", [heavy], "", most=0),
        *(Row(f"make book, {what}", built.get(what, []), "s", most=most, note=note) for what, most in BUILDS),
    ]


def command(folder: Path, *words: str) -> float:
    """Seconds of ``vaebook WORDS…`` with the module of that folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    begun = time.perf_counter()
    line = [sys.executable, "-m", "vaebook_runner", *words]
    subprocess.run(line, cwd=folder, env=environment, capture_output=True, check=True)
    return time.perf_counter() - begun


def of_the_build(rounds: int) -> dict[str, list[float]]:
    """Seconds to build the book in a copy of the project: all of it, nothing of it, one chapter."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "book"
        left_out = shutil.ignore_patterns(".*", "_build", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=left_out, symlinks=True)
        whole = [command(copy, "build")]
        unchanged = [command(copy, "build") for _ in range(rounds)]
        return {WHOLE: whole, UNCHANGED: unchanged, ONE: one_chapter(copy)}


def one_chapter(copy: Path) -> list[float]:
    """Seconds of a build beyond those of the chapter that changed."""
    source = copy / "notebooks" / f"{CHAPTER}.md"
    source.write_text(source.read_text(encoding="utf-8") + "\nOne more sentence.\n", encoding="utf-8")
    record = copy / "_build" / "executed" / f"{CHAPTER}.json"
    before = records.read(record).id
    seconds = command(copy, "build")
    after = records.read(record)
    if after.id == before:
        raise RuntimeError("the chapter was not executed")
    return [seconds - after.seconds]


def of_the_tests(quick: bool = False) -> list[Row]:
    """``make test``, once, in the project itself."""
    if quick:
        return [Row("make test", most=MOST_TEST, note="not in a quick run")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    begun = time.perf_counter()
    done = subprocess.run(
        ["make", "--no-print-directory", "test"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = [time.perf_counter() - begun] if done.returncode == 0 else []
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    said = (done.stdout.splitlines() or [done.stderr])[-1].strip("= ")
    return [Row("make test", seconds, "s", most=MOST_TEST, note="; ".join([said, *failed]))]
