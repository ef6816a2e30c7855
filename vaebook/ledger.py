"""What a chapter claims and what it measured.

:func:`check` compares the two sides of a labelled equation and shows one quiet line. :func:`record` binds a
measured number to a name, under which the prose quotes it.
"""

import html
import math
from typing import Any, Literal

import sympy
import torch
from IPython.display import display
from torch import Tensor

from vaebook.estimates import Estimate

Kind = Literal["exact", "quadrature"]
Relation = Literal["=", "<=", ">="]

# Deviations allowed by default, relative to the larger of 1 and the right-hand side. In float64 a sum of
# thousands of terms keeps 12 digits or more; the book's grids are fine enough for 8.
TOLERANCE: dict[str, float] = {"exact": 1e-10, "quadrature": 1e-8}
# Five standard errors: by chance, one check in 1.7 million misses, and no check of the book is sampled anew.
MAX_Z = 5.0


class CheckFailed(AssertionError):
    """The two sides of an equation differ by more than the tolerance; the message holds both."""


def check(
    label: str,
    left: Any,
    right: Any,
    *,
    kind: Kind = "exact",
    relation: Relation = "=",
    tolerance: float | None = None,
) -> None:
    """Compare the two sides of the equation ``label`` and show the outcome in one line.

    What is compared follows from what comes in. Two sympy expressions: their difference must simplify to 0.
    An :class:`Estimate` on the left: it must lie within five standard errors of the right-hand side.
    Else numbers or tensors: the largest deviation, relative to max(1, |right|), must stay in the tolerance.

    Args:
        label: the equation's label in the book, such as ``"eq-kl-gaussian"``.
        left, right: the two sides, computed by different means.
        kind: says how the numbers came about, "exact" (float64) or "quadrature".
        relation: "=", or "<=" and ">=" for a bound; a bound must hold up to the tolerance.
        tolerance: in place of the default for this kind; say in a comment where it comes from.

    Raises:
        CheckFailed: with both sides, at the entry where they differ most.

    >>> check("eq-example", 0.1 + 0.2, 0.3)
    ✓ eq-example: exact, deviation 6e-17, tolerance 1e-10
    """
    if isinstance(left, sympy.Basic) or isinstance(right, sympy.Basic):
        difference = sympy.simplify(left - right)
        ok, kind_shown = difference == 0, "symbolic"
        found, limit, detail = str(difference), "0", f"difference {difference}"
    elif isinstance(left, Estimate):
        z = signed_excess(left.z_score(float(right)), relation)
        ok, kind_shown = z <= MAX_Z and math.isfinite(left.stderr), "Monte Carlo"
        found, limit = f"z = {z:.1f}", f"{MAX_Z:.0f}"
        detail = f"{left} against {float(right):.6g}, {found}"
    else:
        allowed = TOLERANCE[kind] if tolerance is None else tolerance
        left, right = (torch.as_tensor(side, dtype=torch.float64).detach() for side in (left, right))
        if left.shape != right.shape and 1 not in (left.numel(), right.numel()):
            raise CheckFailed(f"{label}: left has shape {tuple(left.shape)}, right has {tuple(right.shape)}")
        deviations = relative_deviations(left, right, relation)
        worst = deviations.argmax()  # of NaN too: argmax takes NaN for the largest
        deviation = deviations.flatten()[worst].item()
        ok, kind_shown = deviation <= allowed, kind
        found, limit = f"{deviation:.0e}", f"{allowed:.0e}"
        detail = f"deviation {found}, tolerance {limit}"
        left, right = (side.expand(deviations.shape).flatten()[worst].item() for side in (left, right))
    if not ok:
        raise CheckFailed(f"{label}: {kind_shown}, {detail}\nleft:  {left}\nright: {right}")
    show(label, detail, {"kind": kind_shown, "deviation": found, "tolerance": limit})


