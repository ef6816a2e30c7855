"""One run of a sweep: execute a chapter with given values in a process of its own, and record the outcome.

:func:`perform` is all that a worker does, on this machine or another. It needs nothing but its argument,
and whatever happens to it, the folder of runs holds whole files alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal, Protocol

from vaebook.runner import records
from vaebook.runner.chapters import find_root, source_state
from vaebook.runner.parameters import Value
from vaebook.runner.processes import end, spawn, with_threads
from vaebook.runner.records import Record

LONGEST_ERROR = 20_000


class Stop(Protocol):
    """Says whether a run is to be stopped; a ``threading.Event`` does."""

    def is_set(self) -> bool: ...


NEVER: Stop = threading.Event()


@dataclass(frozen=True)
class Job:
    """A run to be performed. All of it is text and numbers, so that any executor can carry it.

    ``state`` is the fingerprint of the chapter's source, the module and the lock, ``id`` that of ``state``
    and ``values``; ``since`` is when the sweep began, ``attempts`` how often a run that fails is tried.
    ``cwd`` is the folder in which runs work, ``threads`` what one of them may use.
    """

    id: str
    source: str
    folder: str
    values: dict[str, Value]
    state: str
    since: str
    commit: str | None = None
    timeout: float | None = None
    attempts: int = 1
    threads: int = 1
    cwd: str | None = None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def perform(job: Job, stop: Stop = NEVER) -> str:
    """Execute ``job`` unless its record stands already; returns the record's status, or "elsewhere".

    "elsewhere": another process is at it. "stopped": ``stop`` was set, and nothing was recorded.

    Raises:
        OSError: if the folder cannot be written; nothing is then recorded.
    """
    folder = Path(job.folder)
    with claim(folder / f".{job.id}.lock") as mine:
        if not mine:
            return "elsewhere"
        with contextlib.suppress(OSError, ValueError):
            record = records.read(folder / f"{job.id}.json")
            if is_done(folder, record) or (record.status != "done" and record.began > job.since):
                return record.status
        for rest in folder.glob(f".{job.id}-*"):  # of a run that was killed: we hold its lock
            shutil.rmtree(rest, ignore_errors=True)
        for attempt in range(1, job.attempts + 1):
            status = try_once(job, attempt, stop)
            if status in ("done", "stopped"):
                break
        return status


def is_done(folder: Path, record: Record) -> bool:
    """Whether a run went well, and its notebook is still the file that it left."""
    try:
        state = (folder / f"{record.id}.ipynb").lstat()
    except OSError:
        return False
    return record.status == "done" and stat.S_ISREG(state.st_mode) and state.st_size == record.notebook_bytes


@contextlib.contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Hold the lock ``path``, or yield False where somebody else does. It ends with its holder's process."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            # Its last holder may have removed the file just now, and somebody else hold a new one.
            if not os.path.samestat(os.fstat(descriptor), path.lstat()):
                raise FileNotFoundError
        except FileNotFoundError:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def try_once(job: Job, attempt: int, stop: Stop) -> str:
    """Execute the chapter once, and keep the outcome if it went well or was the last attempt."""
    part = Path(tempfile.mkdtemp(prefix=f".{job.id}-", dir=job.folder))
    try:
        out = part / f"{job.id}.ipynb"
        began, clock = now(), time.monotonic()
        status, error = execute(job, part, out, stop)
        if status == "stopped":
            return status
        record = outcome(job, out, status, error, began, attempt, round(time.monotonic() - clock, 3))
        if record.status == "done" or attempt == job.attempts:
            keep(record, part, Path(job.folder))
        return record.status
    finally:
        shutil.rmtree(part, ignore_errors=True)


def outcome(
    job: Job, out: Path, status: records.Status, error: str | None, began: str, attempt: int, seconds: float
) -> Record:
    """The record of a run that ended, with what it measured on the way."""
    notebook = records.notebook_json(out) if out.is_file() else {"cells": []}
    try:
        values = records.values_of(notebook)
    except ValueError as reason:
        status, error, values = "failed", error or str(reason), {}
    return Record(
        id=job.id,
        status=status,
        chapter=Path(job.source).stem,
        parameters=job.values,
        values=values,
        seed=records.seed_of(job.values),
        versions=records.versions(),
        device=records.device(),
        commit=job.commit,
        source=job.state,
        began=began,
        seconds=seconds,
        cell_seconds=records.cell_seconds(notebook),
        notebook_bytes=out.stat().st_size if out.is_file() else 0,
        attempts=attempt,
        error=error,
    )


def keep(record: Record, part: Path, folder: Path) -> None:
    """Move a run's files from ``part`` into place, the record last: where it stands, the run is over."""
    names = [f"{record.id}.ipynb", f"{record.id}.json"]
    (part / names[1]).write_text(records.text(record), encoding="utf-8")
    for name in names:
        place = folder / name
        if place.is_dir() and not place.is_symlink():
            # No file can take its place, and it is not ours to remove.
            place.rename(tempfile.mkdtemp(prefix=f"{name}.aside-", dir=folder))
        if (part / name).is_file():
            (part / name).replace(place)
        else:
            place.unlink(missing_ok=True)  # of an earlier attempt that came further


def execute(
    job: Job, part: Path, out: Path, stop: Stop
) -> tuple[records.Status, str | None] | tuple[Literal["stopped"], None]:
    """Run the chapter in a process of its own; returns how it ended, and what it said if not well."""
    source = Path(job.source)
    root = find_root(source.parent) or source.parent
    if source_state(source, root) != job.state:
        return "failed", "the chapter, the module or the lock changed since the sweep began; start it again"
    given = part / "parameters.json"
    given.write_text(json.dumps(job.values), encoding="utf-8")
    words = ["run", str(source), "--params", str(given), "--out", str(out)]
    with tempfile.TemporaryFile() as log:
        process = spawn(words, with_threads(job.threads), log, job.cwd)
        deadline = time.monotonic() + (job.timeout or float("inf"))
        while (code := process.poll()) is None:
            if stop.is_set() or time.monotonic() > deadline:
                end(process)
                if stop.is_set():
                    return "stopped", None
                return "timeout", f"stopped after {job.timeout:g} s"
            time.sleep(0.02)
        if code == 0:
            return "done", None
        said = last_words(log).replace(str(out), str(Path(job.folder) / out.name))
    if code < 0:
        return "died", f"the run's process was ended by signal {-code}\n{said}".strip()
    return "failed", said or f"exit code {code}"


def last_words(log: IO[bytes]) -> str:
    """The end of what a process wrote, however much that was."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - LONGEST_ERROR))
    return log.read(LONGEST_ERROR).decode(errors="replace").strip()
