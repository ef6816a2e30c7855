"""What all parts share: a row of the table, rounds side by side, fresh processes, memory."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """A line of the table: a value for each round, none if not measured, and what the median should be."""

    what: str
    values: Sequence[float] = ()
    unit: str = ""
    most: float | None = None
    least: float | None = None
    note: str = ""
    reached: Sequence[float] = ()  # by the least that any program has to do

    def measured(self) -> str:
        return f"{short(median(self.values))} {self.unit}".strip() if self.values else "not measured"

    def spread(self) -> str:
        if len(self.values) < 2:
            return ""
        return f"{short(min(self.values))}–{short(max(self.values))}"

    def target(self) -> str:
        ends = [(self.most, "at most"), (self.least, "at least")]
        return " and ".join(f"{words} {short(end)}" for end, words in ends if end is not None)

    def verdict(self) -> str:
        if not self.values or self.most is self.least is None:
            return ""
        if self.allows(median(self.values)):
            return "met"
        return "missed" if not self.reached or self.allows(median(self.reached)) else "beyond the limit here"

    def allows(self, value: float) -> bool:
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)


def short(number: float) -> str:
    """Three digits, as many places as they need, and no exponent."""
    places = next((places for places, least in ((0, 100), (1, 10), (2, 1)) if abs(number) >= least), 3)
    return f"{number:,.{places}f}" if number % 1 else f"{number:,.0f}"


def clock(action: Callable[[], object]) -> Callable[[], float]:
    """The action as a measurement of its own seconds."""

    def seconds() -> float:
        begun = time.perf_counter()
        action()
        return time.perf_counter() - begun

    return seconds


def interleaved(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """A B C A B C …: what slows the machine down for a while slows all of them down."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, so that a slow round is compared with itself."""
    # What took no memory at all grows by no factor, or by every.
    return [a / b if b else 1.0 if a == 0 else math.inf for a, b in zip(above, below, strict=True)]


def fresh(code: str, **environment: str) -> Any:
    """Run code in a process of its own, and return what it printed last, as JSON."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{code}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def has_compiler() -> bool:
    """Whether ``torch.compile`` finds the C++ compiler that it needs."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def status(name: str) -> float:
    """A line of this process's state in megabytes, such as ``VmRSS``; Linux alone has them."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6


def most_allocated(action: Callable[[], object]) -> float:
    """Megabytes that an action has in use at once beyond what was there, without pages of mapped files."""
    before, most, done = status("RssAnon"), 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        action()
    finally:
        done.set()
        watcher.join()
    return max(most, status("RssAnon")) - before
