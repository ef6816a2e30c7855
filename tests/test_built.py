"""With `--built`, what the build executed stands in for a kernel where it is up to date, and nowhere else."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import nbformat
import outputs
import pytest
from outputs import built
from small_book import myst, write_project

from vaebook_runner import chapters, records
from vaebook_runner.jobs import Job, plan_book

ROOT = Path(__file__).parents[1]
FONT_CACHE = matplotlib.get_cachedir()  # read here, because pytester changes the home folder in its tests
SHOWS = {"2 + 2": ("execute_result", {"text/plain": "4"}), "print('a')": ("stream", "a\n")}


def job_of(root: Path, **given: str) -> Job:
    (job,) = plan_book(chapters.Book(root, [root / "notebooks" / "01_first.md"]), given)
    return job


def pretend_to_execute(job: Job) -> None:
    """Leave what a build leaves of the chapter, with right outputs."""
    notebook = chapters.read_notebook(Path(job.source))
    for count, cell in enumerate(notebook.cells[2:], 1):
        kind, value = SHOWS[cell.source]
        more = {"data": value, "execution_count": count} if kind == "execute_result" else {"text": value}
        cell.outputs, cell.execution_count = [nbformat.v4.new_output(kind, **more)], count
    job.notebook.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, job.notebook)
    record = records.Record(
        id=job.id, status="done", chapter=job.name, parameters=job.values, versions=records.versions(),
        device=records.device(), notebook_bytes=job.notebook.stat().st_size,
    )  # fmt: skip
    job.record.write_text(record.model_dump_json())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book whose first chapter was built after its outputs had been stored."""
    root = write_project(tmp_path / "book")
    monkeypatch.chdir(root)
    write_chapter(root)
    return root


def write_chapter(root: Path) -> None:
    source = root / "notebooks" / "01_first.md"
    source.write_text(myst("First", "seed: int = 1", *SHOWS))
    job = job_of(root)
    pretend_to_execute(job)
    shutil.copy(job.notebook, source.with_suffix(".ipynb"))
    os.utime(source.with_suffix(".ipynb"), (1e9, 1e9))


def change_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_source(root: Path) -> None:
    path = root / "notebooks" / "01_first.md"
    path.write_text(path.read_text() + "\nOne more sentence.\n")


def edit_lock(root: Path) -> None:
    (root / "requirements.lock").write_text("torch==3\n")


def store_from_this_run(root: Path) -> None:
    os.utime(root / "notebooks" / "01_first.ipynb")


def store_other_cells(root: Path) -> None:
    path = root / "notebooks" / "01_first.ipynb"
    path.write_text(path.read_text().replace("2 + 2", "2 + 3"))
    os.utime(path, (1e9, 1e9))


def build_with_other_values(root: Path) -> None:
    pretend_to_execute(job_of(root, seed="7"))


def fail(root: Path) -> None:
    change_json(job_of(root).record, status="failed")


def lose_the_record(root: Path) -> None:
    job_of(root).record.unlink()


def damage_the_copy(root: Path) -> None:
    job_of(root).notebook.write_text("half of")


def install_another_torch(root: Path) -> None:
    change_json(job_of(root).record, versions={**records.versions(), "torch": "1.0"})


def copy_from_another_machine(root: Path) -> None:
    change_json(job_of(root).record, device="a faster one")


def lose_the_source(root: Path) -> None:
    (root / "notebooks" / "01_first.md").unlink()


def lose_the_book(root: Path) -> None:
    (root / "_toc.yml").unlink()


def test_what_is_up_to_date_is_taken(project: Path) -> None:
    cells = built(project / "notebooks" / "01_first.ipynb")
    assert cells
    assert [cell.source for cell in cells[1:]] == list(SHOWS)
    assert all(cell.outputs for cell in cells[1:])


@pytest.mark.parametrize(
    "change",
    [
        edit_source,
        edit_lock,
        store_from_this_run,
        store_other_cells,
        build_with_other_values,
        fail,
        lose_the_record,
        damage_the_copy,
        install_another_torch,
        copy_from_another_machine,
        lose_the_source,
        lose_the_book,
    ],
)
def test_what_a_kernel_might_answer_otherwise_is_executed(project: Path, change: Callable[[Path], None]) -> None:
    change(project)
    assert built(project / "notebooks" / "01_first.ipynb") is None


@pytest.mark.parametrize(("asked", "replayed"), [(True, True), (False, False)])
def test_chapters_are_executed_where_nobody_asked_for_the_build(
    project: Path, monkeypatch: pytest.MonkeyPatch, asked: bool, replayed: bool
) -> None:
    executed: list[object] = []
    monkeypatch.setattr(outputs.IPyNbFile, "setup", executed.append)
    monkeypatch.setattr(outputs, "counted", Counter())
    config = SimpleNamespace(getoption=lambda name, default: asked if name == "built" else default)
    path = project / "notebooks" / "01_first.ipynb"
    chapter = SimpleNamespace(config=config, path=path, kernel=None, setup_sanitize_files=lambda: None)
    outputs.set_up(chapter)
    assert isinstance(chapter.kernel, outputs.Replay) is replayed
    assert executed == ([] if replayed else [chapter])
    assert outputs.counted == {"compared" if replayed else "executed": 1}


def test_a_session_compares_in_the_same_way_and_says_what_it_did(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", FONT_CACHE)
    root = write_project(pytester.path / "book")
    (root / "tests").mkdir()
    for name in ("conftest.py", "pyproject.toml", "tests/outputs.py"):
        shutil.copy(ROOT / name, root / name)
    write_chapter(root)
    # Another chapter, which the build did not execute.
    shutil.copy(root / "notebooks" / "01_first.ipynb", root / "notebooks" / "02_second.ipynb")
    monkeypatch.chdir(root)

    stored = root / "notebooks" / "01_first.ipynb"
    stored.write_text(stored.read_text().replace('"4"', '"5"'))
    os.utime(stored, (1e9, 1e9))
    result = pytester.runpytest_subprocess("--nbval", "--built", "-n", "2", "--dist", "loadscope", "notebooks")
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["1 chapters compared with what the build executed, 1 executed"])
    assert "execute_result text/plain: stored 5, computed 4" in result.outlines
    if sys.platform == "linux":
        assert "kernels: 1 forked, 0 plain" in result.outlines
