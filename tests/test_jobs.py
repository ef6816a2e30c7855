"""The plan of a build, which executes a chapter when what it is made from or its values changed, and that of a sweep."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_book import pretend, write_project

from vaebook_runner import chapters, records
from vaebook_runner.files import UsageError
from vaebook_runner.jobs import Job, plan_book, plan_sweep


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(write_project(tmp_path / "book"))
    (tmp_path / "book" / "module").mkdir()
    (tmp_path / "book" / "module" / "gaussians.py").write_text("old = 1\n")
    monkeypatch.setattr(chapters.vaebook, "__file__", str(Path.cwd() / "module" / "__init__.py"))
    return Path.cwd()


def plan(**given: str) -> list[Job]:
    return plan_book(chapters.read_book(), given)


def edit(path: Path) -> None:
    path.write_text(path.read_text() + "\nOne more sentence.\n")


def edit_source(project: Path) -> dict[str, str]:
    edit(project / "notebooks" / "02_second.md")
    return {}


def edit_lock(project: Path) -> dict[str, str]:
    (project / "requirements.lock").write_text("torch==3\n")
    return {}


def edit_module(project: Path) -> dict[str, str]:
    (project / "module" / "gaussians.py").write_text("new = 1\n")
    return {}


def add_file_to_read(project: Path) -> dict[str, str]:
    (project / "notebooks" / "02_second").mkdir()
    (project / "notebooks" / "02_second" / "runs.json").write_text("{}")
    return {}


def edit_page(project: Path) -> dict[str, str]:
    edit(project / "pages" / "intro.md")
    return {}


def damage_copy(project: Path) -> dict[str, str]:
    (project / "_build" / "executed" / "01_first.ipynb").write_text("half of")
    return {}


def damage_record(project: Path) -> dict[str, str]:
    (project / "_build" / "executed" / "01_first.json").write_text("{")
    return {}


def fail(project: Path) -> dict[str, str]:
    path = project / "_build" / "executed" / "01_first.json"
    path.write_text(path.read_text().replace('"done"', '"failed"'))
    return {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda project: {}, []),
        (edit_page, []),
        (edit_source, ["02_second"]),
        (add_file_to_read, ["02_second"]),
        (edit_lock, ["01_first", "02_second"]),
        (edit_module, ["01_first", "02_second"]),
        (lambda project: {"rate": "0.1"}, ["02_second"]),
        (lambda project: {"seed": "7"}, ["01_first", "02_second"]),
        (damage_copy, ["01_first"]),
        (damage_record, ["01_first"]),
        (fail, ["01_first"]),
    ],
)
def test_exactly_what_changed_is_executed(
    project: Path, change: Callable[[Path], dict[str, str]], expected: list[str]
) -> None:
    assert pretend(plan()) == ["01_first", "02_second"]
    assert pretend(plan()) == []
    given = change(project)
    assert pretend(plan(**given)) == expected
    assert pretend(plan(**given)) == []


def test_what_runs_chapters_counts_for_the_chapters_that_use_it_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = project / "runner"
    runner.mkdir()
    (runner / "results.py").write_text("old = 1\n")
    monkeypatch.setattr(chapters, "__file__", str(runner / "chapters.py"))
    path = project / "notebooks" / "02_second.md"
    path.write_text(path.read_text().replace("print(seed, rate)", "from vaebook_runner import results"))
    pretend(plan())
    (runner / "results.py").write_text("new = 1\n")
    assert pretend(plan()) == ["02_second"]


def test_a_changed_image_file_of_the_reader_is_noticed(project: Path) -> None:
    path = project / "notebooks" / "01_first.md"
    path.write_text(path.read_text().replace("seed: int", 'dataset: str = "digits"\nseed: int'))
    for content in ("one", "three"):
        (project / "images.npy").write_text(content)
        assert "01_first" in pretend(plan(dataset="images.npy"))
        assert pretend(plan(dataset="images.npy")) == []


def with_images(project: Path) -> Path:
    """A chapter with a parameter that may name files."""
    path = project / "notebooks" / "01_first.md"
    path.write_text(path.read_text().replace("seed: int", 'dataset: str = "digits"\nseed: int'))
    return path


def test_images_are_known_by_their_contents_and_not_by_their_dates(project: Path) -> None:
    with_images(project)
    images, date = project / "images.npy", (1_000_000_000, 1_000_000_000)
    ids = []
    for content in ("one", "two", "one"):
        images.write_text(content)
        os.utime(images, date)
        ids.append(plan(dataset="images.npy")[0].id)
    os.utime(images)
    assert ids[0] == ids[2] != ids[1]
    assert plan(dataset="images.npy")[0].id == ids[0]


def test_what_a_system_leaves_in_a_folder_makes_nothing_out_of_date(project: Path) -> None:
    with_images(project)
    (project / "mine").mkdir()
    (project / "mine" / "a.png").write_text("a")
    before = [job.id for job in plan(dataset="mine")]
    for folder in (project / "mine", project / "module"):
        (folder / ".DS_Store").write_text("x")
        (folder / "__pycache__").mkdir(exist_ok=True)
        (folder / "__pycache__" / "a.pyc").write_text("x")
    assert [job.id for job in plan(dataset="mine")] == before
    (project / "mine" / "b.png").write_text("b")
    assert [job.id for job in plan(dataset="mine")] != before


@pytest.mark.parametrize(("dataset", "folder"), [("digits", "digits"), ("mine", "mine/runs")])
def test_what_runs_leave_does_not_count_as_what_they_read(project: Path, dataset: str, folder: str) -> None:
    source = with_images(project)
    (project / "mine").mkdir()
    (project / "mine" / "a.png").write_text("a")

    def jobs() -> list[Job]:
        return plan_sweep(source, Path(folder), {"dataset": dataset}, {}, 2)

    assert len(pretend(jobs())) == 2
    assert pretend(jobs()) == []


def test_other_versions_of_packages_make_other_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [job.id for job in plan()]
    monkeypatch.setattr(records, "versions", lambda: {"python": "3.99", "torch": "9"})
    assert {job.id for job in plan()}.isdisjoint(before)


def test_a_build_without_parameters_shares_runs_with_no_other_values(project: Path) -> None:
    default, other = plan(), plan(seed="7")
    assert {job.id for job in default}.isdisjoint(job.id for job in other)
    # The value that is the default already is given all the same: what was asked for is what is recorded.
    assert [job.values for job in plan(rate="0.5")] == [{}, {"rate": 0.5}]


def test_a_parameter_that_no_chapter_declares_is_refused(project: Path) -> None:
    with pytest.raises(UsageError, match="declares the parameter 'epochs'; declared are: rate, seed"):
        plan(epochs="3")
    with pytest.raises(UsageError, match="'seed'"):
        plan(seed="2.5")


# Jobs of a sweep


PLAN = """\
import sys
from pathlib import Path
from vaebook_runner import chapters, records
from vaebook_runner.jobs import plan_sweep
chapters.vaebook.__file__ = sys.argv[1]
grid = {"rate": ["0.5", "1e-4", ".5"]}
print(*(job.id for job in plan_sweep(Path("notebooks/02_second.md"), Path("runs"), {"seed": "3"}, grid, 2)))
"""


def sweep_jobs() -> list[Job]:
    grid = {"rate": ["0.5", "1e-4", ".5"]}
    return plan_sweep(Path("notebooks/02_second.md"), Path("runs"), {"seed": "3"}, grid, 2)


def test_another_process_makes_the_same_jobs(project: Path) -> None:
    ids = [job.id for job in sweep_jobs()]
    assert len(set(ids)) == 4
    for seed in ("1", "2"):
        command = [sys.executable, "-c", PLAN, str(chapters.vaebook.__file__)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ids


def test_a_job_can_be_sent_to_another_machine_and_carries_everything(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = sweep_jobs()[1]
    monkeypatch.chdir(tmp_path)
    copy = pickle.loads(pickle.dumps(job))
    assert copy == job
    assert job.values == {"seed": 4, "rate": 0.5}
    assert (job.folder, job.cwd) == (str(project / "runs"), str(project))
    assert Path(job.source) == project / "notebooks" / "02_second.md"
    assert {Path(file).name for file in job.made_from} == {"02_second.md", "gaussians.py", "requirements.lock"}
    assert all(Path(file).is_absolute() for file in job.made_from)
    assert pretend([copy]) == [job.name]
    assert job.is_done()
