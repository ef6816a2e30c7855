"""Kernels that start in tenths of a second, on Linux: forked by multiprocessing's server, with the libraries loaded."""

import atexit
import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

NAME = "vaebook-forked"  # under which pyproject.toml declares the provisioner to Jupyter
# Python or a library reads these when it starts, so that a later change has no effect.
READ_AT_START = (
    "PYTHON LD_ MALLOC_ GLIBC_ OMP_ GOMP_ KMP_ MKL_ OPENBLAS_ ATEN_ ONEDNN_ DNNL_ TORCH_ PYTORCH_ CUDA_ CUBLAS_"
)
READ_AT_START += " MPLCONFIGDIR MATPLOTLIBRC SKLEARN_ XDG_ LANG LC_ TZ HOME"
# A number of threads can be changed later; the others scikit-learn sets when it is imported.
HARMLESS = {"OMP_NUM_THREADS", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}
CONTEXT: Any = multiprocessing.get_context("forkserver")
# What the chapters import. Not matplotlib_inline: it sets itself up at import, and needs the kernel's IPython for that.
LIBRARIES = "ipykernel.kernelapp ipykernel.debugger IPython.core.completerlib IPython.extensions.storemagic numpy torch"
LIBRARIES += " tornado.platform.asyncio torchvision matplotlib.pyplot sympy sklearn.datasets safetensors.torch tqdm"
CONTEXT.set_forkserver_preload(["vaebook_runner.warm", *LIBRARIES.split()])
INLINE = "module://matplotlib_inline.backend_inline"
counts = {"forked": 0, "plain": 0}  # kernels that this process has started
_starting = threading.Lock()


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that a process must have when it starts."""
    return {k: v for k, v in environment.items() if k.startswith(tuple(READ_AT_START.split())) and k not in HARMLESS}


@cache
def fresh_path() -> list[str]:
    """Where a new interpreter looks for modules: a test or a script may have added folders to this one's path."""
    command = [sys.executable, "-c", "import sys; print(*sys.path[1:], sep='\\n')"]
    return subprocess.check_output(command, text=True).splitlines()


@contextmanager
def deaf() -> Iterator[None]:
    """What is started meanwhile hears no Ctrl-C, which would end an interpreter that is half set up in a traceback."""
    resource_tracker.ensure_running()  # which multiprocessing would start later, and then let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


SERVER_HAS = read_at_start(os.environ)


class ForkedKernel(CONTEXT.Process):  # type: ignore[misc]
    stdin = stdout = stderr = None  # what Jupyter asks of a process that it started

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        self.join()
        return self.exitcode

    def send_signal(self, number: int) -> None:
        if self.exitcode is None:
            os.kill(self.pid, number)


class ForkedProvisioner(LocalProvisioner):
    """Starts kernels by a fork where that makes no difference, and plainly where it would."""

    process: Any = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        options = self._scrub_kwargs(kwargs)
        environment, cwd = dict(options.get("env") or os.environ), str(options.get("cwd") or Path.cwd())
        same = cmd[:3] == [sys.executable, "-m", "ipykernel_launcher"] and read_at_start(environment) == SERVER_HAS
        if same and not multiprocessing.current_process().daemon:  # a daemon may have no children
            # Without a main module, multiprocessing does not import this process's script again in the new one.
            with _starting, deaf(), suppress(OSError, EOFError):  # of a server that cannot be reached
                self.process = ForkedKernel(target=become_kernel, args=(cmd[3:], cwd, environment, fresh_path()))
                main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
                try:
                    self.process.start()
                finally:
                    sys.modules["__main__"] = main
        if not (self.process and self.process.pid):
            counts["plain"] += 1
            return await super().launch_kernel(cmd, **kwargs)
        counts["forked"] += 1
        self.pid, self.pgid, self.cwd = self.process.pid, self.process.pid, cwd
        return self.connection_info

    async def cleanup(self, restart: bool = False) -> None:
        """Leave nothing of the kernel's process group: a cell may have started what goes on without it."""
        if self.pgid:
            with suppress(OSError):
                os.killpg(self.pgid, signal.SIGKILL)
        await super().cleanup(restart)


def become_kernel(arguments: list[str], cwd: str, environment: dict[str, str], path: list[str]) -> None:
    """What ``python -m ipykernel_launcher ARGUMENTS`` does, in a process forked for it."""
    from ipykernel.kernelapp import IPKernelApp
    from threadpoolctl import threadpool_limits

    gc.freeze()  # or the collector would touch, and so copy, every page
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):  # ipykernel shows in the notebook what cells write; its own messages go nowhere
        os.dup2(nothing, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # a Ctrl-C that waited ends this process, silently
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment, JPY_PARENT_PID=str(os.getppid()))
    threading.Thread(target=end_with_parent, args=(Path(arguments[1]).parent,), daemon=True).start()
    if (threads := environment.get("OMP_NUM_THREADS", "")).isdecimal():
        with warnings.catch_warnings(action="ignore"):
            threadpool_limits(int(threads))
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(int(threads))
    sys.modules["matplotlib"].rcParams["backend"] = environment.get("MPLBACKEND") or INLINE
    sys.modules["numpy"].random.seed()  # as in a fresh process: a seed from the system
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()
    sys.path[:], sys.argv = path, ["ipykernel_launcher", *arguments]
    IPKernelApp.launch_instance(argv=arguments, parent_handle=os.getppid())
    atexit._run_exitfuncs()  # multiprocessing leaves without them


def end_with_parent(folder: Path) -> None:
    """End this process with its whole group as soon as the process that wants it is gone, however it went."""
    wait([multiprocessing.parent_process().sentinel])  # type: ignore[union-attr]
    if folder.name.startswith("vaebook-"):  # its sockets, which nobody else will remove
        shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)
