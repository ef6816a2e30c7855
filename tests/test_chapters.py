"""How a chapter is found and read, and which files it depends on."""

import re
from pathlib import Path

import pytest
from small_book import TOC, myst, write_project

from vaebook_runner import chapters
from vaebook_runner.files import UsageError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(write_project(tmp_path / "book"))
    return Path.cwd()


def test_a_book_is_found_from_a_folder_below_in_the_order_of_its_contents(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project / "notebooks")
    book = chapters.read_book()
    assert book.root == project
    assert [path.name for path in book.chapters] == ["01_first.md", "02_second.md"]


def test_a_table_of_contents_that_names_a_missing_chapter_is_refused(project: Path) -> None:
    (project / "notebooks" / "02_second.md").unlink()
    with pytest.raises(UsageError, match=r"_toc.yml lists .*there is no notebooks/02_second.md"):
        chapters.read_book()


@pytest.mark.parametrize("content", [b"root: [", b"\xff\xfe"])
def test_a_table_of_contents_that_cannot_be_read_is_refused(project: Path, content: bytes) -> None:
    (project / "_toc.yml").write_bytes(content)
    with pytest.raises(UsageError, match=r"_toc.yml cannot be read"):
        chapters.read_book()


def test_without_a_book_the_message_says_what_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert chapters.find_root() is None
    with pytest.raises(UsageError, match=r"_toc.yml and notebooks/"):
        chapters.read_book()


def test_a_chapter_is_found_by_its_stem_or_by_a_path(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, stored = (project / "notebooks" / f"01_first{suffix}" for suffix in (".md", ".ipynb"))
    stored.write_text("{}")
    other = project / "other.md"
    other.write_text(myst("Other", "seed: int = 1"))
    for name in ("01_first", "01_first.md", "01_first.ipynb"):
        assert chapters.find_notebook(name).resolve() == source  # the source goes before the stored pair
    assert chapters.find_notebook(str(stored)) == stored
    assert chapters.find_notebook("other.md").resolve() == other
    monkeypatch.chdir(project / "notebooks")
    assert chapters.find_notebook("01_first.ipynb").resolve() == stored  # a path that is there
    source.unlink()
    assert chapters.find_notebook("01_first").resolve() == stored


@pytest.mark.parametrize("name", ["03_third", "notebooks/03_third.md", "01_first.txt", "elsewhere/01_first", ""])
def test_an_unknown_chapter_is_answered_with_the_list_of_them(project: Path, name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(name)) + r".*the chapters are: 01_first, 02_second"):
        chapters.find_notebook(name)


def test_cell_ids_depend_on_sources_alone(project: Path) -> None:
    path = project / "notebooks" / "01_first.md"
    ids = [cell.id for cell in chapters.read_notebook(path).cells]
    assert ids == [cell.id for cell in chapters.read_notebook(path).cells]
    assert len(set(ids)) == len(ids) == 4
    assert ids[3] == f"{ids[2]}-2"  # the two equal cells


@pytest.mark.parametrize("content", ["{", '{"cells": 1}', "[]"])
def test_a_broken_notebook_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"broken.ipynb cannot be read as a notebook"):
        chapters.read_notebook(path)


def test_a_chapter_is_made_from_its_source_what_it_reads_the_module_and_the_lock(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = project / "module"
    (project / "notebooks" / "01_first").mkdir()
    module.mkdir()
    read, code = project / "notebooks" / "01_first" / "runs.json", module / "__init__.py"
    read.write_text("{}")
    code.write_text("")
    monkeypatch.setattr(chapters.vaebook, "__file__", str(code))
    source = project / "notebooks" / "01_first.md"
    assert chapters.made_from(source) == [source, read, code, project / "requirements.lock"]
    # What runs chapters counts for the chapters that use it alone.
    source.write_text(source.read_text() + "\nBy `vaebook_runner.results`.\n")
    assert Path(chapters.__file__) in chapters.made_from(source)


def test_chapters_are_found_in_parts_and_below_other_pages(project: Path) -> None:
    more = "      - file: pages/more\n        sections:\n          - file: notebooks/03_third.ipynb\n"
    (project / "_toc.yml").write_text(TOC + more)
    (project / "pages" / "more.md").write_text("# More\n")
    (project / "notebooks" / "03_third.md").write_text(myst("Third", "seed: int = 1"))
    assert [path.stem for path in chapters.read_book().chapters] == ["01_first", "02_second", "03_third"]
