"""The same sweep on a Dask cluster: a real scheduler and two worker processes, one of which is killed."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sweeps import Book, gone, processes_of, tree, wait_for

from vaebook.runner.processes import cores
from vaebook.runner.sweep import threads_each

pytest.importorskip("distributed")

# A worker with the module that the test sweeps, see sweeps.COMMAND.
WORKER = """\
import sys
from vaebook.runner import chapters
chapters.vaebook.__file__ = sys.argv.pop(1)
from distributed.cli.dask_worker import main
main()"""


@pytest.fixture
def book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Book]:
    book = Book(tmp_path, monkeypatch, capsys)
    yield book
    wait_for(lambda: not processes_of(tmp_path))


class Cluster:
    """A scheduler and two workers of one thread each, in processes of their own."""

    def __init__(self, book: Book) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        host, port = self.address.removeprefix("tcp://").split(":")
        options = ["--no-dashboard", "--host", host]
        self.elsewhere = book.root.parent / f"{book.root.name}-dask"
        self.elsewhere.mkdir()
        self.processes = [self.start("-m", "distributed.cli.dask_scheduler", *options, "--port", port)]
        wait_for(self.listens)
        options = [*options, "--no-nanny", "--nthreads", "1", "--local-directory", str(self.elsewhere)]
        for _ in range(2):
            self.processes.append(self.start("-c", WORKER, str(book.module), self.address, *options))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        null = subprocess.DEVNULL
        return subprocess.Popen([sys.executable, *words], cwd=self.elsewhere, stdout=null, stderr=null)

    def listens(self) -> bool:
        host, port = self.address.removeprefix("tcp://").split(":")
        with socket.socket() as client:
            return client.connect_ex((host, int(port))) == 0

    def ready(self) -> bool:
        """Whether both workers have a connection to the scheduler."""
        port = int(self.address.rpartition(":")[2])
        return all(
            any(c.raddr and c.raddr.port == port for c in psutil.Process(p.pid).net_connections("tcp"))
            for p in self.processes[1:]
        )

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(book: Book) -> Iterator[Cluster]:
    cluster = Cluster(book)
    try:
        wait_for(cluster.ready)
        yield cluster
    finally:
        cluster.stop()


def test_a_cluster_leaves_the_records_of_a_local_sweep_though_a_worker_is_killed(
    book: Book, cluster: Cluster
) -> None:
    words = ["--seeds", "6", "-p", "mode", "pause", "-p", "rate", "1e-4"]
    with book.started(*words, "--scheduler", cluster.address) as process:
        wait_for(lambda: book.records() and len(book.executions()) > 2)
        victim = cluster.processes[1]
        victim.send_signal(signal.SIGKILL)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert book.statuses() == ["done"] * 6
    on_cluster, notebooks = book.records(), sorted(path.name for path in book.runs.glob("*.ipynb"))
    assert len(book.executions()) in (6, 7)  # The victim's run was begun once more, and no other.
    executed = len(book.executions())

    # The same command here, and there again, finds all of it done.
    assert book.sweep(*words)[:2] == (0, f"all 6 runs are done, in {book.runs}\n")
    code, out, error = book.sweep(*words, "--scheduler", cluster.address)
    assert (code, out) == (0, f"all 6 runs are done, in {book.runs}\n"), error
    assert len(book.executions()) == executed

    # A local sweep elsewhere makes the same runs, parameters byte by byte.
    book.runs = book.root / "local"
    assert book.sweep(*words)[0] == 0
    here = book.records()
    assert sorted(path.name for path in book.runs.glob("*.ipynb")) == notebooks
    assert here.keys() == on_cluster.keys()
    for name, record in here.items():
        for key in ("id", "parameters", "values", "seed", "versions", "device", "commit", "source", "status"):
            assert record[key] == on_cluster[name][key]
        remote = (book.root / "runs" / f"{name}.json").read_bytes()
        local = (book.runs / f"{name}.json").read_bytes()
        assert parameters_text(remote) == parameters_text(local)


def parameters_text(record: bytes) -> bytes:
    return record[record.index(b'"parameters"') : record.index(b'"values"')]


def test_an_interrupted_sweep_stops_its_runs_on_the_cluster(book: Book, cluster: Cluster) -> None:
    words = ["-g", "mode", "sleep,loop", "--scheduler", cluster.address]
    with book.started(*words) as process:
        wait_for(lambda: len(book.executions()) == 2)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command runs the rest" in said
    wait_for(lambda: all(gone(kernel) for kernel in book.kernels()))
    wait_for(lambda: not list(book.runs.iterdir()))


def test_no_scheduler_is_wrong_usage(book: Book) -> None:
    before = tree(book.root)
    with book.started("--scheduler", "tcp://127.0.0.1:1") as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "no Dask scheduler at tcp://127.0.0.1:1" in said
    assert "Traceback" not in said
    assert tree(book.root) == before
    assert not book.runs.exists()


def test_runs_at_once_on_a_machine_share_its_cores() -> None:
    slots = {"tcp://a:1": 2, "tcp://a:2": 2, "tcp://b:1": 1, "tcp://b:2": 1}
    assert threads_each(slots, dict.fromkeys(slots, 8)) == 2
    assert threads_each(slots, dict.fromkeys(slots, 2)) == 1
    assert threads_each({"tcp://a:1": 1}, {"tcp://a:1": cores()}) == cores()
