"""A chapter as a plain notebook, which any Jupyter, Colab or GitHub shows whole: nothing of MyST is left in it."""

import ast
import base64
import copy
import json
import os
import re
import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

RECORD = "application/papermill.record/text/plain"  # a number's text, as vaebook.ledger.record leaves it
EQUATION = re.compile(r"^( *)`{3,}\{math\}\n *:label: (\S+)\n(.*?)\n *`{3,}$", re.M | re.S)
BOX = re.compile(
    r"^(`{3,}|:{3,})\{(?:admonition|note|tip|warning)\}(?P<title>.*?)\n(?P<options>(?::\w+:[^\n]*\n)*)(?P<body>.*?)\n\1$",
    re.M | re.S,
)
ROLE = re.compile(r"\{(glue:text|eq|numref|ref|cite:[tp])\}`([^`]+)`")
FORMULA = re.compile(r"\$\$.*?\$\$|(?<![\\$])\$(?:(?!\n *\n)[^$])+?(?<!\\)\$", re.S)
IN_BRACES = r"(?:[^{}\\]|\\.)*"
for _ in range(3):  # braces may hold braces, three deep in this book
    IN_BRACES = rf"(?:[^{{}}\\]|\\.|\{{{IN_BRACES}\}})*"
ARGUMENT = rf"\s*(?:\{{({IN_BRACES})\}}|(\\[a-zA-Z]+|\S))"
INSTALL = """\
try:
    import vaebook
except ImportError:  # on Colab, and wherever else the book's module is missing
    !git clone --quiet --depth 1 {address} vaebook-checkout
    %pip install --quiet ./vaebook-checkout{extra}
    %cd vaebook-checkout/notebooks"""


class Names(NamedTuple):
    """What a book's roles and commands stand for."""

    equations: Mapping[str, list[str]] = {}  # page and number of each label, as pages/_ext writes them
    figures: Mapping[str, list[str]] = {}
    titles: Mapping[str, list[str]] = {}
    citations: Mapping[str, list[str]] = {}  # authors and year of each key
    macros: Mapping[str, Any] = {}  # of formulas: a command's text, or its text and number of arguments
    address: str = ""  # of the public repository, if there is one
    link: str = "[{}]({}.ipynb)"  # to another chapter: its words, and its file
    numbers: Mapping[str, str] = {}  # what the chapter recorded


