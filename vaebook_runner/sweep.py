"""Perform many jobs, several at once; a build of the book is such a sweep.

The folder of runs is the only memory: a sweep that was stopped goes on where it was, and two on one share the work.
"""

import json
import math
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import click
from filelock import FileLock, Timeout
from tqdm import tqdm

from vaebook_runner import records
from vaebook_runner.chapters import read_notebook
from vaebook_runner.execute import cores, execute
from vaebook_runner.files import Failed, UsageError, digest, printable
from vaebook_runner.jobs import Job, fingerprint

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_OF_PATIENCE = 60  # after which people are told what is waited for
# Who performs jobs: an executor, and what it calls for each, which returns "done" or how else the job ended.
Workers = tuple[Executor, Callable[[Job], str]]


@contextmanager
def here(at_once: int) -> Iterator[Workers]:
    """Threads of this process, each of which watches over one kernel at a time; the kernels share the cores."""
    stop, threads = threading.Event(), max(1, cores() // at_once)
    executor = ThreadPoolExecutor(at_once)
    try:
        yield executor, lambda job: perform(job, threads, stop.is_set)
    finally:
        stop.set()
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def dask_workers(address: str) -> Iterator[Workers]:
    """The workers of a Dask scheduler, which is trusted; they see this machine's files, under the same paths."""
    try:
        from distributed import Client

        if "://" not in address or not address.rpartition(":")[2].isdecimal():
            raise ValueError("it needs to read like tcp://HOST:PORT")
        client = Client(address, timeout=10, set_as_default=False)
    except (ModuleNotFoundError, OSError, ValueError, TypeError) as error:
        raise UsageError(f"no Dask scheduler at {address}: {error} (Dask comes with the extra 'cluster')") from None
    with client:
        if not client.nthreads():
            raise UsageError(f"the Dask scheduler at {address} has no workers")
        # Not pure: a run that is tried again is a new one. A lost worker's runs go to another by themselves.
        executor = client.get_executor(pure=False)
        try:
            yield executor, perform_on_worker
        finally:
            executor.shutdown(wait=False)  # what has not finished is cancelled


def perform_on_worker(job: Job) -> str:
    """Perform a job until nobody waits for it any more: its sweep was interrupted, or died."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def unwanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    # The runs of this worker share its cores; several workers on one machine share them by OMP_NUM_THREADS.
    return perform(job, max(1, cores() // worker.state.nthreads), unwanted)


def sweep(jobs: Sequence[Job], workers: Callable[[], AbstractContextManager[Workers]]) -> str:
    """Perform the jobs not done; fail, when all have ended, if some did not end well. Ctrl-C keeps what is done."""
    folder, ended = Path(jobs[0].folder), dict[str, str]()
    # A run that was killed behind its record has left its hidden folder.
    left = {path.name[1:].partition("-")[0].removesuffix(".lock") for path in folder.glob(".*")}
    rest = [job for job in jobs if job.name in left or not job.is_done()]
    if rest and len(rest) < len(jobs):
        click.echo(f"{len(jobs) - len(rest)} of {len(jobs)} runs are done already", err=True)
    try:
        if rest:
            with workers() as ready:
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
                ended = perform_all(rest, *ready)
    except OSError as error:
        raise UsageError(f"DIR cannot be written: {folder} ({error.strerror})") from None
    except KeyboardInterrupt:
        done = f"{sum(job.is_done() for job in jobs)} of {len(jobs)} runs are done, in {folder}"
        click.echo(f"interrupted: {done}; the same command runs the rest", err=True)
        raise click.exceptions.Exit(130) from None
    if bad := [f"  {ended[job.id].splitlines()[0]:.60}  {job.label}" for job in rest if ended[job.id] != "done"]:
        last = f"their records and notebooks in {folder} say why; the same command tries them again"
        raise Failed("\n".join([f"{len(bad)} of {len(jobs)} runs did not end well:", *bad, last]))
    return f"all {len(jobs)} runs are done, in {folder}"


def perform_all(jobs: Sequence[Job], executor: Executor, perform: Callable[[Job], str]) -> dict[str, str]:
    """Perform every job and return how each ended; a job that another process is at is waited for."""
    pending, ended = {executor.submit(perform, job): job for job in jobs}, dict[str, str]()
    patience = time.monotonic() + SECONDS_OF_PATIENCE
    with tqdm(total=len(jobs), unit="run", disable=None, file=sys.stderr) as bar:
        while pending:
            for future in wait(pending, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)[0]:
                job = pending.pop(future)
                try:
                    end = future.result()
                except Exception as error:  # a full disk, or a lost worker: the other jobs go on
                    end = printable(f"lost: {type(error).__name__}: {error}")
                if end == "elsewhere":
                    if time.monotonic() > patience:
                        lock = Path(job.folder, f".{job.name}.lock")
                        tqdm.write(f"waiting for {job.label}, at which another process is: {lock}", file=sys.stderr)
                        patience = math.inf
                    time.sleep(SECONDS_BETWEEN_LOOKS / 10)
                    pending[executor.submit(perform, job)] = job
                else:
                    ended[job.id] = end
                    bar.update()
                    tqdm.write(f"[{len(ended)}/{len(jobs)}] {job.label}: {end}", file=sys.stderr)
    return ended


def perform(job: Job, threads: int, stop: Callable[[], bool]) -> str:
    """Execute ``job`` and record it, unless it is done or "elsewhere", at which another process is; or "stopped"."""
    folder, lock = Path(job.folder), Path(job.folder, f".{job.name}.lock")
    with suppress(Timeout), FileLock(lock, blocking=False):
        try:
            for rest in folder.glob(f".{job.name}-*"):  # of a run that was killed, or somebody held its lock
                shutil.rmtree(rest, ignore_errors=True)
            if job.is_done():
                return "done"
            with tempfile.TemporaryDirectory(prefix=f".{job.name}-", dir=folder, ignore_cleanup_errors=True) as part:
                return execute_and_record(job, Path(part), threads, stop)
        finally:
            with suppress(OSError):  # Windows removes no open file
                lock.unlink()
    return "elsewhere"


def execute_and_record(job: Job, part: Path, threads: int, stop: Callable[[], bool]) -> str:
    """Execute the chapter in the folder ``part``, and move its notebook and its record into place."""
    began, clock, source, out = datetime.now(UTC), time.monotonic(), Path(job.source), part / job.notebook.name

    def reason() -> str:
        late = job.timeout and time.monotonic() > clock + job.timeout
        return "stopped" if stop() else f"stopped after {job.timeout} s" if late else ""

    error = stopped = ""
    try:
        if digest(job.made_from) != job.state:
            raise Failed("the chapter, the module or the lock changed since the command began; start it again")
        how = {"name": source.stem, "cwd": job.cwd, "threads": threads, "fork": True, "stop": reason}
        stopped = execute(read_notebook(source), out, job.values, **how)  # type: ignore[arg-type]
        if fingerprint(job.state, job.values, Path(job.folder)) != job.id:
            remedy = "what a run writes belongs into the folder of runs"
            raise Failed(f"files that a parameter names, or packages, changed since the command began; {remedy}")
    except Failed as failure:
        error = failure.message[-20_000:]  # the end is what counts
    if stopped == "stopped":
        return stopped
    executed = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"cells": []}
    values = dict[str, records.Measured]()
    try:
        values = records.recorded_values(executed)
    except (ValueError, KeyError, TypeError) as bad_value:
        error = error or f"a recorded value cannot be kept: {bad_value}"
    notes = (cell["metadata"].get("papermill", {}).get("duration") or 0.0 for cell in executed["cells"])
    record = records.Record(
        id=job.id, status="timeout" if stopped else "failed" if error else "done", chapter=source.stem,
        parameters=job.values, values=values, versions=records.versions(), device=records.device(), commit=job.commit,
        source=job.state, began=began.isoformat(timespec="microseconds"), seconds=round(time.monotonic() - clock, 3),
        cell_seconds=round(sum(notes), 3), notebook_bytes=out.stat().st_size if out.is_file() else 0,
        error=stopped or error or None,
    )  # fmt: skip
    (part / job.record.name).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for place in (job.notebook, job.record):  # the record last: where there is one, the run is over
        if (part / place.name).is_file():
            (part / place.name).replace(place)
        else:
            place.unlink(missing_ok=True)  # of an earlier run that came further
    return ": ".join(filter(None, [record.status, record.error]))
