"""The same sweep on a Dask cluster: a real scheduler and two worker processes, one of which is killed."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest
import sweeps
from sweeps import Book, gone, processes_of, tree, wait_for

from vaebook_runner import sweep
from vaebook_runner.execute import cores

distributed = pytest.importorskip("distributed")

book = sweeps.book


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
        self.processes = [self.start("scheduler", *options, "--port", port)]
        wait_for(self.listens)
        options = [self.address, *options, "--nthreads", "1", "--local-directory", str(self.elsewhere)]
        # One worker's process is watched over and started by another one, as is Dask's default.
        self.processes += [self.start("worker", *options, nanny) for nanny in ("--no-nanny", "--nanny")]

    def start(self, kind: str, *words: str) -> subprocess.Popen[bytes]:
        null = subprocess.DEVNULL
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words]
        environment = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}  # not 30
        return subprocess.Popen(command, cwd=self.elsewhere, env=environment, stdout=null, stderr=null)

    def listens(self) -> bool:
        host, port = self.address.removeprefix("tcp://").split(":")
        with socket.socket() as client:
            return client.connect_ex((host, int(port))) == 0

    def ready(self) -> bool:
        """Whether both workers are known to the scheduler."""
        with distributed.Client(self.address, set_as_default=False) as client:
            return len(client.nthreads()) == 2

    def stop(self) -> None:
        for process in reversed(self.processes):
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.kill()
            process.wait()
            for member in family:
                if member.is_running():
                    member.kill()
        wait_for(lambda: not processes_of(self.elsewhere), 20)


@pytest.fixture
def cluster(book: Book) -> Iterator[Cluster]:
    cluster = Cluster(book)
    try:
        wait_for(cluster.ready)
        yield cluster
    finally:
        cluster.stop()


def test_a_cluster_leaves_the_records_of_a_local_sweep_though_a_worker_is_killed(book: Book, cluster: Cluster) -> None:
    words = ["--seeds", "6", "-p", "mode", "pause", "-p", "rate", "1e-4"]
    with book.started(*words, "--scheduler", cluster.address) as process:
        wait_for(lambda: book.records() and len(book.executions()) > 2)
        cluster.processes[1].send_signal(signal.SIGKILL)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert book.statuses() == ["done"] * 6
    on_cluster, notebooks = book.records(), sorted(path.name for path in book.runs.glob("*.ipynb"))
    assert len(book.executions()) in (6, 7)  # the victim's run was begun once more, and no other
    executed = len(book.executions())
    wait_for(lambda: all(gone(kernel) for kernel in book.kernels()))

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
        for key in ("id", "parameters", "values", "versions", "device", "commit", "source", "status"):
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
    assert "Traceback" not in said
    wait_for(lambda: all(gone(kernel) for kernel in book.kernels()))
    wait_for(lambda: not list(book.runs.iterdir()))


def test_a_killed_sweep_stops_its_runs_on_the_cluster(book: Book, cluster: Cluster) -> None:
    words = ["-g", "mode", "sleep,loop", "--scheduler", cluster.address]
    with book.started(*words) as process:
        wait_for(lambda: len(book.executions()) == 2)
        process.kill()
        process.communicate(timeout=60)
    wait_for(lambda: all(gone(kernel) for kernel in book.kernels()))
    wait_for(lambda: not list(book.runs.iterdir()))
    assert book.sweep("--scheduler", cluster.address)[0] == 0  # the workers still work


def test_a_failure_and_a_timeout_on_the_cluster_are_recorded(book: Book, cluster: Cluster) -> None:
    words = ["notebooks/tiny.md", "-o", "runs", "--scheduler", cluster.address]  # workers start in another folder
    code, _, error = book.vaebook("sweep", *words, "-g", "mode", "well,raise")
    assert code == 1
    assert "1 of 2 runs did not end well" in error
    code, _, error = book.sweep("-p", "mode", "loop", "--timeout", "5", "--scheduler", cluster.address)
    assert code == 1
    assert "timeout: stopped after 5 s" in error
    assert book.statuses() == ["done", "failed", "timeout"]
    wait_for(lambda: all(gone(kernel) for kernel in book.kernels()))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "tcp://", "127.0.0.1"])
def test_an_address_without_a_scheduler_is_wrong_usage(book: Book, address: str) -> None:
    before = tree(book.root)
    with book.started("--scheduler", address) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert f"no Dask scheduler at {address}" in said
    assert "Traceback" not in said
    assert tree(book.root) == before
    assert not book.runs.exists()


def test_without_dask_the_message_says_what_to_install(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, _, error = book.sweep("--scheduler", "tcp://127.0.0.1:1")
    assert code == 2
    assert "extra 'cluster'" in error


@pytest.mark.parametrize("slots", [1, 2, 1000])
def test_the_runs_of_a_worker_share_its_cores(monkeypatch: pytest.MonkeyPatch, slots: int) -> None:
    given: list[int] = []
    worker = SimpleNamespace(get_current_task=lambda: "key", state=SimpleNamespace(nthreads=slots, tasks={}))
    monkeypatch.setattr(distributed, "get_worker", lambda: worker)
    monkeypatch.setattr(sweep, "perform", lambda job, threads, stop: given.append(threads) or "done")
    assert sweep.perform_on_worker(object()) == "done"
    assert given == [max(1, cores() // slots)]
