"""A chapter as a plain notebook, which any Jupyter, Colab or GitHub shows whole: nothing of MyST is left in it."""

import ast
import base64
import copy
import re
import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

RECORD = "application/papermill.record/text/plain"  # a number's text, as vaebook.ledger.record leaves it
EQUATION = re.compile(r"^( *)`{3,}\{math\}\n *:label: (\S+)\n(.*?)\n *`{3,}$", re.M | re.S)
BOX = re.compile(
    r"^(`{3,}|:{3,})\{(?:admonition|note|tip|warning)\}(?P<title>.*?)\n(?P<options>(?::\w+:.*\n)*)(?P<body>.*?)\n\1$",
    re.M | re.S,
)
ROLE = re.compile(r"\{(glue:text|eq|numref|ref|cite:[tp])\}`([^`]+)`")
FORMULA = re.compile(r"\$\$.*?\$\$|(?<![\\$])\$[^$]+?(?<!\\)\$", re.S)
INSIDE = r"[^{}\\]|\\."  # braces
for _ in range(3):  # in braces
    INSIDE = rf"(?:{INSIDE}|\{{(?:{INSIDE})*\}})"
INSIDE += "*"
# What MyST would set and a plain notebook would show as it stands: roles, directives, targets.
LEFT_OVER = re.compile(r"\{[a-z:_]+\}`|^ *[`:]{3,}\{[a-z-]+\}|^\([\w-]+\)=$", re.M)
INSTALL = """\
try:
    import vaebook
except ImportError:  # on Colab, or wherever the module is missing
    %pip install -q "vaebook @ {where}"
"""


class Context(NamedTuple):
    """What a chapter's roles stand for."""

    page: str  # of the chapter, such as notebooks/05_gaussian_vae
    references: Mapping[str, Mapping[str, list[str]]]  # as ``pages.write_references`` writes them
    macros: Mapping[str, Any]  # of _config.yml: a command's text, or its text and number of arguments
    numbers: Mapping[str, str]  # what the chapter recorded


def plain(notebook: Any, page: str, references: Mapping[str, Any], macros: Mapping[str, Any], where: str = "") -> Any:
    """A copy of an executed chapter without MyST, with a first cell that installs the module from ``where``."""
    import nbformat

    result = copy.deepcopy(notebook)
    outputs = [output for cell in result.cells for output in cell.get("outputs", [])]
    numbers = {
        o.metadata.scrapbook.name: ast.literal_eval(o.data[RECORD]) for o in outputs if RECORD in o.get("data", {})
    }
    context, cells = Context(page, references, macros, numbers), []
    for cell in result.cells:
        if cell.cell_type == "markdown":
            cell.source = text(cell.source, context)
        cells.append(cell)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if shown(output, context)]
            cells += [nbformat.v4.new_markdown_cell(caption) for caption in captions(cell, context)]
        tidy(cell)
    if where:
        cells.insert(0, nbformat.v4.new_code_cell(INSTALL.format(where=where).rstrip()))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kept = ("kernelspec", "language_info")
    result.cells, result.metadata = cells, {name: result.metadata[name] for name in kept if name in result.metadata}
    return result


def text(source: str, context: Context) -> str:
    """Markdown without MyST; one rule for each construct."""
    for pattern, rule in ((EQUATION, equation), (BOX, boxed)):
        source = pattern.sub(partial(rule, context), source)
    source = re.sub(r"^\([\w-]+\)=\n", "", source, flags=re.M)
    return FORMULA.sub(lambda m: expanded(m[0], context.macros), ROLE.sub(partial(role, context), source))


def role(context: Context, match: re.Match[str]) -> str:
    """A number, a reference or a citation in place of a role."""
    name, content, references = match[1], " ".join(match[2].split()), context.references
    if name == "glue:text":
        return context.numbers[content]
    if name == "eq":
        page, number = references["equations"][content]
        return link(f"({number})", page, context)
    if name == "numref":
        return f"Fig. {references['figures'][content][1]}"
    if name == "ref":
        words, _, label = content.rstrip(">").rpartition("<")
        page, title = references["titles"][label.strip()]
        return link(words.strip() or title, page, context)
    cited = [references["citations"][key.strip()] for key in content.split(",")]
    if name == "cite:t":
        return ", ".join(f"{authors} ({year})" for authors, year in cited)
    return f"({'; '.join(f'{authors} {year}' for authors, year in cited)})"


