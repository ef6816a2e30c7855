"""What every chapter promises: parameters under common names, checked equations, described figures, a stored pair."""

import ast
import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import book_checks
import jupytext
import nbformat
import pytest
import yaml

from vaebook_runner.chapters import read_notebook
from vaebook_runner.pairs import compare, note
from vaebook_runner.parameters import parameters_of

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.md"))
NAMES = {
    "dataset": "str",
    "latent_dim": "int",
    "sigma_dec": "float",
    "hidden": "int",
    "n_samples": "int",
    "epochs": "int",
    "batch_size": "int",
    "learning_rate": "float",
    "seed": "int",
    "objective": "str",
    "k": "int",
    "budget": "str",
    "passes": "int",
    "precision": "str",
    "keep": "str",
}
LONGEST_CELL, LONGEST_FOLDED_CELL = 30, 40  # lines; what draws a diagram is folded
# Lines of code that fit a page; the linter holds the stored notebooks to it.
WIDTH = tomllib.loads((ROOT / "notebooks" / "ruff.toml").read_text(encoding="utf-8"))["line-length"]
BOOKKEEPING = {"record", "claim", "at_least", "above", "use_style", "redirect_stdout"}
LABEL = re.compile(r"^ *:label: *((?:eq|def)-[a-z0-9-]+)$", re.M)


def cells(chapter: Path, kind: str) -> list[Any]:
    return [cell for cell in read_notebook(chapter).cells if cell.cell_type == kind]


def stored(chapter: Path) -> list[Any]:
    """The stored notebook's code cells, with their outputs."""
    return [c for c in jupytext.read(chapter.with_suffix(".ipynb")).cells if c.cell_type == "code"]


def labels(chapter: Path) -> list[str]:
    return LABEL.findall("\n".join(cell.source for cell in cells(chapter, "markdown")))


def shown(chapter: Path) -> list[str]:
    """The code that a page shows without a click."""
    folded = {"hide-input", "hide-cell"}
    return [cell.source for cell in cells(chapter, "code") if not folded & set(cell.metadata.get("tags", []))]


def bookkeeping(source: str) -> set[int]:
    """The lines of a cell that serve the book's machinery and none of its ideas."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
        if isinstance(node, ast.Import | ast.ImportFrom) or called in BOOKKEEPING:
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def test_the_contents_list_every_chapter() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    chapters = [f"notebooks/{c.stem}.ipynb" for c in CHAPTERS]
    assert len(chapters) >= 8
    assert [name for name in listed if name.startswith("notebooks/")] == chapters


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_parameters_bear_the_common_names_and_say_what_they_are(chapter: Path) -> None:
    declared = parameters_of(read_notebook(chapter), chapter.stem)
    assert declared.types
    for name, kind in declared.types.items():
        assert NAMES[name] == kind
        assert re.search(rf"^{name}: .+  # \S", declared.text, re.M)


def test_labels_are_unique_in_the_book() -> None:
    found = [label for chapter in CHAPTERS for label in labels(chapter)]
    assert len(found) > 50
    assert sorted(found) == sorted(set(found))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_every_claimed_equation_is_checked_in_its_chapter(chapter: Path) -> None:
    found = book_checks.read(chapter.stem, json.loads(chapter.with_suffix(".ipynb").read_text(encoding="utf-8")))
    assert [label for label in found.labels if label.startswith("eq-") and label not in found.checks] == []
    assert set(found.checks) <= {label for other in CHAPTERS for label in labels(other)}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_every_equation_has_a_check_that_notices_a_tenth(chapter: Path) -> None:
    found = book_checks.read(chapter.stem, json.loads(chapter.with_suffix(".ipynb").read_text(encoding="utf-8")))
    best = {label: min(known) for label, checks in found.checks.items() if (known := book_checks.resolutions(checks))}
    assert {label: per_cent for label, per_cent in best.items() if per_cent > book_checks.WANTED} == {}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_every_picture_has_a_caption_and_words_for_those_who_cannot_see_it(chapter: Path) -> None:
    pictures = [cell for cell in cells(chapter, "code") if "plt.show()" in cell.source]
    assert pictures
    for cell in pictures:
        options = cell.metadata["mystnb"]
        assert options["figure"]["caption"].strip()
        assert options["figure"]["name"].startswith("fig-")
        assert options["image"]["alt"].strip()


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_no_cell_is_longer_than_a_reader_takes_in(chapter: Path) -> None:
    for cell in cells(chapter, "code"):
        folded = "hide-input" in cell.metadata.get("tags", [])
        longest = LONGEST_FOLDED_CELL if folded else LONGEST_CELL
        lines = [line for line in cell.source.splitlines() if not line.startswith(("import ", "from "))]
        assert len(lines) <= longest, cell.source


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_no_line_of_code_is_wider_than_a_page(chapter: Path) -> None:
    assert WIDTH == 87
    lines = [line for cell in cells(chapter, "code") for line in cell.source.splitlines()]
    assert [line for line in lines if len(line) > WIDTH] == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_a_chapter_opens_on_its_question_and_not_on_its_imports(chapter: Path) -> None:
    everything = [cell.source for cell in cells(chapter, "code")]
    assert "import " in everything[0]
    assert shown(chapter)[0] == everything[1] == parameters_of(read_notebook(chapter), chapter.stem).text
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) for source in shown(chapter) for node in
                   ast.walk(ast.parse(source)))  # fmt: skip


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_bookkeeping_is_folded_away(chapter: Path) -> None:
    """Records, claims and ranges take less than a twentieth of the lines that a reader sees."""
    texts = "\n".join(cell.source for cell in cells(chapter, "markdown")).splitlines()
    read = sum(math.ceil(len(line) / 90) for line in texts) + sum(len(code.splitlines()) for code in shown(chapter))
    assert sum(len(bookkeeping(code)) for code in shown(chapter)) < 0.05 * read


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_the_stored_notebook_is_in_step_and_ran_to_its_end(chapter: Path) -> None:
    assert compare(chapter) == ([], False), "run `make refresh`"
    assert read_notebook(chapter.with_suffix(".ipynb")).metadata["vaebook"] == note(read_notebook(chapter))
    assert all(cell.execution_count for cell in stored(chapter))
    assert not [o for cell in stored(chapter) for o in cell.outputs if o.output_type == "error"]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_saving_in_jupyterlab_changes_nothing(chapter: Path) -> None:
    """The source is as Jupytext writes it, so that a save in JupyterLab shows only what was edited."""
    text = chapter.read_text(encoding="utf-8")
    assert jupytext.writes(jupytext.reads(text, fmt="md:myst"), fmt="md:myst") == text


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_a_source_is_written_as_jupytext_would_write_the_stored_pair(chapter: Path) -> None:
    """JupyterLab refuses to open a source that is older than its notebook and differs from it in any letter."""
    pair = nbformat.reads(nbformat.writes(jupytext.read(chapter)), as_version=4)  # a notebook sorts its options
    assert jupytext.writes(pair, fmt="md:myst") == chapter.read_text(encoding="utf-8")
