"""The page of checks: every labelled equation and every claim of the book, and how this build verified it.

Beside what the build saw stands what long runs found and stored in ``pages/evidence.json``: at how many other seeds
a check or a claim held, how many small mistakes in a chapter's code it notices, and how its ranges of parameters end.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

MARK = "<!-- the checks of this build -->"  # in the page's source, where the tables go
# A heading, the title of an exercise, or the label of an equation.
MARKS = re.compile(r"^#+ (.+)$|^\*\*\d+\. (.+?)\.?\*\*|^ *:label: *((?:eq|def)-[a-z0-9-]+) *$", re.M)
WANTED = 10  # per cent: an equation needs a check that notices a change of as much
ENOUGH = 19 / 20  # of the seeds, at which a claim has to hold
Evidence = Mapping[str, Mapping[str, Mapping[str, Any]]]  # kind of run, chapter, what it found


class Chapter(NamedTuple):
    stem: str
    title: str
    labels: Mapping[str, str]  # of its equations, in order, each with the heading that it stands under
    checks: Mapping[str, Sequence[Mapping[str, Any]]]  # by label
    claims: Sequence[Mapping[str, Any]]  # about trained models
    code: str  # digest of its code, as the long runs name it


def setup(app: Sphinx) -> dict[str, bool]:
    """Have the page written when Sphinx reads it."""
    app.connect("source-read", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the checks of all chapters in place of the mark."""
    if MARK in source[0]:
        found = sorted(Path(app.srcdir, "notebooks").glob("*.ipynb"))
        chapters = [read(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in found]
        stored = Path(app.srcdir, "pages", "evidence.json")
        evidence = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
        source[0] = page(source[0], chapters, evidence)


def read(stem: str, notebook: Mapping[str, Any]) -> Chapter:
    """The labels in a chapter's text and the checks and claims in its outputs, from the JSON of its .ipynb."""
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = (output for cell in notebook["cells"] for output in cell.get("outputs", []))
    found = [output.get("metadata", {}).get("vaebook", {}) for output in outputs]
    checks = dict[str, list[Mapping[str, Any]]]()
    for check in (data["check"] for data in found if "check" in data):
        checks.setdefault(check["label"], []).append(check)
    labels, heading = dict[str, str](), stem
    for title, exercise, label in MARKS.findall(text):
        heading = title or exercise or heading
        labels |= {label: heading} if label else {}
    title = (re.findall(r"(?m)^# (.+)$", text) or [stem])[0]
    claims = [data["claim"] for data in found if "claim" in data]
    return Chapter(stem, title, labels, checks, claims, digest(code))


def digest(code: Iterable[str]) -> str:
    """What tells a chapter's code, cell by cell, from any other; comments do not count."""
    computed = re.sub(r"(?m)(^| ) *#.*$", "", "\n\n".join(code))
    return hashlib.sha256(re.sub(r"\n+", "\n", computed).encode()).hexdigest()[:12]


def page(text: str, chapters: Sequence[Chapter], evidence: Evidence) -> str:
    """The page's source with the coverage, the four numbers and the tables of each chapter in place of the mark."""
    counts = Counter(label for c in chapters for label in c.labels)
    twice = [label for label, n in counts.items() if n > 1]
    stray = [label for c in chapters for label in c.checks if label not in counts]
    if twice or stray:
        raise ExtensionError(f"labels used twice: {twice}; checks of equations that do not exist: {stray}")
    equations = [(c, label) for c in chapters for label in c.labels if label.startswith("eq-")]
    missing = [f"{{eq}}`{label}`" for c, label in equations if label not in c.checks]
    done = len(equations) - len(missing)
    n_checks = sum(len(found) for c in chapters for found in c.checks.values())
    some = f"{done} of {len(equations)} equations, {100 * done / max(1, len(equations)):.0f} %," if missing else ""
    head = f"**{some or f'All {done} equations'} are checked in their own chapter;** the book has {n_checks} checks."
    head += f" Without a check in this build: {', '.join(missing)}." * bool(missing)
    head += f" Beside them stand {sum(len(c.claims) for c in chapters)} claims about trained models."
    headings = {label: heading for c in chapters for label, heading in c.labels.items()}
    tables = [_tables(c, headings, evidence.get("replication", {}).get(c.stem, {})) for c in chapters]
    return text.replace(MARK, "\n\n".join([head, *_four_numbers(chapters, evidence), *tables]))


def _four_numbers(chapters: Sequence[Chapter], evidence: Evidence) -> list[str]:
    """A paragraph for each of resolution, mistakes, replication and ranges."""
    known = dict[str, list[float]]()  # a chapter may check an equation of another one
    for label, checks in ((label, checks) for c in chapters for label, checks in c.checks.items()):
        known.setdefault(label, []).extend(resolutions(checks))
    best = [min(found) for found in known.values() if found]
    sharp = sum(per_cent <= WANTED for per_cent in best)
    some = "All" if sharp == len(best) else f"{sharp} of"
    lines = [f"**Resolution.** {some} {len(best)} equations that say what something equals have a check with "
             f"a resolution of {WANTED} % or less."]  # fmt: skip
    for kind, words in (
        ("mutants", "**Mistakes.** Of {mistakes} small mistakes put into the chapters' own code, a check, a claim or "
                    "an assertion noticed {noticed}, and {crashed} stopped the chapter otherwise"),
        ("replication", "**Replication.** Of {all} equations and claims, {often} held at 95 % or more of the seeds "
                        "that nobody had looked at"),
        ("ranges", "**Ranges.** Of {runs} runs at the ends of the parameters' ranges and on other images, {well} "
                   "ended well"),
    ):  # fmt: skip
        stored = evidence.get(kind, {})
        if not (measured := [c for c in chapters if c.stem in stored]):
            continue
        total: Counter[str] = Counter()
        for found in (stored[c.stem] for c in measured):
            total += Counter({name: n for name, n in found.items() if isinstance(n, int)})
            held, n = found.get("held", {}), len(found.get("seeds", []))
            total += Counter({"all": len(held), "often": sum(k >= ENOUGH * n for k in held.values())})
        words = words.replace("{", "{0[").replace("}", "]}").format(total)
        lines.append(f"{words} ({_numbers(c.stem for c in measured)}).")
        if older := [c.stem for c in measured if stored[c.stem]["code"] != c.code]:
            lines[-1] += f" Measured on an earlier code: {_numbers(older)}."
    return lines


def _numbers(stems: Iterable[str]) -> str:
    """Names of chapters: chapters 1, 2, 5."""
    numbers = [stem[:2].lstrip("0") for stem in stems]
    return f"chapter{'s' * (len(numbers) != 1)} {', '.join(numbers) or 'none'}"


def resolutions(checks: Iterable[Mapping[str, Any]]) -> list[float]:
    """Those of the checks of two numbers that should be equal, and not 0: a bound may be far from attained."""
    found = [check["resolution"] for check in checks if not re.search("[≤≥]", check["found"])]
    return [per_cent for per_cent in found if per_cent is not None]


def _per_cent(per_cent: float | None) -> str:
    """The resolution of a check, as its column shows it."""
    if per_cent is None:
        return ""
    text = "any" if per_cent == 0 else "< 0.01 %" if per_cent < 0.01 else f"{float(f'{per_cent:.2g}'):g} %"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _tables(chapter: Chapter, headings: Mapping[str, str], replicated: Mapping[str, Any]) -> str:
    """A section with a row for each check, those that found the same in one, and a row for each claim.

    The first row of an equation is where its ticks point to.
    """
    number, held = chapter.stem[:2].lstrip("0"), replicated.get("held", {})
    of = {what: f"{n} of {len(replicated['seeds'])}" for what, n in held.items()}
    lines = [f"## {chapter.title}", "", f"The ticks are in {{doc}}`chapter {number} </notebooks/{chapter.stem}>`.", ""]
    rows = list[list[str]]()
    for label in sorted(chapter.checks, key=[*chapter.labels, *chapter.checks].index):
        # A chapter may check an equation of an earlier one: the anchor is where the equation is.
        anchor = f"(checked-{label})=\n    " if label in chapter.labels else ""
        alike = Counter((c["kind"], c["found"], _per_cent(c["resolution"])) for c in chapter.checks[label])
        for (kind, found, notices), n in alike.items():
            times = f", {n} times" * (n > 1)
            rows.append([f"{anchor}{{eq}}`{label}` {headings[label]}", kind, found + times, notices, of.get(label, "")])
            anchor = ""
    lines += _list_table(["equation", "kind", "found", "notices", "held for"], rows)
    if chapter.claims:
        rows = [[c["claim"], c["found"], of.get(c["claim"], "")] for c in chapter.claims]
        lines += ["", *_list_table(["claim about trained models", "effect ± error > margin", "held for"], rows)]
    return "\n".join(lines)


def _list_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table, without its last column where that is empty: the chapter was not replicated."""
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    lines = [":::{list-table}", ":header-rows: 1", ""]
    for row in (head, *rows):
        lines += [f"  - {entry}" if k else f"* - {entry}" for k, entry in enumerate(row)]
    return [*lines, ":::"]
