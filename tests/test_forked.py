"""A forked kernel is the kernel that a plain start would give, only sooner; nothing outlives its user."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import KernelProvisionerFactory

from vaebook.runner import forked, provisioner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")
# A process that starts a server and a kernel of its own, and prints their names.
OWNER = """\
import json, os, sys, time
from vaebook.runner import forked
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import KernelProvisionerFactory
KernelProvisionerFactory.instance().default_provisioner_name = forked.NAME
manager = KernelManager()
manager.start_kernel(stderr=open(os.devnull, "w"))
print(json.dumps([os.environ[forked.SOCKET], manager.provisioner.pid]), flush=True)
"""
STATE = """\
import json, os, random, sys
import numpy, torch
print(json.dumps(dict(
    seed=torch.initial_seed(), torch=torch.rand(()).item(), numpy=numpy.random.rand(), random=random.random(),
    cuda=torch.cuda.is_initialized(), threads=torch.get_num_threads(), vaebook="vaebook" in sys.modules,
    path=sys.path, argv=sys.argv[0], cwd=os.getcwd(), leader=os.getpid() == os.getpgrp() == os.getsid(0),
    variables=dict(os.environ), main=__name__, handlers=[type(h).__name__ for h in __import__("logging").root.handlers],
    descriptors=sum("socket:" in os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")),
    mpl=__import__("matplotlib").rcParams["backend"],
)))"""


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
        return isinstance(self.process, forked.ForkedProcess)

    def run(self, code: str) -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = []
        reply = self.client.execute_interactive(
            code, timeout=60, output_hook=lambda m: outputs.append(m["content"])
        )
        # What arrives too soon after an error is dropped by ipykernel together with the queue.
        return outputs if reply["content"]["status"] != "aborted" else self.run(code)

    def printed(self, code: str) -> str:
        return "".join(output.get("text", "") for output in self.run(code))

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def start() -> Iterator[Callable[..., Kernel]]:
    kernels: list[Kernel] = []

    def begin(**options: Any) -> Kernel:
        kernels.append(Kernel(**options))
        return kernels[-1]

    yield begin
    for kernel in kernels:
        kernel.stop()


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[int]:
    """The process that forks, started by the one that runs the tests."""
    factory = KernelProvisionerFactory.instance()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "default_provisioner_name", forked.NAME)
        patch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", forked.NAME)
        patch.setenv(forked.SOCKET, "")
        patch.delenv(forked.SOCKET)
        before = {child.pid for child in psutil.Process().children()}
        forked.start_server()
        (started,) = {child.pid for child in psutil.Process().children()} - before
        yield started
    os.kill(started, signal.SIGKILL)


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
    monkeypatch.setattr(provisioner, "fork", _no_fork)
    plain = start(**options)
    assert [kernel.is_forked for kernel in (*kernels, plain)] == [True, True, False]
    one, two, fresh = (json.loads(kernel.printed(STATE)) for kernel in (*kernels, plain))
    for state in (one, two, fresh):
        assert state["variables"].pop("JPY_PARENT_PID")
    # Each begins with a seed of its own from the system, as every process does.
    drawn = {state.pop(name) for name in ("seed", "torch", "numpy", "random") for state in (one, two, fresh)}
    assert len(drawn) == 12
    assert one["variables"] == fresh["variables"]
    assert one == two == fresh
    assert one["cwd"] == str(tmp_path / "here")
    assert one["variables"]["MARK"] == "µ \udc80=1"


def _no_fork(*command: object, **options: object) -> None:
    raise forked.PlainStart("as the test wants it")


def test_kernels_do_not_share_what_they_define(start: Callable[..., Kernel]) -> None:
    one, two = start(), start()
    one.run("x = 1; import torch, numpy; torch.manual_seed(3); numpy.pi = 3; torch.set_num_threads(1)")
    three = start()
    for other in (two, three):
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
def test_the_end_of_a_kernel_and_its_status_are_noticed(
    start: Callable[..., Kernel], code: str, status: int
) -> None:
    kernel = start()
    child = int(kernel.printed("import os, subprocess; print(subprocess.Popen(['sleep', '60']).pid)"))
    kernel.client.execute(code)
    assert kernel.process.wait(10) == status
    assert not kernel.manager.is_alive()
    assert gone(child)


def test_shutting_down_takes_what_is_left_of_the_group_along(start: Callable[..., Kernel]) -> None:
    kernel = start()
    process = kernel.process
    command = "sleep 60 > /dev/null 2>&1 & echo $!"
    orphan = int(
        kernel.printed(
            f"import subprocess; print(subprocess.check_output({command!r}, shell=True, text=True))"
        )
    )
    assert psutil.pid_exists(orphan)
    kernel.manager.shutdown_kernel()
    assert process.returncode == 0
    assert gone(process.pid)
    assert gone(orphan)


@pytest.mark.parametrize(
    "variables", [{"ATEN_CPU_CAPABILITY": "default"}, {"PYTHONPATH": "/nowhere"}, {"OMP_NUM_THREADS": "2,1"}]
)
def test_what_libraries_read_at_their_start_makes_a_plain_start(variables: dict[str, str]) -> None:
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "none.json"]
    with pytest.raises(forked.PlainStart, match="surroundings"):
        forked.fork(command, env=environment(**variables))


@pytest.mark.parametrize(
    "command", [["python3", "-m", "ipykernel_launcher"], [sys.executable, "-m", "other"], ["R", "--kernel"]]
)
def test_another_interpreter_makes_a_plain_start(command: list[str]) -> None:
    with pytest.raises(forked.PlainStart, match="another interpreter"):
        forked.fork([*command, "-f", "none.json"], env=environment())


REQUEST: dict[str, Any] = {"arguments": [], "cwd": "/", "environment": {}, "surroundings": {}}


@pytest.mark.parametrize(
    "message",
    [
        b"\x00",
        b"[" * 50_000,
        b"[]",
        json.dumps({**REQUEST, "cwd": 1}).encode(),
        json.dumps({**REQUEST, "more": 1}).encode(),
        json.dumps({**REQUEST, "arguments": [1]}).encode(),
        json.dumps({**REQUEST, "environment": {"A": "\0"}}).encode(),
        json.dumps({**REQUEST, "environment": {"A=B": ""}}).encode(),
        json.dumps({**REQUEST, "cwd": "x" * 150_000}).encode(),
        json.dumps(REQUEST).encode(),
    ],
)
def test_a_request_that_is_none_is_refused(server: int, message: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(os.environ[forked.SOCKET])
        socket.send_fds(connection, [message], [1, 2])
        assert connection.recv(4096).startswith(b"refused ")
    assert not gone(server, 0.1)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user for a while")
@pytest.mark.usefixtures("server")
def test_another_user_is_refused() -> None:
    path = Path(os.environ[forked.SOCKET])
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(PermissionError):
        _answer_to_another_user(path)
    # Past the folder, the server still asks who it is.
    path.parent.chmod(0o711)
    path.chmod(0o777)
    try:
        assert _answer_to_another_user(path) == b""
    finally:
        path.parent.chmod(0o700)


def _answer_to_another_user(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        os.seteuid(65534)
        try:
            connection.connect(str(path))
        finally:
            os.seteuid(0)
        connection.settimeout(10)
        return connection.recv(100)


def test_when_the_server_is_killed_its_kernels_go_and_the_next_start_is_plain() -> None:
    code = OWNER + (
        "import signal, psutil\n"
        "server = psutil.Process(manager.provisioner.pid).parent()\n"
        "server.kill()\n"
        "print(manager.provisioner.process.wait(10), manager.is_alive(), flush=True)\n"
        "plain = KernelManager(); plain.start_kernel()\n"
        "print(type(plain.provisioner.process).__name__, flush=True)\n"
        "plain.shutdown_kernel(now=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=_alone(), capture_output=True, text=True, check=True
    )
    first, *rest = done.stdout.splitlines()
    assert rest == ["-9 False", "Popen"]
    path, pid = json.loads(first)
    assert gone(pid)
    assert not Path(path).parent.exists()


def _alone() -> dict[str, str]:
    """An environment without a server."""
    return {name: value for name, value in os.environ.items() if name != forked.SOCKET}


def test_a_killed_owner_leaves_nothing_behind() -> None:
    code = OWNER + "time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], env=_alone(), stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        assert select.select([owner.stdout], [], [], 60)[0]
        path, pid = json.loads(owner.stdout.readline())
        server = psutil.Process(pid).ppid()
        owner.kill()
    assert gone(pid)
    assert gone(server)
    assert not Path(path).parent.exists()
