"""Whatever happens to a sweep, what is done stays, nothing is left running, and the same command goes on.

What happens at a random moment can be repeated: a failure shows its seed, which VAEBOOK_TEST_SEED sets.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import sweeps
from sweeps import Book, gone, processes_of, tree, wait_for

from vaebook_runner import sweep
from vaebook_runner.execute import cores
from vaebook_runner.files import Failed
from vaebook_runner.jobs import plan_sweep

book = sweeps.book


@pytest.fixture
def moment(request: pytest.FixtureRequest) -> random.Random:
    """The source of random moments."""
    seed = int(os.environ.get("VAEBOOK_TEST_SEED") or random.SystemRandom().randrange(2**32))
    request.node.add_report_section("call", "seed", f"VAEBOOK_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files, with a path as short as a socket's has to be."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def whole(book: Book) -> bool:
    """Whether the folder holds a whole notebook and a whole record for each run, and nothing else."""
    for record in book.records().values():
        notebook = book.runs / f"{record['id']}.ipynb"
        assert notebook.stat().st_size == record["notebook_bytes"]
        json.loads(notebook.read_text(encoding="utf-8"))
    names = {f"{name}{ending}" for name in book.records() for ending in (".json", ".ipynb")}
    return {path.name for path in book.runs.iterdir()} == names


# A run goes wrong


@pytest.mark.parametrize(("mode", "said"), [("die", "died"), ("memory", "MemoryError"), ("raise", "RuntimeError")])
def test_a_chapter_that_fails_is_recorded_and_the_others_go_on(
    book: Book, monkeypatch: pytest.MonkeyPatch, mode: str, said: str
) -> None:
    monkeypatch.setenv("CHILD", "1")
    code, _, error = book.sweep("-g", "mode", f"{mode},well")
    assert code == 1
    assert f"mode={mode}" in error.splitlines()[-2]
    assert book.statuses() == ["done", "failed"]
    assert said in book.only_record("failed")["error"]
    assert len(book.kernels()) == 4
    wait_for(lambda: all(gone(pid) for pid in book.kernels()), 10)


@pytest.mark.parametrize("mode", ["sleep", "loop", "hold"])
def test_an_endless_cell_ends_at_the_timeout(book: Book, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("CHILD", "1")
    assert book.sweep("-p", "mode", "well")[0] == 0  # which has time enough on a busy machine
    code, _, error = book.sweep("-g", "mode", f"well,{mode}", "--timeout", "4")
    assert code == 1, error
    assert book.statuses() == ["done", "timeout"]
    bad = book.only_record("timeout")
    assert bad["error"] == "stopped after 4 s"
    assert bad["seconds"] < 40
    wait_for(lambda: all(gone(pid) for pid in book.kernels()), 10)
    assert not processes_of(book.root)
    assert not list(book.runs.glob(".*"))


def test_a_timeout_may_come_while_a_kernel_starts(book: Book, moment: random.Random) -> None:
    for number in range(6):
        (job,) = plan_sweep(book.chapter, book.runs, {"mode": "sleep", "seed": number}, {})
        seconds = round(moment.uniform(0.01, 1.0), 3)
        with sweeps.event_loops_collected(), pytest.raises(Failed, match=f"timeout: stopped after {seconds} s"):
            sweep.sweep([job._replace(timeout=seconds)], partial(sweep.here, 1))
    assert book.statuses() == ["timeout"] * 6
    wait_for(lambda: not processes_of(book.root), 10)
    assert not list(book.runs.glob(".*"))


def test_a_killed_kernel_is_recorded(book: Book) -> None:
    with book.started("-p", "mode", "sleep", "--jobs", "1", CHILD="1") as process:
        wait_for(book.executions)
        os.kill(book.kernels()[0], signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "died" in book.only_record("failed")["error"]
    wait_for(lambda: all(gone(pid) for pid in book.kernels()), 10)
    assert not list(book.runs.glob(".*"))


def test_when_the_process_that_forks_is_killed_the_other_runs_go_on(book: Book) -> None:
    with book.started("-g", "mode", "sleep,well,pause", "--jobs", "1", CHILD="1") as process:
        wait_for(book.executions)
        psutil.Process(book.kernels()[0]).parent().kill()
        said, _ = process.communicate(timeout=90)
    assert process.returncode == 1, said
    assert book.statuses() == ["done", "done", "failed"]
    assert book.only_record("failed")["parameters"]["mode"] == "sleep"
    wait_for(lambda: all(gone(pid) for pid in book.kernels()), 10)
    assert not list(book.runs.glob(".*"))


# The sweep is interrupted


def end_of_an_interrupted_sweep(book: Book, process: subprocess.Popen[str]) -> None:
    """See that an interrupted sweep ends soon, says how far it came, and leaves neither processes nor partial files."""
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    done = book.statuses().count("done")
    folder = f"{book.runs}; the same command runs the rest"
    assert said.splitlines()[-1].endswith(f"interrupted: {done} of 3 runs are done, in {folder}"), said
    assert "Traceback" not in said
    wait_for(lambda: all(gone(pid) for pid in book.kernels()), 10)
    wait_for(lambda: not processes_of(book.root), 10)
    assert whole(book)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_sweep_keeps_what_is_finished(book: Book, number: int) -> None:
    words = ["-g", "mode", "well,sleep,loop", "--jobs", str(min(2, cores()))]
    with book.started(*words, CHILD="1") as process:
        wait_for(lambda: len(book.executions()) >= 2 and len(book.records()) == 1)
        before = tree(book.runs)
        process.send_signal(number)
        end_of_an_interrupted_sweep(book, process)
    after = tree(book.runs)
    assert after == {name: text for name, text in before.items() if name in after}
    assert book.statuses() == ["done"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_of_a_sweep_interrupts_it(
    book: Book, temporary: Path, moment: random.Random, number: int
) -> None:
    """So does a terminal at Ctrl-C, and when it is closed; and a machine that shuts down."""
    for _ in range(3):
        with book.started("-g", "mode", "sleep,hold,loop", CHILD="1", TMPDIR=str(temporary)) as process:
            wait_for(book.runs.exists)
            time.sleep(moment.uniform(0, 4))
            os.killpg(process.pid, number)
            end_of_an_interrupted_sweep(book, process)
        assert not book.records()
        book.runs.rmdir()  # so that the next sweep shows by it that it has begun
        assert not [path for path in temporary.iterdir() if path.name.startswith(("vaebook-", "pymp-"))]


def test_an_interrupt_that_waits_for_a_new_kernel_ends_it_silently() -> None:
    """One that came while the process was set up, and so before it had a group of its own."""
    code = """
