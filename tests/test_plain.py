"""Plain notebooks have the numbers, references and pictures of the pages, and nothing of MyST."""

import base64
import json
import re
import struct
from pathlib import Path
from typing import Any

import nbformat
import pytest
from left_over import left_over, texts
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from vaebook_runner.plain import Names, expanded, names_of, plain

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
MACROS = {"E": r"\mathbb{E}", "ELBO": r"\mathcal{L}", "norm": [r"\lVert #1 \rVert", 1], "diag": r"\operatorname{diag}"}
NAMES = Names(
    equations={"eq-here": ["notebooks/05_here", "5.7"], "eq-there": ["notebooks/01_there", "1.2"]},
    figures={"fig-curve": ["notebooks/05_here", "5.1"]},
    titles={"ch-there": ["notebooks/01_there", "The other chapter"], "notation": ["pages/notation", "Notation"]},
    citations={"one1999": ["One", "1999"], "two2001": ["Two and Three", "2001"]},
    macros=MACROS,
)


def converted(*cells: Any, names: Names = NAMES) -> Any:
    result = plain(new_notebook(cells=list(cells)), "notebooks/05_here", names)
    nbformat.validate(result)
    return result


def markdown(source: str) -> str:
    return converted(new_markdown_cell(source)).cells[0].source


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_nothing_of_myst_is_left_in_a_chapter(path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    result = plain(stored, f"notebooks/{path.stem}", names_of(ROOT)._replace(address=""))
    nbformat.validate(result)
    assert left_over(stored)  # or the search finds nothing
    assert left_over(result) == []
    for text in texts(result):  # a label in place of its number
        assert "eq-" not in text.replace("Eq-", "")
        assert r"\operatorname" not in text
    code = [cell.source for cell in result.cells if cell.cell_type == "code"]
    assert code == [cell.source for cell in stored.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_nothing_of_a_chapter_s_text_is_lost(path: Path) -> None:
    stored, page, names = nbformat.read(path, as_version=4), f"notebooks/{path.stem}", names_of(ROOT)
    result = plain(stored, page, names)
    prose = "\n".join(cell.source for cell in result.cells if cell.cell_type == "markdown")
    tags = re.findall(r"\\tag\{(.+)\}", prose)
    assert tags == [number for where, number in names.equations.values() if where == page]

    # Lines without a command, a role or a mark of MyST stay as they are.
    written = "\n".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
    lines = [line.strip() for line in written.splitlines() if not re.search(r"\\[A-Za-z]|[}>]`|^ *[`:(]", line)]
    assert len(lines) > 50
    shown = " ".join(re.sub("^> ?", "", prose, flags=re.M).split())
    assert [line for line in lines if " ".join(line.split()) not in shown] == []


@pytest.mark.parametrize(
    ("myst", "shown"),
    [
        ("see {eq}`eq-here`", "see (5.7)"),
        ("see {eq}`eq-there`", "see [(1.2)](01_there.ipynb)"),
        ("see {numref}`fig-curve`", "see Fig. 5.1"),
        ("see {ref}`ch-there`", "see [The other chapter](01_there.ipynb)"),
        ("see {ref}`the other one <ch-there>`", "see [the other one](01_there.ipynb)"),
        ("see {ref}`the\nnotation <notation>`", "see the notation"),
        ("{cite:t}`one1999` say", "One (1999) say"),
        ("so it is {cite:p}`one1999,two2001`", "so it is (One 1999; Two and Three 2001)"),
        ("(sec-x)=\n## Title", "## Title"),
        (r"$\ELBO = \E\norm{x}^2$ and \$5", r"$\mathcal{L} = \mathbb{E}\lVert x \rVert^2$ and \$5"),
        (
            "```{math}\n:label: eq-here\n\na &= b \\\\\n&= c\n```",
            "$$\n\\begin{aligned}\na &= b \\\\\n&= c\n\\end{aligned}\n\\tag{5.7}\n$$",
        ),
        ("```{note} Mind\nthis\n```", "> **Mind**\n>\n> this"),
        ("```{note} Mind\nthat $a\n- b$ is\n$c$\n```", "> **Mind**\n>\n> that $a - b$ is\n> $c$"),
        ("at \\$5 or $6\n\nand $x$", "at \\$5 or $6\n\nand $x$"),
        (
            "````{admonition} Solution\n:class: dropdown\n$\\E x$, {eq}`eq-here`\n````",
            "<details>\n<summary><b>Solution</b></summary>\n\n$\\mathbb{E} x$, (5.7)\n\n</details>",
        ),
        (
            "````{admonition} Solution\n:class: dropdown\n:name: s\n\nFirst,\n\n- a\n\nlast.\n````",
            "<details>\n<summary><b>Solution</b></summary>\n\nFirst,\n\n- a\n\nlast.\n\n</details>",
        ),
        ("it is {eq}`eq-unknown`, {cite:t}`nobody`", "it is (eq-unknown), nobody (no year)"),
    ],
)
def test_each_construct_has_its_plain_form(myst: str, shown: str) -> None:
    assert markdown(myst) == shown


@pytest.mark.parametrize(
    ("formula", "meaning"),
    [
        (r"\E_q\ELBO", r"\mathbb{E}_q\mathcal{L}"),  # one name begins like another
        (r"\norm{w_{ij}}", r"\lVert w_{ij} \rVert"),
        (r"\norm w", r"\lVert w \rVert"),
        (r"\norm{\norm{x} - y}", r"\lVert \lVert x \rVert - y \rVert"),
        (r"\Exp", r"\Exp"),
        # GitHub refuses \operatorname, with the spaces that it puts round a name and with the limits of its display.
        (r"\operatorname{Var} g", r"\mathop{\mathrm{Var}}\nolimits g"),
        (r"\diag\sigma", r"\mathop{\mathrm{diag}}\nolimits \sigma"),
        (r"\operatorname*{arg\,min}_\theta", r"\mathop{\mathrm{arg\,min}}_\theta"),
    ],
)
def test_commands_of_the_book_are_written_out(formula: str, meaning: str) -> None:
    assert expanded(formula, MACROS) == meaning


def test_a_recorded_number_stands_in_the_prose_and_nowhere_else() -> None:
    data = {"application/papermill.record/text/plain": "'1.50'"}
    output = new_output("display_data", data, metadata={"scrapbook": {"name": "x-size"}})
    result = converted(new_markdown_cell("is {glue:text}`x-size`"), new_code_cell("record()", outputs=[output]))
    assert result.cells[0].source == "is 1.50"
    assert result.cells[1].outputs == []


def test_a_tick_names_its_equation_by_number() -> None:
    data = {
        "text/plain": "✓ eq-here: exact",
        "text/markdown": "[✓](#checked-eq-here) {eq}`eq-here` · exact",
        "text/html": "✓ <code>eq-here</code> · exact",
    }
    shown = converted(new_code_cell("check()", outputs=[new_output("display_data", data)])).cells[0].outputs[0].data
    assert shown["text/plain"] == "✓ (5.7): exact"
    assert shown["text/markdown"] == "✓ (5.7) · exact"
    assert "text/html" not in shown


def test_a_figure_has_its_size_and_its_caption() -> None:
    size = struct.pack(">II", 1200, 800)
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size).decode()
    figure = {"figure": {"name": "fig-curve", "caption": "Where {eq}`eq-here` is least."}}
    drawn = new_output("display_data", {"image/png": png, "text/plain": "<Figure>"})
    cell = new_code_cell(
        "plt.show()",
        outputs=[drawn],
        metadata={"mystnb": {**figure, "image": {"alt": "A curve."}}, "tags": ["hide-input"]},
    )
    code, caption = converted(cell).cells
    assert code.outputs[0].metadata == {"image/png": {"width": 600, "height": 400, "alt": "A curve."}}
    assert caption.source == "*Fig. 5.1.* Where (5.7) is least."
    assert code.metadata == {"jupyter": {"source_hidden": True}, "cellView": "form"}


def test_papermill_finds_the_parameters() -> None:
    """Without the tag its own cell would come first, and the chapter's would overwrite it."""
    cells = [
        new_code_cell("x: int = 1", metadata={"tags": ["parameters"]}),
        new_code_cell("1", metadata={"tags": ["trained"]}),
    ]
    assert [cell.metadata for cell in converted(*cells).cells] == [{"tags": ["parameters"]}, {}]


@pytest.mark.parametrize(("code", "wanted"), [("1", ""), ("from vaebook_runner import x", "[run]")])
def test_the_first_cell_installs_the_module_where_it_is_missing(code: str, wanted: str) -> None:
    assert len(converted(new_code_cell(code)).cells) == 1  # of a book without a public address
    first = converted(new_code_cell(code), names=NAMES._replace(address="https://git.example/a/b")).cells[0]
    assert (
        f"clone --quiet --depth 1 https://git.example/a/b vaebook-checkout\n    %pip install --quiet ./vaebook-checkout{wanted}\n"
        in first.source
    )


def test_the_address_is_the_written_one_or_that_of_the_push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    assert names_of(tmp_path) == Names()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "references.json").write_text(json.dumps({"titles": {"x": ["pages/x", "X"]}}))
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    (tmp_path / "_config.yml").write_text(config, encoding="utf-8")
    assert names_of(tmp_path).address == ""
    assert names_of(tmp_path).titles == {"x": ["pages/x", "X"]}
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://git.example")
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/b")
    assert names_of(tmp_path).address == "https://git.example/a/b"
    (tmp_path / "_config.yml").write_text(config.replace('url: ""', "url: https://git.example/c/d"), encoding="utf-8")
    assert names_of(tmp_path).address == "https://git.example/c/d"
