"""Checks of equations, claims about trained models, and records of measurements, which the prose quotes by name."""

import html
import math
import re
from decimal import Decimal
from typing import Any, Literal

import sympy
import torch
from IPython import display, get_ipython
from torch import Tensor

from vaebook.estimates import Estimate, effect

Kind = Literal["exact", "quadrature", "optimised", "trained"]
Relation = Literal["=", "<=", ">="]
SIGN = {"=": "against", "<=": "≤", ">=": "≥"}

# Relative to max(1, |right|). In float64 a sum of thousands of terms keeps 12 digits; the book's grids give 8. An
# optimum is found as near as an optimiser came, and of networks an equation holds as far as they fit.
TOLERANCE: dict[str, float] = {"exact": 1e-10, "quadrature": 1e-8, "optimised": 1e-4, "trained": 1e-2}
# Largest z-score of a Monte Carlo check: by chance, one check in 1.7 million exceeds five standard errors.
MAX_Z = 5.0
CLAIM_Z = 3.0  # standard errors that an effect has to lie beyond its margin
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class CheckFailed(AssertionError):
    """An equation or a claim does not hold; the message shows what was found."""


def check(
    label: str, left: Any, right: Any, *, kind: Kind = "exact", relation: Relation = "=", tolerance: float | None = None
) -> None:
    """Compare the two sides of the equation ``label`` and show the outcome in one line.

    The difference of two sympy expressions must simplify to 0. An :class:`~vaebook.estimates.Estimate` on the left must
    lie within five standard errors of the right-hand side. For numbers and tensors, the largest deviation relative to
    ``max(1, |right|)`` must not exceed the tolerance. Of a bound, the line shows both sides or their least margin.

    The page of checks shows the resolution: by how many per cent the right-hand side could change before it fails.

    Args:
        label: the equation's label in the book, such as ``"eq-kl-gaussian"``.
        left, right: the two sides, computed by different means.
        kind: "exact" (float64), "quadrature", "optimised" (an optimiser found an optimum), or "trained" (networks were
            trained), which sets the tolerance; say in a comment why any other ``tolerance``.
        relation: "=", or "<=" and ">=" for a bound, which must hold up to the tolerance.

    Raises:
        CheckFailed: it fails; the message shows both sides, of tensors those that deviate most.

    >>> check("eq-example", 0.1 + 0.7, 0.8)
    ✓ eq-example: exact, deviation 10⁻¹⁶, tolerance 10⁻¹⁰
    """
    if isinstance(left, sympy.Basic) or isinstance(right, sympy.Basic):
        difference = sympy.simplify(left - right)
        ok, means, found, noticed = difference == 0, "symbolic", f"difference {difference}", 0.0
    elif isinstance(left, Estimate):
        means, (ok, found, noticed) = "Monte Carlo", _compare_estimate(left, float(right), relation)
    else:
        allowed = TOLERANCE[kind] if tolerance is None else tolerance
        means, (ok, found, noticed, left, right) = kind, _compare_tensors(label, left, right, relation, allowed)
    if not ok:
        raise CheckFailed(f"{label}: fails, {means}, {found}\nleft:  {left}\nright: {right}")
    resolution = 100 * noticed if math.isfinite(noticed) else None
    show(label, f"{means}, {found}", {"label": label, "kind": means, "found": found, "resolution": resolution})


def _compare_estimate(left: Estimate, right: float, relation: Relation) -> tuple[bool, str, float]:
    """Whether the relation holds, up to five standard errors, what to show of it, and what it would have noticed."""
    z = left.z_score(right)
    z = {"=": abs(z), "<=": z, ">=": -z}[relation]  # a bound counts on one side
    found = written(f"{left} {SIGN[relation]} {Decimal(f'{right:.6g}'):f}")
    found += f", {z:.1f} standard errors apart" if relation == "=" else f" up to {z:.1f} standard errors" * (z > 0)
    slack = MAX_Z * left.stderr + (abs(left.value - right) if relation != "=" and z < 0 else 0)
    return z <= MAX_Z and math.isfinite(left.stderr), found, slack / abs(right) if right else math.inf


def _compare_tensors(label: str, left: Any, right: Any, relation: Relation, allowed: float) -> tuple[Any, ...]:
    """Whether the relation holds for every entry, what to show, what it would have noticed, and the worst entry."""
    if any(torch.as_tensor(side).is_complex() or not torch.as_tensor(side).numel() for side in (left, right)):
        raise TypeError(f"{label}: both sides need real numbers, at least one; check real and imaginary parts apart")
    left, right = (torch.as_tensor(side, dtype=torch.float64).detach() for side in (left, right))
    if left.shape != right.shape and 1 not in (left.numel(), right.numel()):
        raise CheckFailed(f"{label}: left has shape {tuple(left.shape)}, right has {tuple(right.shape)}")
    left, right = (side.flatten() for side in torch.broadcast_tensors(left, right))
    excess = {"=": (left - right).abs(), "<=": left - right, ">=": right - left}[relation]
    relative_to = right.abs().clamp(min=1)
    deviations = excess.clamp(min=0) / relative_to  # clamp keeps NaN, and NaN never passes
    slack = allowed * relative_to - (0 if relation == "=" else excess.clamp(max=0))
    k = int(deviations.argmax())  # the worst entry; finds NaN too, which argmax treats as the largest
    if relation == "=":
        found = f"deviation {deviations[k]:.1g}"
    elif len(excess) == 1:  # where a bound is attained rounding must neither choose the words nor look like a failure
        found = f"{(right if 0 < excess <= slack else left).item():.6g} {SIGN[relation]} {right.item():.6g}"
    else:
        margin = 0 - excess.masked_fill(excess.abs() <= allowed * relative_to, 0).max()
        found = f"left {SIGN[relation]} right, least margin {margin:.2g} over {len(excess):,} entries"
    found = written(f"{found}, tolerance {allowed:.1g}")
    return bool(deviations[k] <= allowed), found, (slack / right.abs()).min().item(), left[k].item(), right[k].item()


