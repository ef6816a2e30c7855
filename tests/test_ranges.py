"""Each chapter checks its parameters against the ranges that it states."""

import ast
import re
from pathlib import Path
from typing import Any

import jupytext
import pytest

from vaebook.ranges import above, at_least

PARAMETER = re.compile(r"(?P<name>\w+): (?P<type>\w+) = .*?  # (?P<help>.*)")
CHAPTERS = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9]*.md"))
RANGE = re.compile(r"(?P<least>[\d,]+) or more|at least (?P<from>\d+)|above (?P<above>\d+)|from (?P<low>\d+) to")


@pytest.mark.parametrize("value", [0, 1, -5, 2.0, 2.5, True, "3", None, float("nan")])
def test_at_least_accepts_only_whole_numbers_from_the_bound_on(value: object) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^m needs .* got {value!r}$"):
        at_least(2, n=2, m=value)


@pytest.mark.parametrize("value", [0, 0.0, -1e-9, float("nan"), float("inf"), False, "1e-4", None])
def test_above_accepts_only_finite_numbers_above_the_bound(value: object) -> None:
    above(0, sigma_dec=1e-300, n=3)
    with pytest.raises((TypeError, ValueError), match=r"^rate needs .* above 0, got "):
        above(0, sigma_dec=1.0, rate=value)


def code(chapter: Path) -> list[Any]:
    return [cell for cell in jupytext.read(chapter).cells if cell.cell_type == "code"]


def parameters(chapter: Path) -> list[re.Match[str]]:
    """The lines ``name: type = value  # help`` of the cell tagged ``parameters``."""
    cell = next(c for c in code(chapter) if "parameters" in c.metadata.get("tags", []))
    lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith("#")]
    found = [match for line in lines if (match := PARAMETER.fullmatch(line))]
    assert len(found) == len(lines), cell.source
    return found


def checked(chapter: Path) -> dict[str, str]:
    """The parameters whose range a chapter checks, each with its check, such as ``at_least 2``."""
    found = {}
    for cell in code(chapter):
        for node in ast.walk(ast.parse(cell.source)):
            match node:
                case ast.Call(ast.Name("at_least" | "above" as name), [ast.Constant(bound)], keywords):
                    found |= {str(k.arg): f"{name} {bound}" for k in keywords if ast.unparse(k.value) == k.arg}
    return found


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_each_parameter_is_checked_against_the_range_in_its_description(chapter: Path) -> None:
    said = {}
    for parameter in parameters(chapter):
        if parameter["type"] != "str":
            match = RANGE.search(parameter["help"])
            assert match, f"{parameter['name']} does not say its range: {parameter['help']}"
            low = match["least"] or match["from"] or match["low"]
            said[parameter["name"]] = f"at_least {low.replace(',', '')}" if low else f"above {match['above']}"
    assert checked(chapter) == said


def test_the_checks_come_first() -> None:
    for chapter in CHAPTERS:
        cells = code(chapter)
        at = next(i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", []))
        assert "at_least(" in cells[at + 1].source, chapter.stem
