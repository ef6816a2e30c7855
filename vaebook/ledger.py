"""Checks of a chapter's claims, and records of its measurements.

:func:`check` compares the two sides of a labelled equation and shows one line. :func:`record` binds a
measured number to a name, by which the prose quotes it.
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

# Default tolerances, relative to max(1, |right|). In float64 a sum of thousands of terms keeps 12 digits or
# more; the book's grids give 8.
TOLERANCE: dict[str, float] = {"exact": 1e-10, "quadrature": 1e-8}
# Largest z-score of a Monte Carlo check: by chance, one check in 1.7 million exceeds five standard errors.
# The book's draws are seeded, so a check that passes once always passes.
MAX_Z = 5.0


class CheckFailed(AssertionError):
    """The two sides of an equation differ by more than the tolerance; the message shows both."""


def check(
    label: str, left: Any, right: Any, *, kind: Kind = "exact", relation: Relation = "=", tolerance: float | None = None
) -> None:
    """Compare the two sides of the equation ``label`` and show the outcome in one line.

    The comparison depends on the types. The difference of two sympy expressions must simplify to 0. An
    :class:`~vaebook.estimates.Estimate` on the left must lie within five standard errors of the right-hand
    side. For numbers and tensors, the largest deviation relative to ``max(1, |right|)`` must not exceed the tolerance.

    Args:
        label: the equation's label in the book, such as ``"eq-kl-gaussian"``.
        left, right: the two sides, computed by different means.
        kind: how the numbers were computed, "exact" (float64) or "quadrature".
        relation: "=", or "<=" and ">=" for a bound, which must hold up to the tolerance.
        tolerance: replaces the default for this kind; give its reason in a comment.

    Raises:
        CheckFailed: the check fails. The message shows both sides at the entry with the largest deviation.

    >>> check("eq-example", 0.1 + 0.2, 0.3)
    ✓ eq-example: exact, deviation 6e-17, tolerance 1e-10
    """
    if isinstance(left, sympy.Basic) or isinstance(right, sympy.Basic):
        difference = sympy.simplify(left - right)
        ok, kind_shown = difference == 0, "symbolic"
        found, limit, detail = str(difference), "0", f"difference {difference}"
    elif isinstance(left, Estimate):
        z = left.z_score(float(right))
        z = {"=": abs(z), "<=": z, ">=": -z}[relation]  # a bound counts on one side
        ok, kind_shown = z <= MAX_Z and math.isfinite(left.stderr), "Monte Carlo"
        found, limit = f"z = {z:.1f}", f"{MAX_Z:.0f}"
        detail = f"{left} against {float(right):.6g}, {found}"
    else:
        allowed = TOLERANCE[kind] if tolerance is None else tolerance
        if any(torch.as_tensor(side).is_complex() or not torch.as_tensor(side).numel() for side in (left, right)):
            raise TypeError(
                f"{label}: both sides need real numbers, at least one; check real and imaginary parts apart"
            )
        left, right = (torch.as_tensor(side, dtype=torch.float64).detach() for side in (left, right))
        if left.shape != right.shape and 1 not in (left.numel(), right.numel()):
            raise CheckFailed(f"{label}: left has shape {tuple(left.shape)}, right has {tuple(right.shape)}")
        deviations = relative_deviations(left, right, relation)
        worst = deviations.argmax()  # finds NaN too, which argmax treats as the largest
        deviation = deviations.flatten()[worst].item()
        ok, kind_shown = deviation <= allowed, kind
        found, limit = f"{deviation:.0e}", f"{allowed:.0e}"
        detail = f"deviation {found}, tolerance {limit}"
        left, right = (side.expand(deviations.shape).flatten()[worst].item() for side in (left, right))
    if not ok:
        raise CheckFailed(f"{label}: {kind_shown}, {detail}\nleft:  {left}\nright: {right}")
    show(label, detail, {"kind": kind_shown, "deviation": found, "tolerance": limit})


def claim(sentence: str, holds: bool, *, book: bool) -> None:
    """Show whether a claim about trained models holds. With the book's settings it must hold.

    With other settings it may be false: then the line says so, and the chapter continues.

    Args:
        sentence: the claim.
        holds: whether the claim is true.
        book: whether the chapter runs with the book's settings, for which the claim was made.

    Raises:
        CheckFailed: the claim is false, and ``book`` is true.

    >>> claim("four dimensions beat two", True, book=True)
    ✓ four dimensions beat two
    >>> claim("four dimensions beat two", False, book=False)
    ✗ not with these settings: four dimensions beat two
    """
    if book and not holds:
        raise CheckFailed(sentence)
    print("✓" if holds else "✗ not with these settings:", sentence)


def relative_deviations(left: Tensor, right: Tensor, relation: Relation = "=") -> Tensor:
    """``|left − right| / max(1, |right|)``, entry by entry; for a bound, only violations count.

    >>> relative_deviations(torch.tensor([1.0, 200.0]), torch.tensor([1.5, 100.0]))
    tensor([0.3333, 1.0000])
    """
    difference = {"=": (left - right).abs(), "<=": left - right, ">=": right - left}[relation]
    return difference.clamp(min=0) / right.abs().clamp(min=1)  # clamp keeps NaN, and NaN never passes


def show(label: str, detail: str, outcome: dict[str, str]) -> None:
    """Show one line: Markdown with links for the book, HTML for JupyterLab, plain text elsewhere.

    In the book the tick links to the page of checks, and the number to the equation. The output's metadata
    hold the outcome as plain data, from which the build writes the page of checks.
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
    """Bind a measured value to a name, by which the prose quotes it: ``{glue:text}`name```.

    Args:
        name: chapter and quantity, such as ``"kl-forward"``; unique in the book.
        value: a number, a tensor with one entry, or an :class:`~vaebook.estimates.Estimate` with its standard error.
        form: how to format a number (Python's format language).

    The cell's output holds two forms: text for the prose, and plain numbers for tables of many runs.

    Raises:
        ValueError: the value is not finite.
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
    # The two keys that myst-nb's "glue" reads. Importing myst-nb would load all of Sphinx into the kernel.
    prefix = "application/papermill.record/"
    bundle = {
        prefix + "text/plain": repr(text),  # glue reads a Python literal: a bare 1.500 would become 1.5
        "application/vnd.vaebook.record+json": {"name": name, "value": number, "stderr": stderr},
    }
    glue = {"scrapbook": {"name": name, "mime_prefix": prefix}}
    display(bundle, raw=True, metadata=glue)


def in_notebook() -> bool:
    """Whether this code runs inside a Jupyter kernel."""
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")
