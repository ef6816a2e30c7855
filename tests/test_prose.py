"""No result is typed into the prose: a measured number is bound to the run by `record` and `{glue:text}`.

What is typed has to stand in the chapter's own code, as a setting does, or in `GIVEN` below with its reason. Looked at
are decimal numbers, numbers of three digits or more, and numbers with a unit, in texts, formulas, captions and
descriptions of figures. Small whole numbers count things and are left alone.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vaebook_runner.chapters import read_notebook

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.md"))

# Neither measured nor set in code: what follows from arithmetic, and facts about the world.
GIVEN = {
    "01_kl": {"1.44": "1 / log 2"},
    "03_latent_variables": {"95 %": "radius √(2 log 20) in the code"},
    "06_reparametrisation": {"240": "5!·2", "720": "6!"},
    "07_loss": {"0.618": "golden section", "0.4": "1 / √2π", "5.7": "√64 / √2"},
    "08_training": {
        "0.999": "Adam's customary β₂",
        "95 %": "radius √(2 log 20) in the code",
        "39 %": "1 − exp(−1/2)",
    },
    "12_covariance": {"1325": "50 · 53 / 2"},
    "13_joint_view": {"255": "grey levels"},
    "14_museum_of_bugs": {"5000": "what a bug was asked for"},
    "15_published_table": {
        "784": "28²",
        "60,000": "MNIST",
        "10,000": "MNIST",
        "2980": "59,600 / 20",
        "469": "60,000 / 128",
        "0.2": "450 · 469",
        "9.8": "3280 · 59,600 / 20",
        "0.99": "the authors' code",
        "0.6": "nats, what we had aimed at; see benchmarks/published.py",
        "2187": "the authors' code, 3^7",
        "59,600": "the authors' code",
        "500": "the authors' code",
        "0.9": "PyTorch's Adam",
        "87.19": "the record before the present one, in the history of its folder",
    },
    "explorer": {"0.05": "a step of the keys", "0.5": "a long step"},
    "intro": {
        "1,797": "the digits",
        "1,437": "80 %",
        "180": "10 %",
        "5,000": "MNIST",
        "1.4": "a label",
        "4.0": "licence",
    },
    "notation": {"1.44": "1 / log 2"},
}

NOT_PROSE = re.compile(
    r"""\{[a-z:]+\}`[^`]*`           # a role: bound numbers, references
      | `[^`]*`                      # code
      | \]\([^)]*\)                  # a link's target
      | ^:::?.*$ | ^:\w+:.*$ | ^```+.*$ | ^\([\w-]+\)=$   # directives, options, labels
      | \b(?:sections?|chapters?|appendix|figures?|tables?)\ [\d.]+(?:(?:,|\ and|\ to)\ [\d.]+)*   # of the literature
      | \\(?:begin|end)\{[^}]*\} | \\(?:label|tag)\{[^}]*\}""",
    re.VERBOSE | re.MULTILINE,
)
NUMBER = re.compile(r"(?<![\w.{^_])[0-9][0-9,]*(?:\.[0-9]+)?")
UNIT = re.compile(r"[\s~]*(?:nats?|bits?|%|\\%|per\s+cent|standard\s+errors?|times\s+as)\b|[\s~]*\\?%")


def results(text: str) -> Iterator[str]:
    """The numbers in a text that look like results, with their units."""
    text = NOT_PROSE.sub(" ", text)
    for match in NUMBER.finditer(text):
        number = match.group().rstrip(",")
        unit = UNIT.match(text, match.end())
        if "." in number or unit or len(number.replace(",", "")) > 2:
            yield number + (" %" if unit and "%" in unit.group() else "")


def prose(cells: list[Any]) -> Iterator[str]:
    """What is read: Markdown, captions, descriptions."""
    for cell in cells:
        if cell.cell_type == "markdown":
            yield cell.source
        else:
            options = cell.metadata.get("mystnb", {})
            yield options.get("figure", {}).get("caption", "")
            yield options.get("image", {}).get("alt", "")


def settings(cells: list[Any]) -> set[float]:
    """The numbers that stand in the code."""
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    constants = (node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant))
    return {float(value) for value in constants if isinstance(value, int | float)}


def typed_results(cells: list[Any], given: set[str]) -> list[str]:
    known = settings(cells)
    found = []
    for text in prose(cells):
        for number in results(text):
            value = float(number.removesuffix(" %").replace(",", ""))
            share = value / 100 if number.endswith("%") else value
            # 95 % of a distribution is 0.95, or 5 % in its tails.
            if not ({value, share, round(1 - share, 9)} & known or number in given):
                found.append(number)
    return found


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_no_result_is_typed(chapter: Path) -> None:
    cells = read_notebook(chapter).cells
    assert typed_results(cells, set(GIVEN.get(chapter.stem, {}))) == []


@pytest.mark.parametrize("name", ["intro", "notation", "checks", "explorer", "module"])
def test_no_result_is_typed_on_the_other_pages(name: str) -> None:
    found = results((ROOT / "pages" / f"{name}.md").read_text(encoding="utf-8"))
    assert set(found) == set(GIVEN.get(name, {}))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_what_is_given_is_used(chapter: Path) -> None:
    found = {number for text in prose(read_notebook(chapter).cells) for number in results(text)}
    assert set(GIVEN.get(chapter.stem, {})) <= found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the bound is 12.34 nats", ["12.34"]),
        ("it costs −7 nats", ["7"]),
        ("better on 83 % of the images", ["83 %"]),
        ("after 1,437 steps", ["1,437"]),
        (r"we find $\ELBO = -3.21$", ["3.21"]),
        (r"$$ \KL = 0.0471 $$", ["0.0471"]),
        ("{glue:text}`a` nats, {eq}`eq-b-2`, `x = 1.5`, in chapter 7, section 3.2 and 4.1", []),
        ("two numbers, $m = 2$, 3 seeds, $10^{-8}$", []),
    ],
)
def test_a_typed_result_is_noticed(text: str, found: list[str]) -> None:
    assert list(results(text)) == found
