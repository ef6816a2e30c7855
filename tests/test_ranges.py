"""What a chapter says of a parameter's range is what it checks."""

import ast
import re
from pathlib import Path

import pytest

from vaebook.ranges import above, at_least
from vaebook.runner.chapters import read_notebook
from vaebook.runner.parameters import declared_parameters

CHAPTERS = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9]*.md"))
RANGE = re.compile(
    r"(?P<least>[\d,]+) or more|at least (?P<from>\d+)|above (?P<above>\d+)|from (?P<low>\d+) to"
)


@pytest.mark.parametrize("value", [0, 1, -5, 2.0, 2.5, True, "3", None, float("nan")])
def test_at_least_takes_whole_numbers_from_the_bound_on(value: object) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^m needs .* got {value!r}$"):
        at_least(2, n=2, m=value)


@pytest.mark.parametrize("value", [0, 0.0, -1e-9, float("nan"), float("inf"), False, "1e-4", None])
def test_above_takes_finite_numbers_beyond_the_bound(value: object) -> None:
    above(0, sigma_dec=1e-300, n=3)
    with pytest.raises((TypeError, ValueError), match=r"^rate needs .* above 0, got "):
        above(0, sigma_dec=1.0, rate=value)


def checked(chapter: Path) -> dict[str, str]:
    """Each parameter that a chapter hands to a check of its range, with the check: ``at_least 2``."""
    found = {}
    for cell in read_notebook(chapter).cells:
        for node in ast.walk(ast.parse(cell.source if cell.cell_type == "code" else "")):
            match node:
                case ast.Call(ast.Name("at_least" | "above" as name), [ast.Constant(bound)], keywords):
                    found |= {
                        str(k.arg): f"{name} {bound}" for k in keywords if ast.unparse(k.value) == k.arg
                    }
    return found


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_each_number_is_held_to_the_range_in_its_description(chapter: Path) -> None:
    said = {}
    for parameter in declared_parameters(read_notebook(chapter), chapter.stem).values():
        if parameter.type != "str":
            match = RANGE.search(parameter.help)
            assert match, f"{parameter.name} does not say its range: {parameter.help}"
            low = match["least"] or match["from"] or match["low"]
            said[parameter.name] = f"at_least {low.replace(',', '')}" if low else f"above {match['above']}"
    assert checked(chapter) == said


def test_the_checks_come_first() -> None:
    for chapter in CHAPTERS:
        code = [c for c in read_notebook(chapter).cells if c.cell_type == "code"]
        at = next(i for i, c in enumerate(code) if "parameters" in c.metadata.get("tags", []))
        assert "at_least(" in code[at + 1].source, chapter.stem
