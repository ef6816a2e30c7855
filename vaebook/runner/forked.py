"""Kernels and runs that start in tenths of a second: forked from a process with the libraries loaded.

The process that forks, see :mod:`vaebook.runner.server`, serves the one that started it and all that
descend from that. Where it cannot give the process that a plain start would give, :func:`fork` says so,
and the start is a plain one.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME = "vaebook-forked"
# Names the server's socket, for this process and those that it starts.
SOCKET = "VAEBOOK_FORK_SERVER"
# Seconds that a busy machine may take to load the libraries.
PATIENCE = 120
# A Unix socket's path has room for about 100 characters, of which ours need 40.
LONGEST_SOCKET_FOLDER = 60
STREAMS = ("stdout", "stderr")


class PlainStart(Exception):
    """The process cannot be forked; the message says why."""


def private_folder() -> Path:
    """Make a folder that only this user can enter, with a path short enough for sockets."""
    # The server removes its own folder at the end, with what processes that were killed left there.
    base = str(Path(os.environ.get(SOCKET, "")).parent)
    if SOCKET not in os.environ or len(base) > LONGEST_SOCKET_FOLDER or not os.access(base, os.W_OK):
        base = tempfile.gettempdir()
    if len(os.fsencode(base)) > LONGEST_SOCKET_FOLDER and os.access("/tmp", os.W_OK):
        base = "/tmp"
    # mkdtemp gives mode 0700; papermill takes braces in a path for parameters, it has none.
    return Path(tempfile.mkdtemp(prefix="vaebook-", dir=base)).resolve()


def start_server(environment: Mapping[str, str] | None = None) -> None:
    """Start the process that forks, and do not wait for it.

    Nothing is done where there is one already, where the user chose another kernel provisioner, and
    on systems other than Linux.

    Processes whose environment agrees with ``environment`` (this process's own, if not given) in what
    libraries read at their start can be forked. The server ends with this process, however it ends.
    """
    chosen = os.environ.get("JUPYTER_DEFAULT_PROVISIONER_NAME", NAME)
    if SOCKET in os.environ or chosen != NAME or sys.platform != "linux":
        return
    folder = private_folder()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        # Requests may come before the server is ready, and are refused as soon as it has died.
        program = str(Path(__file__).with_name("server.py"))
        process = subprocess.Popen(
            [sys.executable, program, str(listener.fileno()), str(os.getpid())],
            cwd="/",  # Where no file is taken for a module, nor for matplotlib's settings.
            env=environment,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Out of reach of Ctrl-C, which is for who started it.
        )
    os.environ[SOCKET] = str(folder / "socket")
    atexit.register(_forget, process, folder, os.getpid())


def _forget(process: subprocess.Popen[bytes], folder: Path, owner: int) -> None:
    """Clean up at exit. The server ends by itself, once it has no kernel of another process."""
    if os.getpid() == owner:  # and not a process forked from it.
        shutil.rmtree(folder, ignore_errors=True)
        process.returncode = process.poll() or 0  # Or Python warns that it runs.


class ForkedProcess:
    """A forked process, as ``subprocess.Popen`` shows one, known to us through the server alone.

    Its signals are sent by the server, whose child it is: a process that took over its number is
    never met. It dies with the server, so that the end of the connection is its end.
    """

    stdin = stdout = stderr = None

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.connection = connection
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> int | None:
        if self.returncode is None:
            self.connection.settimeout(timeout)
            try:
                answer = self.connection.recv(64).decode()
            except (TimeoutError, BlockingIOError):
                return None
            except OSError:
                answer = ""
            self.connection.close()
            self.returncode = int(answer.removeprefix("exited ")) if answer else -signal.SIGKILL
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(OSError):
                self.connection.send(f"signal {int(number)}".encode())


def fork(command: list[str], **options: Any) -> ForkedProcess:
    """Ask the server for the process that ``subprocess.Popen(command, **options)`` would start.

    It has a session of its own, and no standard input.

    Raises:
        PlainStart: if it cannot be forked.
    """
    streams = [_descriptor(options.pop(name, None), number) for number, name in enumerate(STREAMS, 1)]
    environment, cwd = dict(options.pop("env")), options.pop("cwd", None) or Path.cwd()
    if unknown := [name for name, value in options.items() if value]:
        raise PlainStart(f"no fork with {', '.join(unknown)}")
    if SOCKET not in os.environ:
        raise PlainStart("no server on this system")
    from vaebook.runner.server import surroundings  # Imports what other systems lack.

    match command:
        case [sys.executable, "-m", "ipykernel_launcher" | "vaebook.cli" as module, *arguments]:
            pass
        case _:
            raise PlainStart("another interpreter or program")
    request = {
        "module": module,
        "arguments": arguments,
        "cwd": str(Path(cwd).absolute()),
        "environment": environment,
        "surroundings": surroundings(environment),
    }
    return _ask(os.environ[SOCKET], json.dumps(request).encode(), streams)


def _descriptor(stream: Any, default: int) -> int:
    if stream is None:
        return default
    number = int(stream if isinstance(stream, int) else stream.fileno())
    if number < 0:
        raise PlainStart("a pipe to the process")
    return number


def _ask(path: str, request: bytes, streams: list[int]) -> ForkedProcess:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(PATIENCE)
    try:
        connection.connect(path)
        socket.send_fds(connection, [request], streams)
        answer = connection.recv(4096).decode()
        if not answer.startswith("started "):
            raise PlainStart(answer or "the server ended")
    except BaseException:
        connection.close()
        raise
    return ForkedProcess(connection, int(answer.removeprefix("started ")))