def claim(sentence: str, rows: Tensor | Estimate, *, book: bool, above: float = 0, within: float | None = None) -> None:
    """Show an effect on trained models, and whether it is what a sentence claims. With the book's settings it must be.

    It has to lie three standard errors above ``above``, or by as many closer to 0 than ``within``: that an effect is
    not significant does not make it 0. Where ``book`` is false, a false claim is shown, and the chapter continues.

    Args:
        sentence: what is claimed.
        rows: differences, one row for each trained model, ``(S,)`` or with one column for each image ``(S, N)``, see
            :func:`~vaebook.estimates.effect`; or an Estimate, about one model or none.

    Raises:
        CheckFailed: the claim is false, and ``book`` is true.
        ValueError: there are fewer than two seeds.

    >>> claim("four dimensions beat two", torch.tensor([[1.0, 1.2], [0.8, 1.0]]), book=True)
    ✓ four dimensions beat two: 1.00 ± 0.14 > 0 (2 seeds, 2 images)
    """
    found, shape = (rows, ()) if isinstance(rows, Estimate) else (effect(rows), rows.shape)
    sizes = ", ".join(f"{n:,} {counted}" for n, counted in zip(shape, ("seeds", "images"), strict=False))
    size = f" ({sizes})" * bool(sizes)
    if within is None:
        holds, line = found.value - CLAIM_Z * found.stderr > above, f"{found} > {above:g}{size}"
    else:
        holds, line = abs(found.value) + CLAIM_Z * found.stderr < within, f"|{found}| < {within:g}{size}"
    if book and not holds:
        raise CheckFailed(f"{sentence}: {written(line)}")
    data = {"claim": sentence, "holds": holds, "found": written(line)}
    show(sentence, written(line), data, "✓" if holds else "✗ not with these settings:")


def written(text: str) -> str:
    """Numbers as a mathematician writes them: 6 · 10⁻¹⁷ for 6e-17, 0 for 0e+00, and a minus sign for a hyphen.

    >>> written("-1.5 and 1e-08")
    '−1.5 and 10⁻⁸'
    """
    for power in re.findall(r"[\d)]e([+-]\d+)", text := text.replace("e+00", "")):
        text = text.replace(f"e{power}", "\u00a0·\u00a010" + str(int(power)).translate(SUPERSCRIPT), 1)
    return re.sub(r"(?<![\d.])1\u00a0·\u00a010", "10", text).replace("-", "−")


def show(what: str, line: str, data: dict[str, Any], mark: str = "\N{CHECK MARK}") -> None:
    """Show one line: Markdown for the book, whose page of checks comes from the metadata, HTML for JupyterLab, text."""
    if not in_notebook():
        print(f"{mark} {what}: {line}")
        return
    text, label = f"{mark} {what}: {line}", data.get("label")
    bundle = {"text/plain": text, "text/markdown": text, "text/html": html.escape(text)}
    if label:
        bundle["text/markdown"] = f"[✓](#checked-{label}) {{eq}}`{label}` · {line}"
        bundle["text/html"] = f"✓ <code>{html.escape(label)}</code> · {html.escape(line)}"
    display.display(bundle, raw=True, metadata={"vaebook": {"check" if label else "claim": data}})


def record(name: str, value: float | Tensor | Estimate, form: str = ".4g") -> None:
    """Bind a measured value to a name, by which the prose quotes it: ``{glue:text}`name```.

    Args:
        name: chapter and quantity, such as ``"kl-narrow-first"``; unique in the book.
        value: a number, a tensor with one entry, or an :class:`~vaebook.estimates.Estimate` with its standard error.
        form: how to format a number (Python's format language).

    Raises:
        ValueError: the value is not finite.
    """
    number, stderr = value if isinstance(value, Estimate) else (float(torch.as_tensor(value).detach()), None)
    if not math.isfinite(number):
        raise ValueError(f"value of {name!r} needs to be finite, got {number}")
    text = written(str(value) if isinstance(value, Estimate) else f"{number:{form}}")
    if not in_notebook():
        print(f"{name} = {text}")
        return
    # The two keys that myst-nb's "glue" reads. Importing myst-nb would load all of Sphinx into the kernel.
    prefix = "application/papermill.record/"
    bundle = {
        prefix + "text/plain": f"'{text}'",  # glue reads a Python literal: a bare 1.500 would become 1.5
        "application/vnd.vaebook.record+json": {"name": name, "value": number, "stderr": stderr},
    }
    display.display(bundle, raw=True, metadata={"scrapbook": {"name": name, "mime_prefix": prefix}})


def in_notebook() -> bool:
    """Whether this code runs inside a Jupyter kernel."""
    return hasattr(get_ipython(), "kernel")
