"""A sweep runs what is not done, once, and records each run whole."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from sweeps import Book, tree, wait_for

from vaebook.runner import records, runs, sweep
from vaebook.runner.files import UsageError
from vaebook.runner.processes import cores
from vaebook.runner.runs import Job, claim


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Book:
    return Book(tmp_path, monkeypatch, capsys)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that a sweep would have executed; no process starts."""
    jobs: list[Job] = []

    def pretend(job: Job, part: Path, out: Path, stop: object) -> tuple[str, str | None]:
        jobs.append(job)
        notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        out.write_text(json.dumps(notebook))
        return ("failed", "as the test wants it") if job.values["mode"] == "raise" else ("done", None)

    monkeypatch.setattr(runs, "execute", pretend)
    return jobs


def planned(book: Book, *words: str) -> list[str]:
    """The lines of a dry run that name runs."""
    code, out, error = book.sweep("--dry-run", *words)
    assert code == 0, error
    *lines, total = out.splitlines()
    assert total.startswith(f"{len(lines)} runs, ")
    return lines


# What is to be run


def test_a_grid_is_every_combination(book: Book) -> None:
    lines = planned(book, "-g", "rate", "0.1,1e-4,-2", "-g", "mode", "a,b", "-p", "flag", "true")
    assert [line.split(" ", 3)[3] for line in lines] == [
        f"rate={rate} mode={mode}" for rate in (0.1, 0.0001, -2.0) for mode in "ab"
    ]
    assert all(re.match(r"to do [0-9a-f]{8} ", line) for line in lines)
    assert not book.runs.exists()


def test_seeds_count_from_the_one_that_is_given(book: Book) -> None:
    assert [line.split()[-1] for line in planned(book, "--seeds", "3")] == ["seed=0", "seed=1", "seed=2"]
    lines = planned(book, "--seeds", "2", "-p", "seed", "7", "-g", "rate", "1,2")
    assert [line.split()[-2:] for line in lines] == [
        [f"seed={seed}", f"rate={rate}"] for rate in ("1.0", "2.0") for seed in (7, 8)
    ]


def test_equal_values_are_one_run_whichever_way_they_are_given(book: Book) -> None:
    (line,) = planned(book)  # The defaults.
    (book.root / "p.yaml").write_text("rate: 5e-1\nmode: well\n")
    for words in (
        ["-g", "rate", "0.5,.5,5e-1"],
        ["-p", "seed", "0"],
        ["--params", "p.yaml"],
        ["--seeds", "1"],
    ):
        assert planned(book, *words) == [line]
    assert planned(book, "-p", "seed", "1") != [line]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-g", "rates", "1,2"], "no parameter 'rates'; it declares:\n  seed: int"),
        (["-p", "rates", "1"], "no parameter 'rates'"),
        (["-g", "rate", "1,banana"], "'rate' is declared as float: expected a finite number"),
        (["-g", "rate", "1,,2"], "got ''"),
        (["-g", "rate", ""], "got ''"),
        (["-g", "rate", "1,2", "-p", "rate", "3"], "'rate' has both one value and a grid"),
        (["-g", "rate", "1,2", "-g", "rate", "3"], "'rate' is given more than once"),
        (["-g", "seed", "1,2", "--seeds", "2"], "--seeds needs a chapter with a parameter seed, and no grid"),
        (["--jobs", str(cores() + 1)], f"--jobs needs at most {cores()}, the cores of this machine"),
        (["--jobs", "1", "--scheduler", "tcp://127.0.0.1:1"], "--jobs is for this machine"),
    ],
)
def test_wrong_usage_executes_and_writes_nothing(
    book: Book, pretended: list[Job], words: list[str], said: str
) -> None:
    before = tree(book.root)
    for more in ([], ["--dry-run"]):
        code, _, error = book.sweep(*words, *more)
        assert code == 2
        assert said in error
    assert not pretended
    assert not book.runs.exists()
    assert tree(book.root) == before


