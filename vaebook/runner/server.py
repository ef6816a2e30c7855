"""Fork server: load the libraries once, then fork a kernel for each request.

Runs as a script, ``server.py LISTENER OWNER``: the number of a listening Unix socket, and the
process that started it. It imports nothing of vaebook, so that a kernel reads the module's files as
they are when the kernel imports them.

Each connection is one kernel. The client sends a request (see :func:`checked`) with two file
descriptors, the kernel's stdout and stderr. The answer is ``started PID`` or ``refused REASON``,
and at last ``exited STATUS``. In between the client may send ``signal NUMBER``. A client that hangs
up, or dies, takes its kernel's whole process group along. The server accepts no more when its owner
is gone, and goes with its last kernel; a kernel goes with the server.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import re
import resource
import selectors
import shutil
import signal
import socket
import struct
import sys
import time
import warnings
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# What the chapters and vaebook import. Not matplotlib_inline: it sets itself up at import, and
# needs the kernel's IPython for that.
LIBRARIES = (
    "ipykernel.kernelapp",
    "ipykernel.debugger",  # Each kernel imports it, for a tenth of a second.
    "IPython.core.completerlib",
    "IPython.extensions.storemagic",
    "tornado.platform.asyncio",
    "numpy",
    "torch",
    "torchvision",
    "matplotlib.pyplot",
    "sympy",
    "sklearn.datasets",
    "safetensors.torch",
    "papermill",
    "jupytext",
    "pydantic",
)
# Longest message; each is one packet, which the system neither splits nor joins.
LONGEST = 128 * 1024
REQUEST = {"module": str, "arguments": list, "cwd": str, "environment": dict, "surroundings": dict}
# Variables that Python or a library reads while it starts, so that a later change has no effect.
READ_AT_START = re.compile(
    r"(PYTHON|LD_|MALLOC_|GLIBC_|OMP_|GOMP_|KMP_|MKL_|OPENBLAS_|GOTO_|BLIS_|ATEN_|ONEDNN_|DNNL_|TORCH"
    r"|PYTORCH_|CUDA_|CUBLAS_|CUDNN_|NVIDIA_|MPLCONFIGDIR|MATPLOTLIBRC|NPY_|NUMPY_|SKLEARN_|JOBLIB_"
    r"|XDG_|LANG|LC_|TZ|HOME).*"
)
PR_SET_PDEATHSIG = 1


def surroundings(environment: Mapping[str, str]) -> dict[str, Any]:
    """What a process starts with that cannot be changed, or not simply, once it runs.

    A number of threads in OMP_NUM_THREADS can, and is left out: see :func:`apply_threads`.
    """
    names = sorted(name for name in environment if READ_AT_START.fullmatch(name))
    threads = re.fullmatch(r"[1-9]\d{0,3}", environment.get("OMP_NUM_THREADS", ""))
    limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU)
    return {
        "variables": [
            [name, environment[name]] for name in names if name != "OMP_NUM_THREADS" or not threads
        ],
        "prefix": sys.prefix,
        "cores": sorted(os.sched_getaffinity(0)),
        "limits": [list(resource.getrlimit(limit)) for limit in limits],
        "umask": re.findall(r"Umask:\s*(\d+)", Path("/proc/self/status").read_text()),
    }


def load_libraries() -> None:
    """Import what kernels need, in the state that a kernel's own import would leave behind.

    Raises:
        RuntimeError: if a library left a thread or a CUDA context, which a fork would break.
    """
    # The inline backend's name is set in each kernel.
    os.environ.pop("MPLBACKEND", None)
    # pyarrow, which scikit-learn's import loads where it is installed, would start a thread.
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    for name in LIBRARIES:
        # A library that is not there is missed by the kernel that needs it.
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
    # OpenBLAS starts its threads at import, stops them at a fork, and starts them anew when needed.
    rehearsal = os.fork()
    if rehearsal == 0:
        os._exit(sys.modules["torch"].cuda._is_in_bad_fork())
    if os.waitpid(rehearsal, 0)[1]:
        raise RuntimeError("a library used CUDA when it was imported")
    check_clean()
    # What the libraries tidy up at their end, in vain where the process ends, costs a tenth of a second.
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    # Keeps the collector of a kernel from touching, and so copying, every page of the libraries.
    gc.collect()
    gc.freeze()


def check_clean() -> None:
    """Raise RuntimeError if this process has a thread or a CUDA context, which a fork would break."""
    # A thread that was joined is still listed for a moment.
    for pause in (0, 0.01, 0.1, 1):
        time.sleep(pause)
        threads = len(list(Path("/proc/self/task").iterdir()))
        if threads == 1:
            break
    if threads > 1 or sys.modules["torch"].cuda.is_initialized():
        raise RuntimeError(f"not fit to fork: {threads} threads, or a CUDA context")


def checked(message: bytes) -> dict[str, Any]:
    """The request that ``message`` holds as JSON.

    Raises:
        ValueError: if it is not one.
    """
    request = json.loads(message)
    if not isinstance(request, dict) or {k: type(v) for k, v in request.items()} != REQUEST:
        raise ValueError(f"expected an object of {', '.join(REQUEST)}")
    texts = [*request["arguments"], request["cwd"], *request["environment"], *request["environment"].values()]
    if not all(isinstance(text, str) and "\0" not in text for text in texts):
        raise ValueError("expected text without NUL")
    if request["module"] not in ("ipykernel_launcher", "vaebook.cli"):
        raise ValueError("expected another module")
    if not all(name and "=" not in name for name in request["environment"]):
        raise ValueError("expected names of variables")
    return request


class Server:
    """The connections, and the kernels that were forked for them."""

    def __init__(self, listener: socket.socket, owner: int) -> None:
        self.known = surroundings(os.environ)
        self.threads = os.environ.get("OMP_NUM_THREADS")
        self.selector = selectors.DefaultSelector()
        self.listener: socket.socket | None = listener
        self.owner = owner
        self.kernels: dict[socket.socket, tuple[int, int]] = {}  # connection: process, its pidfd
        self.selector.register(listener, selectors.EVENT_READ, self.accept)
        self.selector.register(owner, selectors.EVENT_READ, self.stop_accepting)

    def serve(self) -> tuple[dict[str, Any], list[int]] | None:
        """Serve until there is nothing more to do; in a forked child, return what it is to run."""
        while self.listener or self.kernels:
            for key, _ in self.selector.select():
                # An earlier one of the same batch may have closed it.
                if self.selector.get_map().get(key.fd) is key and (order := key.data(key.fileobj)):
                    self.close()
                    return order
        return None

    def accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] != os.getuid():
            connection.close()
            return
        self.selector.register(connection, selectors.EVENT_READ, self.receive)

    def stop_accepting(self, owner: int) -> None:
        assert self.listener
        self.selector.unregister(owner)
        self.selector.unregister(self.listener)
        # The owner's own cleaning may have been cut short.
        path = Path(self.listener.getsockname())
        with suppress(OSError):
            path.unlink()
            path.parent.rmdir()  # unless a process has its own folder there
        self.listener.close()
        self.listener = None

    def receive(self, connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
        try:
            message, files, flags, _ = socket.recv_fds(connection, LONGEST, 2)
        except OSError:
            message, files, flags = b"", [], 0
        order = None
        if connection not in self.kernels and message:
            order = self.answer(connection, message, files, flags)
        elif connection in self.kernels and (match := re.fullmatch(rb"signal (\d{1,2})", message)):
            self.kill(connection, int(match[1]))
        else:
            self.hang_up(connection)
        for file in files if order is None else []:
            os.close(file)
        return order

    def hang_up(self, connection: socket.socket) -> None:
        self.selector.unregister(connection)
        if connection in self.kernels:
            self.kill(connection, signal.SIGKILL)  # Closed when it has gone.
        else:
            connection.close()

    def kill(self, connection: socket.socket, number: int) -> None:
        # The process is ours and not yet waited for: its number is nobody else's.
        process = self.kernels[connection][0]
        with suppress(OSError):
            try:
                os.killpg(process, number)
            except ProcessLookupError:
                os.kill(process, number)  # It has not yet made its group.

    def answer(
        self, connection: socket.socket, message: bytes, files: list[int], flags: int
    ) -> tuple[dict[str, Any], list[int]] | None:
        """Fork a kernel, or say why not; return what to run in the child alone."""
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(files) != 2:
                raise ValueError(f"expected at most {LONGEST} bytes with two files")
            request = checked(message)
            if request["surroundings"] != self.known:
                raise ValueError("the kernel's surroundings differ from the server's")
            if self.threads and "OMP_NUM_THREADS" not in request["environment"]:
                raise ValueError("OMP_NUM_THREADS is set for the server alone")
            check_clean()
            process = os.fork()
        except (ValueError, RecursionError, RuntimeError, OSError) as error:
            send(connection, f"refused {error}")
            self.hang_up(connection)
            return None
        if process == 0:
            return request, files
        ended = os.pidfd_open(process)
        self.kernels[connection] = process, ended
        self.selector.register(ended, selectors.EVENT_READ, lambda _: self.reap(connection))
        send(connection, f"started {process}")
        return None

    def reap(self, connection: socket.socket) -> None:
        # While its leader is not waited for, the group's number is taken: what is left of it goes.
        self.kill(connection, signal.SIGKILL)
        process, ended = self.kernels.pop(connection)
        _, status = os.waitpid(process, 0)
        self.selector.unregister(ended)
        os.close(ended)
        send(connection, f"exited {os.waitstatus_to_exitcode(status)}")
        with suppress(KeyError):
            self.selector.unregister(connection)
        connection.close()

    def close(self) -> None:
        """Close in a child what belongs to the server: a kernel holds no connection of another."""
        for connection, (_, ended) in self.kernels.items():
            connection.close()
            os.close(ended)
        for key in list(self.selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        os.close(self.owner)
        self.selector.close()


def send(connection: socket.socket, text: str) -> None:
    with suppress(OSError):
        connection.send(text[:1000].encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def become(
    request: Mapping[str, Any], files: list[int], server: int, threads: str | None, status: list[int]
) -> None:
    """What ``python -m MODULE ARGUMENTS`` does, in a process forked for it."""
    # A process must not outlive the server, which alone knows whether anybody still wants it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)
    os.setsid()
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"], JPY_PARENT_PID=str(server))
    apply_threads(os.environ.get("OMP_NUM_THREADS"), threads)
    backend = os.environ.get("MPLBACKEND") or "module://matplotlib_inline.backend_inline"
    sys.modules["matplotlib"].rcParams["backend"] = backend
    # A fresh process begins with a seed from the system. Python sees to `random` after a fork itself.
    sys.modules["numpy"].random.seed()
    sys.modules["torch"].default_generator.seed()
    importlib.invalidate_caches()
    module = importlib.util.find_spec(request["module"])
    sys.argv = [str(module and module.origin), *request["arguments"]]
    if request["module"] == "vaebook.cli":
        from vaebook.cli import main

        status[0] = main()
    else:
        from ipykernel.kernelapp import IPKernelApp

        os.environ.setdefault("PYDEVD_USE_FRAME_EVAL", "NO")  # as debugpy does when a kernel imports it
        IPKernelApp.launch_instance(parent_handle=server)
        status[0] = 0


def apply_threads(wanted: str | None, loaded: str | None) -> None:
    """Set the threads that OMP_NUM_THREADS asks for, where the libraries were loaded with others."""
    if wanted is None or wanted == loaded:
        return
    from threadpoolctl import threadpool_limits  # Comes with scikit-learn.

    with warnings.catch_warnings(action="ignore"):
        threadpool_limits(int(wanted))
    sys.modules["torch"].set_num_threads(int(wanted))


def main() -> None:
    listener, owner = int(sys.argv[1]), int(sys.argv[2])
    if not sys.flags.safe_path:
        del sys.path[0]  # This folder, which Python puts there for a script.
    watched = os.pidfd_open(owner)
    if os.getppid() != owner:
        return
    # Registered first, called last. To free each object of the libraries takes half a second.
    status = [1]
    atexit.register(leave, status)
    accepting = socket.socket(fileno=listener)
    folder = Path(accepting.getsockname()).parent
    server, own = Server(accepting, watched), os.getpid()
    load_libraries()
    if order := server.serve():
        become(*order, own, server.threads, status)
    else:
        shutil.rmtree(folder, ignore_errors=True)  # what killed processes left in it


def leave(status: list[int]) -> None:
    """End the process with ``status[0]``, when all that had to be done at its end is done."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status[0])


if __name__ == "__main__":
    main()
