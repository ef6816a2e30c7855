"""Each chapter checks its parameters against the ranges that it states."""

import ast
import re
from pathlib import Path

import pytest
from ranges_of_chapters import CHAPTERS, LARGE, Range, cases, checked, code, ends, own_images, smallest

from vaebook.ranges import above, at_least

PARAMETER = re.compile(r"(?P<name>\w+): (?P<type>\w+) = (?P<default>.*?)  # (?P<help>.*)")
RANGE = re.compile(r"(?P<least>[\d,]+) or more|at least (?P<from>\d+)|above (?P<above>[\d.]+)|from (?P<low>\d+) to")
MOST = re.compile(r"at most (?P<before>[\d.]+)|(?P<after>[\d.]+) at most")


@pytest.mark.parametrize("value", [0, 1, -5, 2.0, 2.5, True, "3", None, float("nan")])
def test_at_least_accepts_only_whole_numbers_from_the_bound_on(value: object) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^m needs .* got {value!r}$"):
        at_least(2, n=2, m=value)


def test_a_largest_value_is_part_of_a_range() -> None:
    at_least(2, most=5, n=2, m=5)
    above(0, most=0.1, rate=0.1)
    with pytest.raises(ValueError, match=r"^m needs to be at least 2 and at most 5, got 6$"):
        at_least(2, most=5, n=3, m=6)
    with pytest.raises(ValueError, match=r"^rate needs to be a finite number above 0 and at most 0.1, got 0.2$"):
        above(0, most=0.1, rate=0.2)


@pytest.mark.parametrize("value", [0, 0.0, -1e-9, float("nan"), float("inf"), False, "1e-4", None])
def test_above_accepts_only_finite_numbers_above_the_bound(value: object) -> None:
    above(0, sigma_dec=1e-300, n=3)
    with pytest.raises((TypeError, ValueError), match=r"^rate needs .* above 0, got "):
        above(0, sigma_dec=1.0, rate=value)


def parameters(chapter: Path) -> list[re.Match[str]]:
    """The lines ``name: type = value  # help`` of the cell tagged ``parameters``."""
    cell = next(c for c in code(chapter) if "parameters" in c.metadata.get("tags", []))
    lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith("#")]
    found = [match for line in lines if (match := PARAMETER.fullmatch(line))]
    assert len(found) == len(lines), cell.source
    return found


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_each_parameter_is_checked_against_the_range_in_its_description(chapter: Path) -> None:
    said = {}
    for parameter in parameters(chapter):
        if parameter["type"] != "str":
            match = RANGE.search(parameter["help"])
            assert match, f"{parameter['name']} does not say its range: {parameter['help']}"
            low = match["least"] or match["from"] or match["low"]
            most = MOST.search(parameter["help"])
            kind, least = ("at_least", low.replace(",", "")) if low else ("above", match["above"])
            limit = float(most["before"] or most["after"]) if most else None
            said[parameter["name"]] = Range(kind, float(least), limit)
    assert checked(chapter) == said


def test_the_checks_come_first() -> None:
    for chapter in CHAPTERS:
        cells = code(chapter)
        at = next(i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", []))
        assert "at_least(" in cells[at + 1].source, chapter.stem


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_every_parameter_is_taken_to_the_ends_of_its_range(chapter: Path, tmp_path: Path) -> None:
    own, ranges = own_images(tmp_path), checked(chapter)
    tried: dict[str, set[object]] = {}
    together = ("other", "smallest")
    assert {label for label, _ in cases(chapter, own, sample=True)} < set(together)
    for values in (values for label, values in cases(chapter, own, sample=False) if label not in together):
        for name, value in values.items():
            tried.setdefault(name, set()).add(value)
    for parameter in parameters(chapter):
        name, default = parameter["name"], ast.literal_eval(parameter["default"])
        assert name in LARGE
        if name == "dataset":
            assert tried[name] == {str(path) for path in own.values()}
        elif name in ranges:
            assert tried.get(name, set()) | {default} >= {smallest(ranges[name]), *ends(name, ranges[name], default)}
    assert set(LARGE) >= set(tried)
