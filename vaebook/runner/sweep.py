"""Execute a chapter for every combination of some values, and survive whatever happens on the way.

Runs go through any ``concurrent.futures.Executor``: threads here that each wait for a run's process, or
a Dask cluster. The folder of runs is the only memory. What is recorded there as done is not run again, so
that a sweep that was stopped goes on where it was, and two sweeps on one folder share the work.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from vaebook.runner import records
from vaebook.runner.chapters import find_root, read_notebook, source_state, with_values
from vaebook.runner.files import SweepFailed, UsageError
from vaebook.runner.parameters import Value, declared_parameters, default_values, parse_values
from vaebook.runner.processes import cores
from vaebook.runner.records import printable
from vaebook.runner.runs import Job, is_done, now, perform

SECONDS_BETWEEN_LOOKS = 0.5


def plan(
    source: Path,
    folder: Path,
    given: Mapping[str, object],
    grid: Mapping[str, Sequence[str]],
    seeds: int | None = None,
    **options: Any,
) -> list[Job]:
    """The runs of a sweep: every combination of the grid's values, and of ``seeds`` seeds if given.

    Each run's id is made from all its parameters' values, the defaults included, and from what its
    chapter depends on. ``options`` are further fields of :class:`Job`.

    Raises:
        UsageError: if a parameter is not declared or given twice, a value is not of its type, or the folder
            is the one of files that the chapter reads, so that each run would change its source.
    """
    declared = declared_parameters(read_notebook(source), source.stem)
    if twice := set(given) & set(grid):
        raise UsageError(f"parameter {min(twice)!r} has both one value and a grid")
    fixed = default_values(declared) | parse_values(given, declared, source.stem)
    axes = {name: [parse_values({name: v}, declared, source.stem)[name] for v in grid[name]] for name in grid}
    if seeds is not None:
        first = fixed.get("seed")
        if not isinstance(first, int) or "seed" in grid:
            raise UsageError(
                f"--seeds needs a chapter with a parameter seed, and no grid of it; got {source.stem}"
            )
        axes["seed"] = list(range(first, first + seeds))
    if folder.resolve().is_relative_to(source.with_suffix("").resolve()):
        raise UsageError(f"DIR needs to lie elsewhere: {folder} counts as a part of {source.name}")
    root = find_root(source.parent) or source.parent
    state = source_state(source, root)
    shared = {
        "source": str(source.resolve()), "folder": str(folder.resolve()), "state": state, "since": now(),
        "commit": commit(root), "cwd": str(Path.cwd()), **options,
    }  # fmt: skip
    jobs = {}
    for combination in itertools.product(*axes.values()):
        values: dict[str, Value] = {**fixed, **dict(zip(axes, combination, strict=True))}
        name = with_values(state, values)[:20]
        jobs[name] = Job(id=name, values=values, **shared)
    return list(jobs.values())


def commit(root: Path) -> str | None:
    """The git commit that is checked out, with a mark if files were changed since; None outside of git."""
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        said = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return said.stdout.strip() or None


def varied(jobs: Sequence[Job]) -> list[str]:
    """The parameters that differ between runs."""
    return [name for name in jobs[0].values if len({str(job.values[name]) for job in jobs}) > 1]


def describe(job: Job, names: Sequence[str]) -> str:
    return printable(f"{job.id[:8]} " + " ".join(f"{name}={job.values[name]}" for name in names))


def split(jobs: Sequence[Job], folder: Path) -> tuple[list[Job], list[Job], list[str]]:
    """The runs that are done already, those that are not, and what is wrong with files in the folder."""
    found, problems = records.read_all(folder) if folder.is_dir() else ({}, [])
    done = [job for job in jobs if job.id in found and is_done(folder, found[job.id])]
    there = {job.id for job in done}
    return done, [job for job in jobs if job.id not in there], problems


def preview(jobs: Sequence[Job], folder: Path) -> str:
    """A line for each run that says whether it is done; nothing is executed, nothing written."""
    done, _, problems = split(jobs, folder)
    there, names = {job.id for job in done}, varied(jobs)
    lines = [f"{'done ' if job.id in there else 'to do'} {describe(job, names)}" for job in jobs]
    return "\n".join([*lines, *problems, f"{len(jobs)} runs, {len(done)} done, in {folder}"])


@dataclass
class Progress:
    """One line that says where a sweep stands, rewritten in a terminal."""

    total: int
    at_once: int
    begun: float = field(default_factory=time.monotonic)
    ended: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        over = self.ended.total()
        left = self.total - over
        text = f"{self.ended['done']} of {self.total} done, {over - self.ended['done']} failed, "
        text += f"{min(left, self.at_once)} running"
        if over and left:
            seconds = (time.monotonic() - self.begun) / over * left
            text += f", about {duration(seconds)} left"
        return text

    def show(self, news: str = "") -> None:
        terminal = sys.stderr.isatty()
        if news:
            print(f"\r\x1b[K{news}" if terminal else f"{news} ({self.line()})", file=sys.stderr, flush=True)
        if terminal:
            print(f"\r\x1b[K{self.line()}", end="", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """
    >>> duration(75), duration(7320)
    ('1 min 15 s', '2 h 2 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_rest = divmod(minutes, 60)
    return f"{hours} h {minutes_rest} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def run_all(jobs: Sequence[Job], workers: Workers, names: Sequence[str]) -> dict[str, str]:
    """Perform every job and return the status of each; a job that somebody else is at is awaited.

    ``names`` are the parameters by which a run is told from another.
    """
    progress, ended = Progress(len(jobs), workers.at_once), dict[str, str]()
    pending = {workers.executor.submit(workers.work, job): job for job in jobs}
    progress.show()
    while pending:
        finished, _ = wait(pending, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
        elsewhere = []
        for future in finished:
            job, status = pending.pop(future), outcome(future)
            if status == "elsewhere":
                elsewhere.append(job)
            else:
                ended[job.id] = status
                progress.ended[status] += 1
                progress.show(f"{status:7} {describe(job, names)}")
        if elsewhere and len(elsewhere) == len(finished):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        pending |= {workers.executor.submit(workers.work, job): job for job in elsewhere}
        progress.show()
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return ended


def outcome(future: Future[str]) -> str:
    """How a run ended; what kept it from being recorded, if something did."""
    try:
        return future.result()
    except Exception as error:  # a full disk here, a lost worker there: the other runs go on
        return f"lost: {type(error).__name__}: {error}"


def sweep(jobs: Sequence[Job], folder: Path, scheduler: str | None = None, at_once: int | None = None) -> str:
    """Perform the runs that are not done, and say how all of them ended.

    Raises:
        UsageError: if the folder cannot be written or the cluster not be reached; nothing was executed.
        SweepFailed: if any run did not end well; all others have run.
        KeyboardInterrupt: if it was interrupted; what is finished stays, the rest is stopped.
    """
    names, (done, rest, problems) = varied(jobs), split(jobs, folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not rest:
        return f"all {len(jobs)} runs are done, in {folder}"
    if done:
        print(f"{len(done)} of {len(jobs)} runs are done already", file=sys.stderr)
    try:
        with cluster(scheduler) if scheduler else here(at_once or cores()) as workers:
            prepare(folder)
            ended = run_all([replace(job, threads=workers.threads) for job in rest], workers, names)
    except KeyboardInterrupt:
        left = len(split(jobs, folder)[1])
        raise KeyboardInterrupt(
            f"{len(jobs) - left} of {len(jobs)} runs are done, in {folder}; the same command runs the rest"
        ) from None
    if bad := [f"  {ended[job.id]:7} {describe(job, names)}" for job in rest if ended[job.id] != "done"]:
        raise SweepFailed(
            "\n".join([f"{len(bad)} of {len(jobs)} runs did not end well:", *bad])
            + f"\ntheir records in {folder} say why; the same command tries them again"
        )
    return f"all {len(jobs)} runs are done, in {folder}"


def prepare(folder: Path) -> None:
    """Make the folder of runs, and see that a file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"DIR cannot be written: {folder} ({error.strerror})") from None


@dataclass(frozen=True)
class Workers:
    """Who performs runs: an executor, how many runs it has at once, threads for each, and what it calls."""

    executor: Executor
    at_once: int
    threads: int
    work: Callable[[Job], str]


@contextmanager
def here(at_once: int) -> Iterator[Workers]:
    """Threads of this process, each of which waits for the processes of its runs."""
    stop = threading.Event()
    executor = ThreadPoolExecutor(at_once)
    try:
        yield Workers(executor, at_once, max(1, cores() // at_once), partial(perform, stop=stop))
    finally:
        stop.set()
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def cluster(address: str) -> Iterator[Workers]:
    """The workers of a Dask scheduler.

    Raises:
        UsageError: if Dask is not installed, or nothing answers at the address.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise UsageError("--scheduler needs Dask: pip install 'vaebook[cluster]'") from None
    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler at {address}: {error}") from None
    with client:
        slots = client.nthreads()
        if not slots:
            raise UsageError(f"the Dask scheduler at {address} has no workers")
        threads = threads_each(slots, client.run(cores))
        # Not pure: a run that is tried again is a new one. A lost worker's runs go to another by themselves.
        executor = client.get_executor(pure=False)
        try:
            yield Workers(executor, sum(slots.values()), threads, on_worker)
        finally:
            executor.shutdown(wait=False)  # What has not finished is cancelled, see Unwanted.


def threads_each(slots: Mapping[str, int], cores_there: Mapping[str, int]) -> int:
    """Threads for one run so that no machine has more at work than cores, from 1.

    Both mappings are by worker's address: the runs that it takes at once, and its machine's cores.

    >>> threads_each({"tcp://a:1": 2, "tcp://a:2": 1, "tcp://b:1": 1}, {"tcp://a:1": 8, "tcp://b:1": 4})
    2
    """
    at_once = Counter[str]()
    for address, runs in slots.items():
        at_once[machine(address)] += runs
    return max(1, min(count // at_once[machine(address)] for address, count in cores_there.items()))


def machine(address: str) -> str:
    """
    >>> machine("tcp://10.0.0.1:4567")
    'tcp://10.0.0.1'
    """
    return address.rpartition(":")[0]


def on_worker(job: Job) -> str:
    return perform(job, Unwanted())


class Unwanted:
    """Set when nobody waits any more for what this Dask worker does: its sweep was interrupted, or died."""

    def __init__(self) -> None:
        from distributed import get_worker

        self.worker = get_worker()
        self.key = self.worker.get_current_task()

    def is_set(self) -> bool:
        task = self.worker.state.tasks.get(self.key)
        return task is None or task.state == "cancelled"