import multiprocessing, os, signal
from vaebook_runner.forked import become_kernel
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    become_kernel(["-f", "none.json"], "/", {}, [])
process = multiprocessing.get_context("fork").Process(target=interrupted)
process.start()
process.join(30)
print(process.exitcode)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize("pause", [0, 0.1])
def test_an_impatient_user_interrupts_more_than_once(book: Book, pause: float) -> None:
    with book.started("-g", "mode", "sleep,hold,loop") as process:
        wait_for(lambda: len(book.executions()) == min(2, cores()))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            time.sleep(pause)
        said, _ = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), said
    wait_for(lambda: not processes_of(book.root), 10)
    assert not book.records()


def test_a_sweep_ends_when_nobody_reads_its_messages_any_more(book: Book) -> None:
    """As in ``vaebook sweep … 2>&1 | head -1``."""
    with book.started("--seeds", "6", "--jobs", "1", CHILD="1") as process:
        assert process.stdout
        assert "seed=0: done" in process.stdout.readline()
        process.stdout.close()
        code = process.wait(timeout=60)
    assert code not in (0, 2)
    wait_for(lambda: not processes_of(book.root), 10)
    assert all(gone(pid) for pid in book.kernels())
    assert 0 < len(book.records()) < 6
    assert whole(book)
    code, _, error = book.sweep("--seeds", "6")
    assert code == 0, error


# The sweep is killed


def test_a_killed_sweep_started_again_ends_as_if_undisturbed(book: Book, moment: random.Random) -> None:
    words = ["--seeds", "5"]
    for _ in range(4):
        with book.started(*words) as process:
            known = len(book.executions())
            wait_for(lambda known=known: len(book.executions()) > known or process.poll() is not None)
            time.sleep(moment.uniform(0, 1.2))
            process.kill()
            process.communicate(timeout=60)
        wait_for(lambda: not processes_of(book.root), 10)
        for record in book.records().values():
            assert record["status"] == "done"
            notebook = book.runs / f"{record['id']}.ipynb"
            assert notebook.stat().st_size == record["notebook_bytes"]
            json.loads(notebook.read_text(encoding="utf-8"))
    finished, executed = len(book.records()), len(book.executions())
    code, _, error = book.sweep(*words)
    assert code == 0, error
    assert sorted(record["parameters"]["seed"] for record in book.records().values()) == [0, 1, 2, 3, 4]
    assert len(book.executions()) == executed + 5 - finished  # what was done was not executed again
    assert whole(book)


