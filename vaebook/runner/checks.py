"""The page of checks: every labelled equation of the book, and how this build verified it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# The page's source holds this line where the tables go.
MARK = "<!-- the checks of this build -->"
TITLE = re.compile(r"^# (.+)$", re.M)
LABEL = re.compile(r"^ *:label: *((?:eq|def)-[a-z0-9-]+) *$", re.M)


class ChecksDisagree(Exception):
    """A label stands twice, or a check names an equation that is not there."""


@dataclass(frozen=True)
class Chapter:
    """One executed chapter: its stem and title, its equations' labels in order, its checks by label."""

    stem: str
    title: str
    labels: tuple[str, ...]
    checks: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


def read(stem: str, notebook: Mapping[str, Any]) -> Chapter:
    """The labels in a chapter's text and the checks in its outputs, from the JSON of its .ipynb."""
    title, labels, checks = "", [], dict[str, list[Mapping[str, Any]]]()
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"])
            title = title or next(iter(TITLE.findall(text)), "")
            labels += LABEL.findall(text)
        for output in cell.get("outputs", []):
            if check := output.get("metadata", {}).get("vaebook", {}).get("check"):
                checks.setdefault(check["label"], []).append(check)
    return Chapter(stem, title or stem, tuple(labels), checks)


def unchecked(chapters: Sequence[Chapter]) -> list[str]:
    """The labels of claims (``eq-…``) that their own chapter does not check."""
    return [
        label for c in chapters for label in c.labels if label.startswith("eq-") and label not in c.checks
    ]


def page(text: str, chapters: Sequence[Chapter]) -> str:
    """The page's source with the coverage and one table a chapter in place of the mark.

    Raises:
        ChecksDisagree: if a label stands twice in the book, or a check names none.
    """
    counts = Counter(label for c in chapters for label in c.labels)
    twice = [label for label, n in counts.items() if n > 1]
    stray = [label for c in chapters for label in c.checks if label not in counts]
    if twice or stray:
        raise ChecksDisagree(
            f"labels that stand twice: {', '.join(twice) or 'none'}; "
            f"checks of equations that are not there: {', '.join(stray) or 'none'}"
        )
    claims = [label for label in counts if label.startswith("eq-")]
    missing = unchecked(chapters)
    n_checks = sum(len(found) for c in chapters for found in c.checks.values())
    done = len(claims) - len(missing)
    head = (
        f"**{done} of {len(claims)} claims are checked in their own chapter, "
        f"{100 * done / max(1, len(claims)):.0f} %,** by {n_checks} checks."
    )
    if missing:
        head += " Without a check in this build: " + ", ".join(f"{{eq}}`{label}`" for label in missing) + "."
    return text.replace(MARK, "\n\n".join([head, *(_table(c) for c in chapters)]))


def _table(chapter: Chapter) -> str:
    """A section with one row a check; the first row of an equation is where its ticks point to."""
    lines = [
        f"## {chapter.title}",
        "",
        f"The ticks of {{doc}}`notebooks/{chapter.stem}`.",
        "",
        ":::{list-table}",
        ":header-rows: 1",
        "",
        "* - equation\n  - kind\n  - deviation\n  - allowed",
    ]
    anchored = set[str]()
    for label, checks in chapter.checks.items():
        for check in checks:
            # A chapter may check an equation of an earlier one: the anchor is where it stands itself.
            anchor = label in chapter.labels and label not in anchored
            anchored.add(label)
            target = f"(checked-{label})=\n    " if anchor else ""
            lines.append(
                f"* - {target}{{eq}}`{label}`\n"
                f"  - {check['kind']}\n  - {check['deviation']}\n  - {check['tolerance']}"
            )
    return "\n".join([*lines, ":::"])
