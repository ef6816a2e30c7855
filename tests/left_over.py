"""What of MyST is left in a notebook that ought to be plain."""

import re
from typing import Any

# Roles, directives, targets, and the book's own commands, which only its pages and its JupyterLab know.
MYST = re.compile(
    r"\{[a-z]+(?::[a-z]+)?\}`|^ *[`:]{3,}\{[\w-]+\}|^\([\w-]+\)=$|\]\(#checked-"
    r"|\\(?:KL|E|N|R|ELBO|diag|tr|pdata|sdec|norm)(?![a-zA-Z])",
    re.M,
)
CODE = re.compile(
    r"^( *)(`{3,})(?!\{)[^\n]*\n.*?\n\1\2$|<(script|style)[ >].*?</\3>", re.M | re.S
)  # shown as it stands


def texts(notebook: Any) -> list[str]:
    """What a reader of the notebook is shown besides code and pictures."""
    shown = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for output in outputs:
        shown += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return shown


def left_over(notebook: Any) -> list[str]:
    """Every piece of MyST in the notebook's texts, with what stands around it."""
    found = []
    for text in (CODE.sub("", text) for text in texts(notebook)):
        found += [text[max(0, m.start() - 30) : m.end() + 30] for m in MYST.finditer(text)]
    return found
