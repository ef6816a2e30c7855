"""Whatever happens to a sweep, what is done stays, nothing is left running, and the same command goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from sweeps import Book, gone, processes_of, tree, wait_for

from vaebook.runner import forked


@pytest.fixture
def book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Book]:
    book = Book(tmp_path, monkeypatch, capsys)
    yield book
    wait_for(lambda: not processes_of(tmp_path))


def only_record(book: Book) -> dict[str, object]:
    (record,) = book.records().values()
    return record


@pytest.mark.parametrize(
    ("mode", "said"), [("die", "Kernel died"), ("memory", "MemoryError"), ("raise", "RuntimeError")]
)
def test_a_chapter_that_fails_is_recorded_and_the_others_go_on(book: Book, mode: str, said: str) -> None:
    code, _, error = book.sweep("-g", "mode", f"{mode},well")
    assert code == 1
    assert f"mode={mode}" in error.splitlines()[-2]
    assert book.statuses() == ["done", "failed"]
    (bad,) = (record for record in book.records().values() if record["status"] == "failed")
    assert said in bad["error"]
    assert all(gone(pid) for pid in book.kernels())


def test_an_endless_loop_ends_at_the_timeout(book: Book) -> None:
    # The well one has time enough on a busy machine.
    assert book.sweep("-p", "mode", "well")[0] == 0
    code, _, error = book.sweep("-g", "mode", "well,loop", "--timeout", "4")
    assert code == 1, error
    assert book.statuses() == ["done", "timeout"]
    (bad,) = (record for record in book.records().values() if record["status"] == "timeout")
    assert bad["error"] == "stopped after 4 s"
    assert bad["seconds"] < 40
    assert not processes_of(book.root)
    assert not list(book.runs.glob(".*"))


@pytest.mark.parametrize("victim", ["run", "kernel"])
def test_a_killed_process_is_recorded_and_its_kernel_gone(book: Book, victim: str) -> None:
    with book.started("-p", "mode", "sleep", "--jobs", "1") as process:
        wait_for(book.executions)
        (kernel,) = book.kernels()
        (other,) = (found for found in processes_of(book.root) if found.pid not in (kernel, process.pid))
        os.kill(kernel if victim == "kernel" else other.pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    record = only_record(book)
    if victim == "run":
        assert (record["status"], record["error"]) == ("died", "the run's process was ended by signal 9")
    else:
        assert record["status"] == "failed"
        assert "Kernel died" in str(record["error"])
    wait_for(lambda: gone(kernel) and not other.is_running())
    assert not list(book.runs.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_keeps_what_is_finished(book: Book, number: int) -> None:
    words = ["-g", "mode", "well,sleep,loop", "--jobs", "1" if os.cpu_count() == 1 else "2"]
    with book.started(*words) as process:
        wait_for(lambda: len(book.executions()) >= 2 and len(book.records()) == 1)
        before = tree(book.runs)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    last = said.splitlines()[-1]
    assert (
        last == f"vaebook: interrupted: 1 of 3 runs are done, in {book.runs}; the same command runs the rest"
    )
    assert "Traceback" not in said
    assert not processes_of(book.root)
    after = tree(book.runs)
    assert after == {name: text for name, text in before.items() if name in after}
    assert book.statuses() == ["done"]
    assert len(after) == 2  # One notebook, one record.


def test_a_killed_sweep_started_again_ends_as_if_undisturbed(book: Book) -> None:
    words = ["--seeds", "5"]
    moment = random.Random(os.urandom(8))
    for _ in range(4):
        with book.started(*words) as process:
            known = len(book.executions())
            wait_for(lambda known=known: len(book.executions()) > known or process.poll() is not None)
            time.sleep(moment.uniform(0, 1.2))
            process.kill()
            process.communicate()
        done = {name: record for name, record in book.records().items() if record["status"] == "done"}
        assert done.keys() == book.records().keys()
        for name in done:
            notebook = book.runs / f"{name}.ipynb"
            assert notebook.stat().st_size == done[name]["notebook_bytes"]
            json.loads(notebook.read_text())
    finished = len(book.records())
    executed = len(book.executions())
    code, _, error = book.sweep(*words)
    assert code == 0, error
    assert sorted(record["seed"] for record in book.records().values()) == [0, 1, 2, 3, 4]
    assert len(book.executions()) == executed + 5 - finished  # What was done was not run again.
    assert {path.name for path in book.runs.iterdir()} == {
        f"{name}{ending}" for name in book.records() for ending in (".json", ".ipynb")
    }


def test_a_killed_sweep_takes_all_its_processes_along(
    book: Book, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.delenv(forked.SOCKET)  # A server of its own, as for a reader.
    # As short as a socket's path has to be.
    temporary = Path(tempfile.mkdtemp(dir="/tmp"))
    request.addfinalizer(lambda: shutil.rmtree(temporary))
    with book.started("-g", "mode", "sleep,loop", TMPDIR=str(temporary)) as process:
        wait_for(lambda: len(book.executions()) == min(2, os.cpu_count() or 1))
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3  # The server, a run, a kernel.
        process.kill()
        process.communicate()
    wait_for(lambda: all(gone(member.pid) for member in family))
    wait_for(lambda: not processes_of(book.root))
    assert not book.records()
    # Nor do the folders of the sockets stay.
    wait_for(lambda: not list(temporary.glob("vaebook-*")))


def mount(*words: str) -> None:
    if os.getuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a file system")
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount does not work here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(book: Book) -> Iterator[Path]:
    """A file system of 256 kB at the folder of runs."""
    book.runs.mkdir()
    mount("-t", "tmpfs", "-o", "size=256k", "none", str(book.runs))
    yield book.runs
    subprocess.run(["umount", "-l", str(book.runs)], check=True)


def test_a_full_disk_loses_nothing_that_was_there(book: Book, small_disk: Path) -> None:
    assert book.sweep("--seeds", "1")[0] == 0
    before = tree(small_disk)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(small_disk).free == 0
    code, _, error = book.sweep("--seeds", "3")
    assert code == 1
    assert "2 of 3 runs did not end well" in error
    assert "No space left on device" in error
    assert "Traceback" not in error
    filler.unlink()
    assert {name: text for name, text in tree(small_disk).items() if name in before} == before
    for record in book.records().values():  # All of them whole.
        assert record["status"] in ("done", "failed")
    assert book.sweep("--seeds", "3")[0] == 0
    assert book.statuses() == ["done"] * 3
    assert {path.suffix for path in small_disk.iterdir()} == {".json", ".ipynb"}


def test_a_folder_that_cannot_be_written_is_refused(book: Book, small_disk: Path) -> None:
    assert book.sweep("--seeds", "1")[0] == 0
    executed = len(book.executions())
    mount("-o", "remount,ro", str(small_disk))
    before = tree(small_disk)
    code, _, error = book.sweep("--seeds", "2")
    assert code == 2
    assert f"DIR cannot be written: {small_disk} (Read-only file system)" in error
    # Looking is not writing.
    assert book.sweep("--seeds", "1")[:2] == (0, f"all 1 runs are done, in {small_disk}\n")
    assert book.vaebook("results", small_disk)[0] == 0
    assert len(book.executions()) == executed
    assert tree(small_disk) == before
