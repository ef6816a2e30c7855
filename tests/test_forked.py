"""A forked kernel is the kernel that a plain start would give, only sooner; nothing outlives the process that wants it."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import psutil
import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import KernelProvisionerFactory

if sys.platform != "linux":
    pytest.skip("kernels are forked on Linux alone", allow_module_level=True)

from vaebook_runner import forked

ROOT = Path(__file__).parents[1]
FONT_CACHE = matplotlib.get_cachedir()  # read here, because pytester changes the home folder in its tests
IPYKERNEL = [sys.executable, "-m", "ipykernel_launcher", "-f", "connection.json"]

STATE = """\
import json, logging, os, random, sys
import matplotlib, numpy, torch
links = [os.path.join("/proc/self/fd", n) for n in os.listdir("/proc/self/fd")]
print(json.dumps(dict(
    seed=torch.initial_seed(), torch=torch.rand(()).item(), numpy=numpy.random.rand(), random=random.random(),
    cuda=torch.cuda.is_initialized(), threads=torch.get_num_threads(), dtype=str(torch.get_default_dtype()),
    vaebook="vaebook" in sys.modules, path=sys.path, words=len(sys.argv), cwd=os.getcwd(), main=__name__,
    leader=os.getpid() == os.getpgrp() == os.getsid(0), variables=dict(os.environ), names=sorted(globals()),
    handlers=[type(handler).__name__ for handler in logging.root.handlers],
    sockets=sum("socket:" in os.readlink(link) for link in links if os.path.lexists(link)),
    backend=matplotlib.rcParams["backend"], settings=str(matplotlib.rcParams), tracer=sys.gettrace() is None,
    excepthook=sys.excepthook.__qualname__, limit=sys.getrecursionlimit(),
)))"""
WARNS = "import warnings; [warnings.warn('old', kind) for kind in (DeprecationWarning, UserWarning, ResourceWarning)]"

# A process that starts a kernel, which starts a process of its own; it prints the names of all of them.
OWNER = """\
import json, os, psutil, sys, time
from vaebook_runner import forked
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import KernelProvisionerFactory
KernelProvisionerFactory.instance().default_provisioner_name = forked.NAME

def start():
    manager = KernelManager()
    manager.start_kernel()
    return manager

manager = start()
kernel = psutil.Process(manager.provisioner.pid)
print(json.dumps([kernel.pid, kernel.ppid()]), flush=True)
"""
# A process that executes a chapter, as builds and sweeps do.
EXECUTES = """\
import sys
from pathlib import Path
from vaebook_runner.chapters import read_notebook
from vaebook_runner.execute import execute
execute(read_notebook(Path("chapter.ipynb")), Path("out.ipynb"), {}, name="chapter", fork=True)
"""
STARTS_ANOTHER = """\
import json, os, pathlib, subprocess, time
child = subprocess.Popen(["sleep", "600"])
pathlib.Path("pids.part").write_text(json.dumps([os.getpid(), os.getppid(), child.pid]))
os.replace("pids.part", "pids")
time.sleep(600)"""


class Kernel:
    """A kernel that this process started, by a fork where that is possible."""

    def __init__(self, **options: Any) -> None:
        self.manager = KernelManager()
        with Path(os.devnull).open("w") as null:
            self.manager.start_kernel(stderr=null, **options)
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    @property
    def process(self) -> Any:
        return self.manager.provisioner.process

    @property
    def is_forked(self) -> bool:
        return isinstance(self.process, forked.ForkedKernel)

    def run(self, code: str) -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = []
        reply = self.client.execute_interactive(code, timeout=60, output_hook=lambda m: outputs.append(m["content"]))
        # What arrives too soon after an error is dropped by ipykernel together with the queue.
        return outputs if reply["content"]["status"] != "aborted" else self.run(code)

    def printed(self, code: str) -> str:
        return "".join(output.get("text", "") for output in self.run(code))

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Kernel]]:
    kernels: list[Kernel] = []
    monkeypatch.setattr(KernelProvisionerFactory.instance(), "default_provisioner_name", forked.NAME)

    def begin(**options: Any) -> Kernel:
        kernels.append(Kernel(**options))
        return kernels[-1]

    yield begin
    for kernel in kernels:
        kernel.stop()


def gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, **variables}


def test_a_forked_kernel_is_in_the_state_of_a_fresh_one(
    start: Callable[..., Kernel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    options = {"cwd": str(tmp_path / "here"), "env": environment(MARK="µ \udc80=1")}
    kernels = [start(**options), start(**options)]
    monkeypatch.setattr(forked, "SERVER_HAS", {"of": "another environment"})
    plain = start(**options)
    assert [kernel.is_forked for kernel in (*kernels, plain)] == [True, True, False]
    one, two, fresh = (json.loads(kernel.printed(STATE)) for kernel in (*kernels, plain))
    for state in (one, two, fresh):
        assert state["variables"].pop("JPY_PARENT_PID")
        state["variables"].pop("PYDEVD_USE_FRAME_EVAL", None)  # ipykernel's, when it loads its debugger
    # Each begins with a seed of its own from the system, as every process does.
    drawn = {state.pop(name) for name in ("seed", "torch", "numpy", "random") for state in (one, two, fresh)}
    assert len(drawn) == 12
    assert one == two == fresh
    warned = {re.sub(r"_\d+", "_N", kernel.printed(WARNS)) for kernel in (*kernels, plain)}
    assert len(warned) == 1
    assert "DeprecationWarning: old" in warned.pop()
    assert one["cwd"] == str(tmp_path / "here")
    assert one["variables"]["MARK"] == "µ \udc80=1"
    assert one["main"] == "__main__"


def test_kernels_do_not_share_what_they_define(start: Callable[..., Kernel]) -> None:
    one, two = start(), start()
    one.run("x = 1; import torch, numpy; torch.manual_seed(3); numpy.pi = 3; torch.set_num_threads(1)")
    three = start()
    for other in (two, three):
        assert other.is_forked
        assert other.printed("import numpy, torch; print('x' in globals(), numpy.pi > 3.1)") == "False True\n"
        assert other.printed("print(torch.initial_seed() == 3)") == "False\n"


def test_threads_are_those_that_the_environment_asks_for(start: Callable[..., Kernel]) -> None:
    code = """\