def test_what_a_run_leaves_that_is_killed_after_its_record_is_removed_by_the_next_sweep(book: Book) -> None:
    """Its record is there and so it is not executed again, but its hidden folder and its lock are."""
    words = ["--seeds", "2"]
    assert book.sweep(*words)[0] == 0
    name, executed = min(book.records()), len(book.executions())
    (book.runs / f".{name}-abc").mkdir()
    (book.runs / f".{name}-abc" / "x.ipynb").touch()
    (book.runs / f".{name}.lock").touch()
    assert book.sweep(*words)[0] == 0
    assert len(book.executions()) == executed
    assert whole(book)


def test_a_sweep_is_killed_at_any_moment_from_its_start(book: Book, moment: random.Random) -> None:
    for _ in range(4):
        with book.started("--seeds", "2", CHILD="1") as process:
            time.sleep(moment.uniform(0, 5))
            process.kill()
            process.communicate(timeout=60)
        wait_for(lambda: all(gone(pid) for pid in book.kernels()), 10)
        wait_for(lambda: not processes_of(book.root), 10)
    assert book.sweep("--seeds", "2")[0] == 0
    assert book.statuses() == ["done", "done"]
    assert whole(book)


@pytest.mark.parametrize("mode", ["sleep", "loop"])
def test_a_killed_sweep_takes_all_its_processes_along(book: Book, temporary: Path, mode: str) -> None:
    with book.started("-p", "mode", mode, CHILD="1", TMPDIR=str(temporary)) as process:
        wait_for(book.executions)
        family = psutil.Process(process.pid).children(recursive=True)
        assert {member.pid for member in family} >= set(book.kernels())
        assert len(family) >= 3  # the process that forks, a kernel, its child
        process.kill()
        process.communicate(timeout=60)
    wait_for(lambda: all(gone(member.pid) for member in family), 10)
    wait_for(lambda: not processes_of(book.root), 10)
    assert not book.records()
    wait_for(lambda: not list(temporary.glob("vaebook-*")), 10)  # nor do the folders of the sockets stay


def test_when_one_of_two_sweeps_is_killed_the_other_does_all_the_work(book: Book, moment: random.Random) -> None:
    words = ["--seeds", "6", "-p", "mode", "pause", "--jobs", "1"]
    with book.started(*words) as one, book.started(*words) as two:
        wait_for(lambda: len(book.executions()) >= 2)
        time.sleep(moment.uniform(0, 1))
        one.kill()
        one.communicate(timeout=60)
        said, _ = two.communicate(timeout=120)
    assert two.returncode == 0, said
    assert set(book.seeds()) == {0, 1, 2, 3, 4, 5}
    assert len(book.seeds()) <= 7  # only the run that the killed one was at began twice
    assert book.statuses() == ["done"] * 6
    assert whole(book)


# The disk


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
    for record in book.records().values():  # all of them whole
        assert record["status"] in ("done", "failed")
    assert book.sweep("--seeds", "3")[0] == 0
    assert book.statuses() == ["done"] * 3
    assert whole(book)


def test_a_disk_may_be_full_at_any_moment(book: Book, small_disk: Path, moment: random.Random) -> None:
    for _ in range(5):
        filler = small_disk / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - moment.randrange(0, 25_000)))
        code, _, error = book.sweep("--seeds", "2")
        assert code in (0, 1)
        assert "Traceback" not in error
        filler.unlink()
        for record in book.records().values():
            assert record["status"] in ("done", "failed")
        for path in small_disk.glob("*.ipynb"):
            json.loads(path.read_text(encoding="utf-8"))
    assert book.sweep("--seeds", "2")[0] == 0
    assert book.statuses() == ["done"] * 2
    assert whole(book)


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
    assert book.sweep("--seeds", "2", "--dry-run")[0] == 0
    assert book.vaebook("results", small_disk)[0] == 0
    assert len(book.executions()) == executed
    assert tree(small_disk) == before