@pytest.mark.parametrize(
    "words",
    [["--seeds", "0"], ["--jobs", "0"], ["--timeout", "0"], ["--timeout", "inf"], ["--timeout", "soon"], ["--retries", "-1"], ["-g", "rate"]],
)  # fmt: skip
def test_a_number_that_is_none_exits_with_two(book: Book, words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        book.sweep(*words)
    assert stopped.value.code == 2


def test_a_chapter_without_a_seed_has_no_seeds(book: Book) -> None:
    book.chapter.write_text(book.chapter.read_text().replace("seed: int = 0", "start: int = 0"))
    code, _, error = book.sweep("--seeds", "2")
    assert code == 2
    assert "--seeds needs a chapter with a parameter seed" in error


def test_runs_do_not_go_where_the_chapter_reads(book: Book, pretended: list[Job]) -> None:
    own = book.chapter.with_suffix("")
    own.mkdir()
    for folder in (own, own / "runs"):
        with pytest.raises(UsageError, match="DIR needs to lie elsewhere: .* counts as a part of"):
            sweep.plan(book.chapter, folder, {}, {})
    assert sweep.plan(book.chapter, own.with_name("other"), {}, {})


def test_a_folder_of_runs_that_is_none_is_refused(book: Book, pretended: list[Job]) -> None:
    book.runs.write_text("mine")
    code, _, error = book.sweep()
    assert code == 2
    assert f"DIR cannot be written: {book.runs} (File exists)" in error
    assert book.runs.read_text() == "mine"
    assert not pretended


# What is done is not run again


def test_a_dry_run_shows_what_is_done(book: Book, pretended: list[Job]) -> None:
    assert book.sweep("-g", "rate", "1,2")[0] == 0
    before = tree(book.root)
    assert [line[:5] for line in planned(book, "-g", "rate", "1,3,2")] == ["done ", "to do", "done "]
    assert tree(book.root) == before


def edit_chapter(book: Book) -> None:
    book.chapter.write_text(book.chapter.read_text() + "\nOne more sentence.\n")


def edit_module(book: Book) -> None:
    book.module.write_text("new = 1\n")


def edit_lock(book: Book) -> None:
    (book.root / "requirements.lock").write_text("torch==3\n")


@pytest.mark.parametrize("change", [edit_chapter, edit_module, edit_lock])
def test_what_was_made_from_something_else_runs_again(
    book: Book, pretended: list[Job], change: Callable[[Book], None]
) -> None:
    for _ in range(2):
        assert book.sweep("-g", "rate", "1,2")[0] == 0
    assert len(pretended) == 2
    assert book.sweep("-g", "rate", "1,2,3")[0] == 0
    assert len(pretended) == 3
    change(book)
    for _ in range(2):
        assert book.sweep("-g", "rate", "1,2,3")[0] == 0
    assert len(pretended) == 6
    assert len(book.records()) == 6  # The former runs stay.


def first(book: Book, ending: str) -> Path:
    return min(book.runs.glob(f"*{ending}"))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "mine").write_text("mine")


def replace_by_link(path: Path) -> None:
    elsewhere = path.parents[1] / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def enlarge(path: Path) -> None:
    os.truncate(path, 100_000_000)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("ending", [".json", ".ipynb"])
@pytest.mark.parametrize(
    "damage", [Path.unlink, cut, enlarge, replace_by_folder, replace_by_link, replace_by_pipe]
)
def test_a_damaged_run_is_reported_and_run_again(
    book: Book, pretended: list[Job], damage: Callable[[Path], None], ending: str
) -> None:
    assert book.sweep("-g", "rate", "1,2")[0] == 0
    path = first(book, ending)
    damage(path)
    _, out, error = book.vaebook("results", book.runs)
    # Records may be kept without their notebooks.
    assert (path.name in error) == os.path.lexists(path)
    assert len(out.splitlines()) == (2 if ending == ".json" else 3)  # With the line of names.
    code, _, error = book.sweep("-g", "rate", "1,2")
    assert code == 0, error
    assert len(pretended) == 3
    assert pretended[-1].id == path.stem
    assert path.is_file()
    assert not path.is_symlink()
    assert book.vaebook("results", book.runs)[2] == ""
    if damage is replace_by_folder:  # It is not ours to remove.
        assert [found.read_text() for found in book.runs.glob("*/mine")] == ["mine"]
    if damage is replace_by_link:
        assert (book.root / "elsewhere").is_file()


