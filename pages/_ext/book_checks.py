"""The page of checks: every labelled equation of the book, and how this build verified it."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

MARK = "<!-- the checks of this build -->"  # in the page's source, where the tables go
# A heading, the title of an exercise, or the label of an equation.
MARKS = re.compile(r"^#+ (.+)$|^\*\*\d+\. (.+?)\.?\*\*|^ *:label: *((?:eq|def)-[a-z0-9-]+) *$", re.M)


class Chapter(NamedTuple):
    stem: str
    title: str
    labels: Mapping[str, str]  # of its equations, in order, each with the heading that it stands under
    checks: Mapping[str, Sequence[Mapping[str, Any]]]  # by label


def setup(app: Sphinx) -> dict[str, bool]:
    """Have the page written when Sphinx reads it."""
    app.connect("source-read", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the checks of all chapters in place of the mark."""
    if MARK in source[0]:
        found = sorted(Path(app.srcdir, "notebooks").glob("*.ipynb"))
        chapters = [read(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in found]
        source[0] = page(source[0], chapters)


def read(stem: str, notebook: Mapping[str, Any]) -> Chapter:
    """The labels in a chapter's text and the checks in its outputs, from the JSON of its .ipynb."""
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    checks = dict[str, list[Mapping[str, Any]]]()
    for output in (output for cell in notebook["cells"] for output in cell.get("outputs", [])):
        if check := output.get("metadata", {}).get("vaebook", {}).get("check"):
            checks.setdefault(check["label"], []).append(check)
    labels, heading = dict[str, str](), stem
    for title, exercise, label in MARKS.findall(text):
        heading = title or exercise or heading
        labels |= {label: heading} if label else {}
    return Chapter(stem, (re.findall(r"(?m)^# (.+)$", text) or [stem])[0], labels, checks)


def page(text: str, chapters: Sequence[Chapter]) -> str:
    """The page's source with the coverage and one table a chapter in place of the mark."""
    counts = Counter(label for c in chapters for label in c.labels)
    twice = [label for label, n in counts.items() if n > 1]
    stray = [label for c in chapters for label in c.checks if label not in counts]
    if twice or stray:
        raise ExtensionError(f"labels used twice: {twice}; checks of equations that do not exist: {stray}")
    claims = [(c, label) for c in chapters for label in c.labels if label.startswith("eq-")]
    missing = [f"{{eq}}`{label}`" for c, label in claims if label not in c.checks]
    done = len(claims) - len(missing)
    n_checks = sum(len(found) for c in chapters for found in c.checks.values())
    share = f"{100 * done / max(1, len(claims)):.0f} %"
    head = f"**{done} of {len(claims)} claims are checked in their own chapter, {share},** by {n_checks} checks."
    head += f" Without a check in this build: {', '.join(missing)}." * bool(missing)
    headings = {label: heading for c in chapters for label, heading in c.labels.items()}
    return text.replace(MARK, "\n\n".join([head, *(_table(c, headings) for c in chapters)]))


def _table(chapter: Chapter, headings: Mapping[str, str]) -> str:
    """A section with one row a check; the first row of an equation is where its ticks point to."""
    number = chapter.stem[:2].lstrip("0")
    lines = [f"## {chapter.title}", "", f"The ticks are in {{doc}}`chapter {number} </notebooks/{chapter.stem}>`.", ""]
    lines += [":::{list-table}"]
    lines += [":header-rows: 1", "", "* - equation\n  - kind\n  - found"]
    for label, checks in chapter.checks.items():
        # A chapter may check an equation of an earlier one: the anchor is where the equation is.
        anchor = f"(checked-{label})=\n    " if label in chapter.labels else ""
        for check in checks:
            lines.append(f"* - {anchor}{{eq}}`{label}` {headings[label]}")
            kind = check["kind"].replace(" ", "\N{NO-BREAK SPACE}")  # on one line
            lines += [f"  - {kind}", f"  - {check['found']}"]
            anchor = ""
    return "\n".join([*lines, ":::"])