def names_of(root: Path | None) -> Names:
    """The names of the book in ``root``; none outside of a book, where labels stay what they are."""
    if not root or not (stored := root / "notebooks" / "references.json").is_file():
        return Names()
    written = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    published = [os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")]
    address = written or "/".join(filter(None, published))
    return Names(**json.loads(stored.read_text(encoding="utf-8")), address=address)


def plain(notebook: Any, page: str, names: Names) -> Any:
    """A copy of the executed chapter ``page`` without MyST; a first cell installs the module where it is missing."""
    import nbformat

    result, cells = copy.deepcopy(notebook), list[Any]()
    outputs = (output for cell in result.cells for output in cell.get("outputs", []))
    found = [output for output in outputs if RECORD in output.get("data", {})]
    names = names._replace(numbers={o.metadata.scrapbook.name: ast.literal_eval(o.data[RECORD]) for o in found})
    if names.address:
        extra = "[run]" * any("vaebook_runner" in cell.source for cell in result.cells if cell.cell_type == "code")
        cells.append(nbformat.v4.new_code_cell(INSTALL.format(address=names.address, extra=extra)))
    for cell in result.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            cell.source = text(cell.source, page, names)
        else:
            picture = cell.metadata.get("mystnb", {}).get("image", {})
            cell.outputs = [output for output in cell.outputs if shown(output, page, names, picture.get("alt", ""))]
            cells += map(nbformat.v4.new_markdown_cell, caption(cell, page, names))
        tags = {*cell.metadata.get("tags", [])}
        folded = {"jupyter": {"source_hidden": True}, "cellView": "form"} if {"hide-input", "hide-cell"} & tags else {}
        cell.metadata = {"tags": ["parameters"]} if "parameters" in tags else folded  # the tag is for papermill
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kept = ("kernelspec", "language_info")
    result.cells, result.metadata = cells, {name: result.metadata[name] for name in kept if name in result.metadata}
    return nbformat.from_dict(result)


def text(source: str, page: str, names: Names) -> str:
    """Markdown without MyST; one rule for each construct."""
    source = EQUATION.sub(partial(equation, names), source)
    source = re.sub(r"^\([\w-]+\)=\n", "", source, flags=re.M)
    source = ROLE.sub(partial(role, page, names), source)
    source = FORMULA.sub(lambda formula: expanded(formula[0], names.macros), source)
    return BOX.sub(boxed, source)  # last: the lines of a quotation must not cut a formula


def role(page: str, names: Names, match: re.Match[str]) -> str:
    """A number, a reference or a citation in place of a role."""
    kind, content = match[1], " ".join(match[2].split())
    if kind == "glue:text":
        return names.numbers.get(content, content)
    if kind.startswith("cite"):
        cited = [names.citations.get(key.strip(), [key.strip(), "no year"]) for key in content.split(",")]
        form = "{} ({})" if kind == "cite:t" else "{} {}"
        listed = (", " if kind == "cite:t" else "; ").join(form.format(*entry) for entry in cited)
        return listed if kind == "cite:t" else f"({listed})"
    words, _, label = content.rstrip(">").rpartition("<")
    known = {"eq": names.equations, "numref": names.figures, "ref": names.titles}[kind]
    there, number = known.get(label.strip(), [page, label.strip()])
    shown = words.strip() or {"eq": "({})", "numref": "Fig. {}", "ref": "{}"}[kind].format(number)
    # In this chapter, and to pages that are no notebooks, there is nothing that every reader could follow.
    return names.link.format(shown, Path(there).name) if there.startswith("notebooks/") and there != page else shown


def equation(names: Names, match: re.Match[str]) -> str:
    """A display with its number in the book; several lines with ``&`` need an environment outside of Sphinx."""
    indent, body = match[1], "\n".join(line for line in match[3].splitlines() if line.strip())
    if r"\\" in body and r"\begin{" not in body:
        body = f"{indent}\\begin{{aligned}}\n{body}\n{indent}\\end{{aligned}}"
    number = names.equations.get(match[2], ["", match[2]])[1]
    return f"{indent}$$\n{body}\n{indent}\\tag{{{number}}}\n{indent}$$"


def boxed(match: re.Match[str]) -> str:
    """A solution folds; another box stands out as a quotation."""
    title, body = match["title"].strip(), match["body"].strip()
    if "dropdown" in match["options"]:
        return f"<details>\n<summary><b>{title}</b></summary>\n\n{body}\n\n</details>"
    return "\n".join(f"> {line}".rstrip() for line in [f"**{title}**", "", *body.splitlines()])


def expanded(formula: str, macros: Mapping[str, Any]) -> str:
    """A formula without the book's own commands, some with one argument; within a line of text, on one line."""
    formula = formula if formula.startswith("$$") else " ".join(formula.split())
    for name, meaning in macros.items():
        tex, argument = (meaning, "()()") if isinstance(meaning, str) else (meaning[0], ARGUMENT)
        while found := re.search(rf"\\{name}(?![a-zA-Z]){argument}", formula):
            formula = formula[: found.start()] + tex.replace("#1", found[1] or found[2]) + formula[found.end() :]
    spelt = partial(re.sub, r"\\operatorname(\*?)\{([^}]*)\} *")  # which GitHub refuses
    return spelt(lambda name: rf"\mathop{{\mathrm{{{name[2]}}}}}" + r"\nolimits " * (not name[1]), formula)


def shown(output: Any, page: str, names: Names, alt: str) -> bool:
    """Make an output plain; whether it shows anything, which a number that only the prose quotes does not."""
    data = output.get("data", {})
    for kind in [kind for kind in data if kind.startswith("application/")]:
        del data[kind]
    if "text/markdown" in data:  # the same in HTML has no links
        data.pop("text/html", None)
    for kind in data.keys() & {"text/markdown", "text/html", "text/plain"}:
        ticked = re.sub(r"\[✓\]\(#[^)]*\)", "✓", data[kind])
        data[kind] = text(re.sub(r"(?<=✓ )((?:eq|def)-[\w-]+)", r"{eq}`\1`", ticked), page, names)
    if "image/png" in data:  # matplotlib draws 192 dots to an inch, which has 96 pixels
        width, height = struct.unpack(">II", base64.b64decode(data["image/png"])[16:24])
        output.metadata = {"image/png": {"width": width // 2, "height": height // 2, "alt": alt}}
    elif "metadata" in output:
        output.metadata = {}
    return output.output_type in ("stream", "error") or bool(data)


def caption(cell: Any, page: str, names: Names) -> list[str]:
    """The caption of the figure that a cell draws, if it draws one."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    number = names.figures.get(figure.get("name", ""), ["", ""])[1]
    return [f"*Fig. {number}.* {text(figure['caption'], page, names)}"] if "caption" in figure else []