def claim(sentence: str, holds: bool, *, book: bool) -> None:
    """Show whether a claim about trained models holds; in the book's own settings it must.

    With other settings it may well not hold: then the line says so, and the chapter goes on.

    Args:
        sentence: what is claimed.
        holds: whether it does.
        book: whether the chapter runs with the settings that the claim was made for.

    Raises:
        CheckFailed: it does not hold, and ``book``.

    >>> claim("four dimensions beat two", True, book=True)
    ✓ four dimensions beat two
    >>> claim("four dimensions beat two", False, book=False)
    ✗ not with these settings: four dimensions beat two
    """
    if book and not holds:
        raise CheckFailed(sentence)
    print("✓" if holds else "✗ not with these settings:", sentence)


def relative_deviations(left: Tensor, right: Tensor, relation: Relation = "=") -> Tensor:
    """|left − right| / max(1, |right|), entry by entry; for a bound only what breaks it counts.

    >>> relative_deviations(torch.tensor([1.0, 200.0]), torch.tensor([1.5, 100.0]))
    tensor([0.3333, 1.0000])
    """
    difference = {"=": (left - right).abs(), "<=": left - right, ">=": right - left}[relation]
    return difference.clamp(min=0) / right.abs().clamp(min=1)  # clamp hands NaN on, and NaN never passes


def signed_excess(z: float, relation: Relation) -> float:
    """The part of a z-score that speaks against the relation: |z| for "=", one side for a bound."""
    return {"=": abs(z), "<=": z, ">=": -z}[relation]


def show(label: str, detail: str, outcome: dict[str, str]) -> None:
    """One line: Markdown with links for the book, HTML for JupyterLab, text elsewhere.

    In the book the tick leads to the page of checks and the number to the equation. The outcome is kept
    as plain data too, in the output's metadata, from which the build writes that page.
    """
    line = f"{outcome['kind']}, {detail}"
    if not in_notebook():
        print(f"✓ {label}: {line}")
        return
    bundle = {
        "text/plain": f"✓ {label}: {line}",
        "text/markdown": f"[✓](#checked-{label}) {{eq}}`{label}` · {line}",
        "text/html": f"✓ <code>{html.escape(label)}</code> · {html.escape(line)}",
    }
    display(bundle, raw=True, metadata={"vaebook": {"check": {"label": label, **outcome}}})


def record(name: str, value: float | Tensor | Estimate, form: str = ".4g") -> None:
    """Bind a measured value to a name; the prose quotes it as ``{glue:text}`name```.

    Args:
        name: unique in the book: chapter and quantity, such as ``"kl-forward"``.
        value: a number, a tensor with one entry, or an :class:`Estimate`, shown with its standard error.
        form: how to write a number down (Python's format language).

    The cell's output keeps two forms: the text for the prose and the plain numbers for tables of many runs.

    Raises:
        ValueError: the value is not finite; a claim cannot rest on it.
    """
    number = value.value if isinstance(value, Estimate) else float(torch.as_tensor(value).detach())
    stderr = value.stderr if isinstance(value, Estimate) else None
    if not math.isfinite(number):
        raise ValueError(f"value of {name!r} needs to be finite, got {number}")
    text = str(value) if isinstance(value, Estimate) else f"{number:{form}}"
    text = text.replace("-", "−", 1) if text.startswith("-") else text  # a minus sign, not a hyphen
    if not in_notebook():
        print(f"{name} = {text}")
        return
    # myst-nb's "glue" looks for these two keys; importing it here would load all of Sphinx into the kernel.
    prefix = "application/papermill.record/"
    bundle = {
        prefix + "text/plain": repr(text),  # it is read as a Python literal: bare, 1.500 would lose its zeros
        "application/vnd.vaebook.record+json": {"name": name, "value": number, "stderr": stderr},
    }
    glue = {"scrapbook": {"name": name, "mime_prefix": prefix}}
    display(bundle, raw=True, metadata=glue)


def in_notebook() -> bool:
    """Whether this code runs inside a Jupyter kernel."""
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")
