"""Start ``vaebook`` in a process of its own, and stop it with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

from vaebook.runner.forked import SOCKET, ForkedProcess, PlainStart, fork, start_server

Process = subprocess.Popen[bytes] | ForkedProcess
# Seconds that a stopped run gets to shut its kernel down: a busy one takes nbclient five.
STOPPING_TIME = 15
starting = threading.Lock()


def cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def with_threads(threads: int) -> dict[str, str]:
    """This environment, in which libraries use at most ``threads`` threads; fewer if the user chose fewer."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    if chosen.isdecimal() and int(chosen) > 0:
        threads = min(threads, int(chosen))
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


def spawn(
    words: Sequence[str], environment: Mapping[str, str], log: IO[bytes], cwd: str | None = None
) -> Process:
    """Start ``vaebook WORDS…`` in a session of its own: Ctrl-C in the terminal reaches this process alone.

    It is forked from a process with the libraries loaded where that is possible, else started plainly.
    """
    command = [sys.executable, "-m", "vaebook.cli", *words]
    with starting:
        start_server(environment)
    # The first run has an environment from before the server: its kernel is to be forked too.
    if SOCKET in os.environ:
        environment = {**environment, SOCKET: os.environ[SOCKET]}
    try:
        return fork(command, env=environment, cwd=cwd, stdout=log, stderr=log)
    except (PlainStart, OSError):
        return subprocess.Popen(
            command,
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(process: Process) -> None:
    """Ask a run to stop, which keeps the part that ran and ends its kernel; leave nothing of its group."""
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOPPING_TIME
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if isinstance(process, ForkedProcess):
        process.send_signal(signal.SIGKILL)  # The server sends it to the whole group.
    elif os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()  # groups of processes are not known there
    process.wait()