import numpy, os, torch
from threadpoolctl import threadpool_info
a = numpy.random.default_rng(1).normal(size=(700, 700))
b = torch.from_numpy(a)
exact = numpy.einsum("ij,j->i", a, a @ numpy.ones(700), optimize=False)
right = [bool(abs(p @ numpy.ones(700) - exact).max() < 1e-6) for p in (a @ a, (b @ b).numpy())]
blas = {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}
print(torch.get_num_threads(), blas, right, len(os.listdir("/proc/self/task")) > TASKS)"""
    for threads in (2, 1):
        kernel = start(env=environment(OMP_NUM_THREADS=str(threads)))
        assert kernel.is_forked
        idle = kernel.printed("import os; print(len(os.listdir('/proc/self/task')))")
        printed = kernel.printed(code.replace("TASKS", idle))
        assert printed == f"{threads} {{{threads}}} [True, True] {threads > 1}\n"


def test_a_figure_is_shown_inline(start: Callable[..., Kernel]) -> None:
    kernel = start(env={k: v for k, v in os.environ.items() if k != "MPLBACKEND"})
    outputs = kernel.run("import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()")
    assert kernel.is_forked
    assert ["image/png" in output["data"] for output in outputs if "data" in output] == [True]


def test_a_busy_cell_is_interrupted_and_the_kernel_lives(start: Callable[..., Kernel]) -> None:
    kernel = start()
    request = kernel.client.execute("import time; print('begun'); time.sleep(60)")
    while kernel.client.get_iopub_msg(timeout=10)["msg_type"] != "stream":
        pass
    kernel.manager.interrupt_kernel()
    reply = kernel.client.get_shell_msg(timeout=10)
    while reply["parent_header"]["msg_id"] != request:  # a late answer to "are you ready?"
        reply = kernel.client.get_shell_msg(timeout=10)
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert kernel.printed("print(1)") == "1\n"


@pytest.mark.parametrize(("code", "status"), [("os._exit(7)", 7), ("os.kill(os.getpid(), 9)", -9)])
def test_the_end_of_a_kernel_and_its_status_are_noticed(start: Callable[..., Kernel], code: str, status: int) -> None:
    kernel = start()
    child = int(kernel.printed("import os, subprocess; print(subprocess.Popen(['sleep', '60']).pid)"))
    kernel.client.execute(code)
    kernel.process.join(10)
    assert kernel.process.exitcode == status
    assert not kernel.manager.is_alive()
    kernel.stop()
    assert gone(child)


def test_a_kernel_that_is_gone_may_be_interrupted_and_shut_down(start: Callable[..., Kernel]) -> None:
    kernel = start()
    kernel.client.execute("import os; os._exit(7)")
    kernel.process.join(10)
    kernel.manager.interrupt_kernel()
    kernel.stop()


def test_a_shutdown_ends_the_whole_process_group(start: Callable[..., Kernel]) -> None:
    kernel = start()
    process = kernel.process
    command = "sleep 60 > /dev/null 2>&1 & echo $!"
    code = f"import subprocess; print(subprocess.check_output({command!r}, shell=True, text=True))"
    orphan = int(kernel.printed(code))
    assert psutil.pid_exists(orphan)
    kernel.manager.shutdown_kernel()
    assert process.exitcode == 0
    assert gone(process.pid)
    assert gone(orphan)


def started_plainly(command: list[str], cwd: Path, variables: dict[str, str]) -> bool:
    """Start a kernel by a command, kill it at once, and tell whether it was a plain process."""
    provisioner = forked.ForkedProvisioner(kernel_id="1", kernel_spec=KernelSpec(argv=command))
    before = dict(forked.counts)
    asyncio.run(provisioner.launch_kernel(command, cwd=str(cwd), env=environment(**variables)))
    process, plain = provisioner.process, forked.counts["plain"] - before["plain"]
    process.kill()
    process.wait()
    assert forked.counts["forked"] - before["forked"] == 1 - plain
    assert plain == isinstance(process, subprocess.Popen)
    return bool(plain)


@pytest.mark.parametrize(
    ("variables", "plain"),
    [
        ({}, False),
        ({"OMP_NUM_THREADS": "1", "KMP_DUPLICATE_LIB_OK": "True", "TORCHINDUCTOR_CACHE_DIR": "/tmp/x"}, False),
        ({"ATEN_CPU_CAPABILITY": "default"}, True),
        ({"PYTHONPATH": "/nowhere"}, True),
        ({"OPENBLAS_CORETYPE": "Nehalem"}, True),
        ({"HOME": "/nowhere"}, True),
    ],
)
def test_what_libraries_read_at_their_start_makes_a_plain_start(
    tmp_path: Path, variables: dict[str, str], plain: bool
) -> None:
    assert started_plainly(IPYKERNEL, tmp_path, variables) is plain


@pytest.mark.parametrize("command", [["sleep", "60"], [sys.executable, "-m", "http.server", "0"]])
def test_another_command_makes_a_plain_start(tmp_path: Path, command: list[str]) -> None:
    assert started_plainly(command, tmp_path, {})


def test_a_process_that_may_have_no_children_of_its_kind_makes_a_plain_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    assert started_plainly(IPYKERNEL, tmp_path, {})


def test_when_the_server_is_killed_its_kernels_end_and_the_next_start_works() -> None:
    code = OWNER + (
        "kernel.parent().kill()\n"
        "manager.provisioner.process.join(20)\n"
        "again = start()\n"
        "print(manager.is_alive(), again.is_alive(), flush=True)\n"
        "again.shutdown_kernel(now=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, rest = done.stdout.splitlines()
    assert rest == "False True"
    assert all(gone(pid) for pid in json.loads(first))


def test_a_killed_owner_leaves_nothing_behind(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("owner")  # with a short name: sockets lie below it
    (folder / "tmp").mkdir()
    cell = nbformat.v4.new_code_cell(STARTS_ANOTHER)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "chapter.ipynb")
    command, pids = [sys.executable, "-c", EXECUTES], folder / "pids"
    with subprocess.Popen(command, env=environment(TMPDIR=str(folder / "tmp")), cwd=folder) as owner:
        try:
            end = time.monotonic() + 60
            while not pids.is_file() and time.monotonic() < end:
                time.sleep(0.05)
            kernel, server, child = json.loads(pids.read_text())
            assert psutil.Process(server).ppid() == owner.pid
            assert list((folder / "tmp").glob("vaebook-*"))
        finally:
            owner.kill()
    assert gone(kernel)
    assert gone(child)
    assert gone(server)
    assert not list((folder / "tmp").glob("vaebook-*"))


# --- the sessions of pytest that compare chapters ---

# scikit-learn and torch write into the environment of the process that imports them.
IMPORTS = "import os, sklearn.utils, torch._inductor.config\nassert 'KMP_INIT_AT_FORK' in os.environ\n"
SETS = "import os\nos.environ['ATEN_CPU_CAPABILITY'] = 'default'\n"


@pytest.mark.parametrize(
    ("head", "options", "said"),
    [(IMPORTS, [], "kernels: 2 forked, 0 plain"), (SETS, ["-n", "2"], "kernels: 0 forked, 2 plain")],
)
def test_the_kernels_of_a_session_are_forked_whatever_the_tests_import(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, head: str, options: list[str], said: str
) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", FONT_CACHE)
    monkeypatch.delenv("JUPYTER_DEFAULT_PROVISIONER_NAME", raising=False)
    for name in ("conftest.py", "pyproject.toml", "tests/outputs.py"):
        (pytester.path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, pytester.path / name)
    (pytester.path / "tests" / "test_first.py").write_text(f"{head}\ndef test(): pass\n")
    (pytester.path / "matplotlibrc").write_text("axes.grid: True\n")  # a user's own, which changes nothing
    for name in ("01_one", "02_two"):
        cell = nbformat.v4.new_code_cell("import matplotlib; matplotlib.rcParams['axes.grid']", execution_count=1)
        cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "False"}, execution_count=1)]
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), pytester.path / f"{name}.ipynb")
    names = ("tests/test_first.py", "01_one.ipynb", "02_two.ipynb")
    result = pytester.runpytest_subprocess("--nbval", *options, *names)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["0 chapters compared with what the build executed, 2 executed", said])