def test_nothing_in_the_folder_leads_a_sweep_out_of_it(book: Book, pretended: list[Job]) -> None:
    outside = book.root / "outside"
    outside.mkdir()
    (outside / "target").write_text("mine")
    assert book.sweep()[0] == 0
    (name,) = book.records()
    for path in list(book.runs.iterdir()):
        path.unlink()
    for link in (
        f".{name}.lock",
        f".{name}-abcdefgh",
        f".{name}.json.{os.getpid()}",
        f"{name}.json",
        f"{name}.ipynb",
    ):
        (book.runs / link).symlink_to(outside / "target")
    (book.runs / ".vaebook-probe").symlink_to(outside / "target")
    code, _, error = book.sweep()
    assert code == 1
    assert "lost: OSError" in error  # The lock is none.
    (book.runs / f".{name}.lock").unlink()
    assert book.sweep()[0] == 0
    assert tree(outside) == {"target": b"mine"}


# What fails


def test_a_failure_is_recorded_and_tried_again_at_the_next_start(book: Book, pretended: list[Job]) -> None:
    words = ["-g", "mode", "well,raise,good"]
    for attempt in (1, 2):
        code, out, error = book.sweep(*words)
        assert code == 1
        assert out == ""
        assert "1 of 3 runs did not end well:\n  failed  " in error
        assert error.count("mode=raise") == 2  # As it ended, and in the list.
        assert f"their records in {book.runs} say why" in error
        assert book.statuses() == ["done", "done", "failed"]
        assert len(pretended) == 2 + attempt
    (bad,) = (record for record in book.records().values() if record["status"] == "failed")
    assert bad["error"] == "as the test wants it"
    assert bad["attempts"] == 1


def test_retries_are_counted_and_bounded(book: Book, pretended: list[Job]) -> None:
    assert book.sweep("-p", "mode", "raise", "--retries", "3")[0] == 1
    assert len(pretended) == 4
    (record,) = book.records().values()
    assert record["attempts"] == 4


def test_the_chapter_must_not_change_while_it_is_swept(book: Book) -> None:
    jobs = sweep.plan(book.chapter, book.runs, {}, {})
    edit_chapter(book)
    with pytest.raises(sweep.SweepFailed):
        sweep.sweep(jobs, book.runs)
    (record,) = book.records().values()
    assert "changed since the sweep began" in record["error"]


# Who is at a run


def test_a_run_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with claim(path) as mine:
        assert mine
        with claim(path) as other:
            assert not other
        assert path.exists()
    assert not path.exists()
    with claim(path) as mine:
        assert mine


def test_a_run_has_one_holder_however_many_try(tmp_path: Path) -> None:
    path, held, most, turns = tmp_path / "lock", [], [], [0]

    def work() -> None:
        for _ in range(300):
            with claim(path) as mine:
                if mine:
                    held.append(1)
                    most.append(len(held))
                    time.sleep(0)
                    held.pop()
                    turns[0] += 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert turns[0] > 0
    assert max(most) == 1


def test_what_somebody_else_is_at_is_awaited(book: Book, pretended: list[Job]) -> None:
    (job,) = sweep.plan(book.chapter, book.runs, {}, {})
    book.runs.mkdir()
    ended: list[int] = []
    with claim(book.runs / f".{job.id}.lock"):
        other = threading.Thread(target=lambda: ended.append(len(sweep.sweep([job], book.runs))))
        other.start()
        time.sleep(0.7)
        assert not ended
        assert not pretended
    other.join()
    assert ended
    assert len(pretended) == 1


# Whole runs


NASTY = """it's a "name" with \\ and {braces} of {seed}
and $(touch executed) `touch executed` ; touch executed & ../../../../etc/passwd %s \x1b[2J ‮ µ"""


@pytest.mark.parametrize("value", ["../../executed", "-p", "~nobody/x", "x" * 5000, "null \0"])
def test_a_text_is_no_part_of_a_file_name(book: Book, pretended: list[Job], value: str) -> None:
    (book.root / "p.json").write_text(json.dumps({"mode": value}))
    assert book.sweep("--params", "p.json")[0] == 0
    (name,) = book.records()
    assert {path.name for path in book.runs.iterdir()} == {f"{name}.json", f"{name}.ipynb"}
    assert [job.values["mode"] for job in pretended] == [value]