def link(words: str, page: str, context: Context) -> str:
    """A link to another chapter's notebook; in this one, and to pages that are no notebooks, the words alone."""
    there = page.startswith("notebooks/") and page != context.page
    return f"[{words}]({Path(page).name}.ipynb)" if there else words


def equation(context: Context, match: re.Match[str]) -> str:
    """A display with its number in the book; several lines with ``&`` need an environment outside of Sphinx."""
    indent, label, body = match[1], match[2], "\n".join(line for line in match[3].splitlines() if line.strip())
    if r"\\" in body and r"\begin{" not in body:
        body = rf"\begin{{aligned}}{chr(10)}{body}{chr(10)}{indent}\end{{aligned}}"
    return f"{indent}$$\n{body}\n{indent}\\tag{{{context.references['equations'][label][1]}}}\n{indent}$$"


def boxed(context: Context, match: re.Match[str]) -> str:
    """A solution folds; another box stands out as a quotation."""
    title, options, body = match["title"].strip(), match["options"], match["body"].strip()
    if "dropdown" in options:
        return f"<details>\n<summary><b>{title}</b></summary>\n\n{body}\n\n</details>"
    return "\n".join(f"> {line}".rstrip() for line in [f"**{title}**", "", *body.splitlines()])


def expanded(formula: str, macros: Mapping[str, Any]) -> str:
    """A formula without the book's own commands, of which some have one argument."""
    for name, meaning in macros.items():
        command = rf"\\{name}(?![a-zA-Z])"
        if isinstance(meaning, str):
            formula = re.sub(command, lambda _, text=meaning: text, formula)  # type: ignore[misc]
            continue
        while found := re.search(rf"{command}\s*(?:\{{({INSIDE})\}}|(\\[a-zA-Z]+|\S))", formula):
            formula = formula.replace(found[0], meaning[0].replace("#1", found[1] or found[2]))
    return formula


def tidy(cell: Any) -> None:
    """Fold what the book folds, in JupyterLab and in Colab; nothing else is left of a cell's metadata."""
    hidden = {"hide-input", "hide-cell"} & set(cell.metadata.get("tags", []))
    cell.metadata.clear()
    if hidden:
        cell.metadata.update(jupyter={"source_hidden": True}, cellView="form")


def shown(output: Any, context: Context) -> bool:
    """Make an output plain; returns whether it shows anything, which a number that only the prose reads does not."""
    data = output.get("data", {})
    for kind in [kind for kind in data if kind.startswith("application/")]:
        del data[kind]
    for kind in data.keys() & {"text/markdown", "text/html", "text/plain"}:
        ticked = re.sub(r"\[✓\]\(#[^)]*\)", "✓", data[kind])
        named = re.sub(r"✓ (?:<code>)?([\w-]+)(?:</code>)?(?=:| ·)", lambda m: f"✓ {numbered(m[1], context)}", ticked)
        data[kind] = FORMULA.sub(lambda m: expanded(m[0], context.macros), ROLE.sub(partial(role, context), named))
    if output.output_type in ("display_data", "execute_result"):
        output.metadata.clear()
        if "image/png" in data:  # matplotlib draws 192 dots to an inch, which has 96 pixels
            width, height = struct.unpack(">II", base64.b64decode(data["image/png"])[16:24])
            output.metadata["image/png"] = {"width": width // 2, "height": height // 2}
    return output.output_type in ("stream", "error") or bool(data)


def numbered(label: str, context: Context) -> str:
    """An equation's number, or the label of what has none."""
    found = context.references["equations"].get(label)
    return f"({found[1]})" if found else label


def captions(cell: Any, context: Context) -> list[str]:
    """The caption of the figure that a cell draws."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    if "caption" not in figure:
        return []
    number = context.references["figures"].get(figure.get("name"), ("", ""))[1]
    return [f"*Fig. {number}.* {text(figure['caption'], context)}"]
