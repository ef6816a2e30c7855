"""Run one notebook in a kernel of its own: load, parametrise, execute, save, raise."""

import asyncio
import atexit
import getpass
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vaebook_runner.files import Failed, write_atomically
from vaebook_runner.parameters import Value

SECONDS_BETWEEN_LOOKS = 0.1
# With these, what a user configured for other work changes nothing in a process that is started.
NEUTRAL = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONSTARTUP": "", "PYTHONWARNINGS": ""}
NEUTRAL["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
DEFAULTS = "import matplotlib.font_manager; matplotlib.rcParams.update(matplotlib.rcParamsDefault); del matplotlib"


def cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def settle() -> None:
    """Make this process, and what it starts, depend on nothing that a user configured for other work.

    Libraries ask for the user's name and home; in a container there may be neither, or a home that is read-only.
    """
    os.environ.update(NEUTRAL)
    sys.warnoptions.clear()  # of PYTHONWARNINGS, which would be handed on
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = "reader"
    if not os.access(os.path.expanduser("~"), os.W_OK):  # noqa: PTH111 (that of Path fails without a home)
        os.environ["HOME"] = os.environ["USERPROFILE"] = folder = tempfile.mkdtemp(prefix="vaebook-home-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def execute(
    notebook: Any, out: Path, values: Mapping[str, Value], *, name: str, cwd: str = ".", threads: int = 0,
    fork: bool = False, progress: bool = False, stop: Callable[[], str] = str,
) -> str:  # fmt: skip
    """Execute ``notebook`` with the given values, and write the executed copy, or the part that ran, to ``out``.

    The kernel is this very interpreter, works in the folder ``cwd`` with at most ``threads`` threads (0: any), and uses
    no network. If ``stop`` gives a reason to stop, that is returned. Raises Failed for the cell that failed.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError, strip_color

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what goes wrong is raised below
    error, reason, executed, kernels = "", "", None, list[Any]()
    with private_folder() as folder, ThreadPoolExecutor(1) as thread:
        result = folder / "result.ipynb"
        future = thread.submit(
            papermill.execute_notebook, notebook, result, dict(values), kernel_name="python3", language="python",
            progress_bar=progress, resources={"metadata": {"path": cwd}}, coalesce_streams=True,
            kernel_manager_class=kernel_class(folder, kernel_environment(folder, threads), fork, kernels),
        )  # fmt: skip
        while not future.done():
            try:
                wait([future], SECONDS_BETWEEN_LOOKS)
                reason = reason or stop()
            except KeyboardInterrupt:
                reason = "interrupted"
            for kernel in kernels if reason else []:  # it may still be starting: this is repeated until all is over
                with suppress(Exception):
                    asyncio.run(kernel.provisioner.kill())  # with its process group
        if result.exists():  # also after an interruption: what ran is kept
            executed = nbformat.read(result, as_version=4)
            executed.metadata.papermill.update(input_path=f"{name}.md", output_path=out.name)
            write_atomically(out, nbformat.writes(executed) + "\n")
        try:
            future.result()
        except (PapermillExecutionError, DeadKernelError, RuntimeError) as stopped:
            error = str(stopped)
    if reason == "interrupted":
        raise KeyboardInterrupt
    if reason:
        return reason
    cells = executed.cells if executed else []
    code = [c for c in cells if c.cell_type == "code" and "injected-parameters" not in c.metadata.tags]
    ran = [cell for cell in code if cell.metadata.papermill.start_time]
    raised = [(cell, o) for cell in ran for o in cell.outputs if o.output_type == "error"]
    unwanted = [(cell, o) for cell, o in raised if "raises-exception" not in cell.metadata.tags]
    if unwanted or (error and not (raised and len(ran) == len(code))):
        at = unwanted[-1][0] if unwanted else ran[-1] if ran else None
        source = "\n".join(f"    {line}".rstrip() for line in (at.source if at else "").splitlines())
        where = f"{name}: code cell {code.index(at) + 1 if at else 0} of {len(code)} failed"
        error = "\n".join(unwanted[-1][1].traceback) if unwanted else error
        raise Failed(f"{where}\n\n{source}\n\n{strip_color(error)}")
    return ""


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can enter, with a path short enough for sockets and without braces."""
    long = len(os.fsencode(tempfile.gettempdir())) > 60  # of the 100 or so that a Unix socket's path may have
    base = "/tmp" if long and os.access("/tmp", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="vaebook-", dir=base, ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


def kernel_environment(folder: Path, threads: int) -> dict[str, str]:
    """Variables with which nothing that a user configured for other work changes an output."""
    values = {"IPYTHONDIR": str(folder / "ipython"), **NEUTRAL}
    chosen, data = os.environ.get("OMP_NUM_THREADS", ""), os.environ.get("VAEBOOK_DATA")
    if threads:
        values["OMP_NUM_THREADS"] = str(min(threads, int(chosen) or threads) if chosen.isdecimal() else threads)
    if data:  # a relative folder is meant from here, wherever the chapter works
        values["VAEBOOK_DATA"] = str(Path(data).expanduser().absolute())
    return values


def kernel_class(folder: Path, environment: dict[str, str], fork: bool, kernels: list[Any]) -> type:
    """A class of kernel managers for one execution: nbclient makes the instance, which ``kernels`` then holds."""
    import zmq
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    # Another kernel of the user's that is called python3 cannot take the place of this one.
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=50"]
    command.append(f"--IPKernelApp.exec_lines={DEFAULTS}")
    name = "vaebook-forked" if fork and sys.platform == "linux" else "local-provisioner"
    about = {"kernel_provisioner": {"provisioner_name": name}}
    spec = KernelSpec(argv=command, env=environment, language="python", metadata=about)

    class Kernel(AsyncKernelManager):
        kernel_spec = spec

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.connection_file = str(folder / "kernel.json")
            if os.name == "posix" and zmq.has("ipc"):
                self.transport, self.ip = "ipc", str(folder / "kernel")
            kernels.append(self)

    return Kernel