@pytest.mark.parametrize("value", [NASTY, "null \0"])
def test_a_text_reaches_neither_a_shell_nor_a_file_name(book: Book, value: str) -> None:
    (book.root / "p.json").write_text(json.dumps({"mode": value}))
    code, out, error = book.sweep("--params", "p.json")
    assert code == 0, error
    assert "\x1b" not in out + error
    (record,) = book.records().values()
    assert record["parameters"]["mode"] == value
    assert {path.name for path in book.runs.iterdir()} == {f"{record['id']}.json", f"{record['id']}.ipynb"}
    assert not list(book.root.rglob("executed"))
    assert set(tree(book.root)) - {f"runs/{record['id']}{ending}" for ending in (".json", ".ipynb")} == {
        "_toc.yml", "requirements.lock", "notebooks/tiny.md", "module/__init__.py", "p.json", "tally"
    }  # fmt: skip
    notebook = nbformat.read(book.runs / f"{record['id']}.ipynb", as_version=4)
    assert notebook.cells[-1].outputs[1].text == f"1 {value!r}\n"  # What the kernel saw.


def test_a_run_is_one_notebook_and_one_record(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    code, out, error = book.sweep("--seeds", "2", "-p", "rate", "1e-4", "--jobs", "1")
    assert code == 0, error
    assert out == f"all 2 runs are done, in {book.runs}\n"
    assert "1 of 2 done, 0 failed, 1 running, about" in error
    assert "2 of 2 done, 0 failed, 0 running" in error
    assert len(list(book.runs.iterdir())) == 4
    for name, record in book.records().items():
        path = book.runs / f"{name}.ipynb"
        assert record["parameters"] == {"seed": record["seed"], "rate": 1e-4, "mode": "well", "flag": False}
        assert record["values"] == {"tiny-mean": {"value": record["seed"] + 1e-4, "stderr": 0.25}}
        assert record["status"] == "done"
        assert record["error"] is None
        assert {"python", "torch", "vaebook"} <= record["versions"].keys()
        assert record["device"]
        assert record["source"]
        assert record["chapter"] == "tiny"
        assert record["notebook_bytes"] == path.stat().st_size
        assert 0 < record["cell_seconds"] < record["seconds"]
        notebook = nbformat.read(path, as_version=4)
        assert notebook.metadata.papermill.parameters == record["parameters"]
        # One run at a time may use all cores.
        assert notebook.cells[-1].outputs[1].text.startswith(f"{cores()} ")
    assert records.read_all(book.runs)[1] == []
    assert book.seeds() == [0, 1]
    assert book.sweep("--seeds", "2", "-p", "rate", "1e-4")[0] == 0
    assert book.seeds() == [0, 1]


def test_what_a_chapter_says_of_its_failure_is_kept(book: Book) -> None:
    assert book.sweep("-g", "mode", "raise,well")[0] == 1
    assert book.statuses() == ["done", "failed"]
    (bad,) = (record for record in book.records().values() if record["status"] == "failed")
    assert "RuntimeError: as the test wants it" in bad["error"]
    assert f"the part that ran is kept in {book.runs / bad['id']}.ipynb" in bad["error"]
    notebook = nbformat.read(book.runs / f"{bad['id']}.ipynb", as_version=4)
    assert any(output.output_type == "error" for cell in notebook.cells for output in cell.get("outputs", []))


def test_what_fails_once_is_done_at_the_second_attempt(book: Book) -> None:
    assert book.sweep("-p", "mode", "once", "--retries", "1")[0] == 0
    (record,) = book.records().values()
    assert (record["status"], record["attempts"], len(book.executions())) == ("done", 2, 2)


@pytest.mark.skipif(cores() < 2, reason="needs two cores")
def test_threads_and_runs_at_once_share_the_cores(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    given: list[int] = []

    def pretend(job: Job, *_: object) -> tuple[str, None]:
        given.append(job.threads)
        return "done", None

    monkeypatch.setattr(runs, "execute", pretend)
    monkeypatch.setattr(runs, "is_done", lambda *_: False)
    for at_once in range(1, cores() + 1):
        given.clear()
        assert book.sweep("--jobs", at_once)[0] == 0
        assert given == [cores() // at_once]
        assert given[0] * at_once <= cores()


def test_two_sweeps_on_one_folder_share_the_work(book: Book) -> None:
    words = ["--seeds", "6", "-p", "mode", "pause", "--jobs", "1"]
    with book.started(*words) as one, book.started(*words) as two:
        said = [process.communicate(timeout=120)[0] for process in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0], said
    assert book.seeds() == [0, 1, 2, 3, 4, 5]
    assert book.statuses() == ["done"] * 6
    assert {path.suffix for path in book.runs.iterdir()} == {".json", ".ipynb"}
    wait_for(lambda: len(list(book.runs.iterdir())) == 12)
