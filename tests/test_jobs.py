"""The plan of a build: which chapters are to be executed, because what they are made from or their values changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_book import pretend, write_project

from vaebook_runner import chapters
from vaebook_runner.files import UsageError
from vaebook_runner.jobs import Job, plan_book


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
