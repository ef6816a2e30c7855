"""Run one notebook: load, parametrise, execute, save, raise."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vaebook.runner.files import ipynb_text, read_ipynb, write_atomically
from vaebook.runner.parameters import Value


class CellFailed(Exception):
    """A cell raised an error; its message shows the cell's number, source and error."""


def execute(
    notebook: Any, source: Path, out: Path, values: Mapping[str, Value], progress: bool = False
) -> None:
    """Execute ``notebook`` in a kernel of its own and write the executed copy to ``out``.

    The kernel is the interpreter that runs this function, works in the current folder, and is
    reached through sockets in a private folder rather than TCP ports. (ipykernel still keeps one
    authenticated loopback port of its own, for the output of processes that a cell forks.) Run one
    notebook a process: the environment and the working directory belong to the whole process.

    Raises:
        CellFailed: if a cell failed; ``out`` then holds the part that ran, with the error.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    with _private_folder() as folder, _environment(_kernel_environment(folder)):
        given, result = folder / "given.ipynb", folder / "result.ipynb"
        given.write_text(ipynb_text(notebook), encoding="utf-8")
        stopped: Exception | None = None
        try:
            papermill.execute_notebook(
                given,
                result,
                dict(values),
                kernel_name="python3",
                language="python",
                progress_bar=progress,
                config=_connection(folder),
                coalesce_streams=True,
            )
        except (PapermillExecutionError, DeadKernelError) as error:
            stopped = error
        finally:
            # Also after an interruption: what ran is kept.
            if result.exists():
                _keep(result, source, out)
        _raise_for_failure(read_ipynb(result), source, stopped)


def _keep(result: Path, source: Path, out: Path) -> None:
    notebook = read_ipynb(result)
    notebook.metadata.papermill.update(input_path=source.name, output_path=out.name)
    write_atomically(out, ipynb_text(notebook))


def _raise_for_failure(executed: Any, source: Path, stopped: Exception | None) -> None:
    """Raise :class:`CellFailed` for the first cell with an error, or the last before a crash."""
    code = [
        (cell, [output for output in cell.outputs if output.output_type == "error"])
        for cell in executed.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    failed = [number for number, (_, errors) in enumerate(code, 1) if errors]
    started = [n for n, (cell, _) in enumerate(code, 1) if cell.metadata.papermill.start_time]
    if not failed and stopped is None:
        return
    number = failed[0] if failed else started[-1]
    cell, errors = code[number - 1]
    reason = "\n".join(errors[0].traceback) if errors else f"{stopped}"
    raise CellFailed(
        f"{source.stem}: code cell {number} of {len(code)} failed\n\n"
        f"{_indented(cell.source)}\n\n{_without_colour(reason)}"
    )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def _without_colour(text: str) -> str:
    from papermill.exceptions import strip_color

    return str(strip_color(text))


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that only this user can enter, with a path short enough for sockets."""
    from vaebook.runner.forked import private_folder

    folder = private_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _connection(folder: Path) -> Any:
    """Configuration that makes the kernel's five channels sockets in ``folder``."""
    import zmq
    from traitlets.config import Config

    from vaebook.runner.forked import LONGEST_SOCKET_FOLDER

    manager = {
        "connection_file": str(folder / "kernel.json"),
        "client_class": "vaebook.runner.provisioner.PromptClient",
    }
    fits = len(os.fsencode(folder)) <= LONGEST_SOCKET_FOLDER + len("/vaebook-12345678")
    if os.name == "posix" and zmq.has("ipc") and fits:
        manager |= {"transport": "ipc", "ip": str(folder / "kernel")}
    return Config({"KernelManager": manager})


def _kernel_environment(folder: Path) -> dict[str, str]:
    """Environment in which nothing that a user configured for other work changes an output."""
    from ipykernel.kernelspec import write_kernel_spec

    from vaebook.runner.forked import NAME, SOCKET

    # First on Jupyter's path, so that a kernel of that name installed by the user, or another
    # python3 on PATH, cannot take its place.
    write_kernel_spec(folder / "jupyter" / "kernels" / "python3")
    paths = [str(folder / "jupyter"), os.environ.get("JUPYTER_PATH", "")]
    environment = {
        "JUPYTER_PATH": os.pathsep.join(filter(None, paths)),
        "IPYTHONDIR": str(folder / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    # A server pays from its second kernel on: whoever runs several notebooks has started one.
    if SOCKET in os.environ:
        environment["JUPYTER_DEFAULT_PROVISIONER_NAME"] = NAME
    # A relative folder means the one seen from here, also for a chapter that changes folders.
    if data := os.environ.get("VAEBOOK_DATA"):
        environment["VAEBOOK_DATA"] = str(Path(data).expanduser().absolute())
    return environment


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
