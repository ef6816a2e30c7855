"""How nbval compares a chapter's stored outputs with the computed ones: as a reader would.

nbval itself compares numbers as text (1.00000001 differs from 1.00000002), skips pictures (red
passes for blue), and passes a cell whose outputs were stripped. Here, instead, outputs must agree
one by one, in order: the same kind, the same media types, and within each

- text: word for word, numbers within a tolerance (`compare_text`);
- pictures: pixel for pixel, within a tolerance (`compare_pictures`).

The tolerance is `EXACT`. The tag `trained` on a cell widens it to `TRAINED`; a tag such as
`rtol-0.05` sets the relative tolerance of that cell's numbers, and leaves pictures as they were.
"""

import base64
import io
import json
import math
import re
from collections.abc import Iterable
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from nbval.plugin import IPyNbCell
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter

# What a page embeds in base64: a picture, the explorer's numbers. The output's image/png, which is compared as a
# picture, vouches for both.
EMBEDDED = re.compile(r'(?<=data:image/png;base64,)[^"]*|(?<=<script type="application/json">)[^<]*')


class Tolerance(NamedTuple):
    rtol: float  # relative to the larger of the two numbers
    atol: float
    widened: bool  # set by a tag: integers and rounding get room too, see `close`
    blur: float  # standard deviation of the Gaussian that softens both pictures, pixels
    rms: float  # largest root-mean-square difference over tiles, grey levels of 0 to 255
    tile: int  # side of a tile, pixels


# Chapters compute in float64. Another processor moves the last bits, about 1e-16 relative, and sums
# and cancellations raise that by a few powers of ten; 1e-6 leaves room for far worse than that.
#
# Pictures, measured on 550 x 390 pixel line plots and scatter plots as the largest RMS over tiles:
#
#                                                    EXACT          TRAINED
#                                               (tile 16, no blur)  (tile 32, blur 6)
#   data moved by 1e-6 (relative)                     0.2               0.0
#   curve moved by 0.1 pixel                          5.3               0.1
#   curve stretched by 2 %, axes following          114                 6.2
#   scatter plot, each point moved by 2 %            97                 6.2
#   grey-scale images, each pixel changed by 5 %     19                 4.8
#   dashed curve drawn solid (thin, grey)            14                 1.5
#   thin grey dashed curve missing                   22                 3.6
#   thin black curve missing                         68                13
#   one digit, or one letter of a legend             54 to 79           2 to 5
#   one point of 400 missing; a few recoloured       58; 80             7.6; 15
#   red for blue, blue for orange                    63 to 81          15 to 19
#
# Over the whole page, without tiles, the wrong digit gives 2 and the moved curve 7: no threshold
# tells noise from error there. A trained curve may move by several pixels, which without blur is
# worse than no curve at all. So a `trained` picture vouches for what is drawn, where and in which
# colour, not for its labels' digits nor for pale thin lines: draw those in a cell of their own.
EXACT = Tolerance(rtol=1e-6, atol=1e-9, widened=False, blur=0, rms=5.0, tile=16)
TRAINED = Tolerance(rtol=2e-2, atol=1e-3, widened=True, blur=6, rms=8.0, tile=32)

# A tight bounding box may gain or lose a row when a label changes its width.
SIZE_SLACK = 2  # pixels

# A number as Python, NumPy and our own prose print it. Digits inside a word (float64, z1) are text.
NUMBER = re.compile(
    r"""(?:(?<!\w)[+\-−])? (?<!\w)
        (?: (?: [0-9]{1,3}(?:,[0-9]{3})+(?![0-9,]) | [0-9]+) (?:\.[0-9]*)? (?:e[+\-−]?[0-9]+)?
          | \.[0-9]+ (?:e[+\-−]?[0-9]+)?
          | (?:inf|nan)(?!\w) )""",
    re.VERBOSE | re.IGNORECASE,
)


def tolerance_for(tags: Iterable[str]) -> Tolerance:
    """The tolerance that a cell's tags ask for.

    Raises:
        pytest.UsageError: a tag begins with `rtol-` and no relative tolerance follows.

    Example:
        >>> tolerance_for(["hide-input", "rtol-0.05"]).rtol
        0.05
    """
    tags = list(tags)
    tolerance = TRAINED if "trained" in tags else EXACT
    for tag in tags:
        if tag.startswith("rtol-"):
            try:
                rtol = float(tag.removeprefix("rtol-"))
            except ValueError:
                rtol = math.nan
            if not 0 <= rtol < 1:
                raise pytest.UsageError(
                    f"cell tag {tag!r}: expected rtol- and a number from 0 to 1, such as rtol-0.05"
                )
            tolerance = tolerance._replace(rtol=rtol, widened=True)
    return tolerance


def close(a: str, b: str, tolerance: Tolerance) -> bool:
    """Whether two printed numbers agree: |a − b| ≤ atol + rtol·max(|a|, |b|), where nan equals nan.

    An integer is a count, a size or a name. It must be equal, or within rtol where a tag says that
    it was trained, and atol is not for it.

    Rounding: two values that differ by next to nothing print 0.12 and 0.13 when they lie on either
    side of 0.125. A unit of slack in the last place would pardon that and make every number printed
    with two digits meaningless, so exact cells have none: with deviations d of about 1e-14, a value
    falls so close to an edge once in u/d = 1e12 numbers, u being the last place's unit. (A value
    that lies on the edge by construction is found on the first other machine: print one digit
    more.) In a widened cell d may be as large as u, crossing an edge is common, and the unit is
    allowed, yet only where the tolerance is at least a fifth of it. So 0.12 agrees with 0.13 at
    rtol 2e-2 and disagrees at rtol 1e-4, and 0.5 disagrees with 0.6 at both.

    Example:
        >>> close("0.12", "0.13", EXACT), close("0.12", "0.13", TRAINED)
        (False, True)
    """
    # Decimal, so that 0.13 − 0.12 is one unit of the last place and not a hair more.
    x, y = (Decimal(text.replace(",", "").replace("−", "-")) for text in (a, b))
    if not (x.is_finite() and y.is_finite()):
        return x == y or (x.is_nan() and y.is_nan())
    relative = Decimal(tolerance.rtol) * max(abs(x), abs(y))
    if all(text.lstrip("+-−").replace(",", "").isdigit() for text in (a, b)):
        return abs(x - y) <= (relative if tolerance.widened else 0)
    allowed = Decimal(tolerance.atol) + relative
    unit = min(Decimal(1).scaleb(int(number.as_tuple().exponent)) for number in (x, y))
    if tolerance.widened and allowed >= unit / 5:
        allowed += unit
    return abs(x - y) <= allowed


def compare_text(stored: str, computed: str, tolerance: Tolerance) -> list[str]:
    """What differs between two texts, a line each; empty if they agree.

    Runs of white space count as one space, and as none beside a number: columns are padded to the
    widest number, and NumPy prints `[ 0.1` but `[-0.1`.

    Example:
        >>> compare_text("KL = 0.5 nats", "KL =  0.50001 nats", EXACT)
        ['stored 0.5, computed 0.50001']
    """
    words = [[" ".join(word.split()) for word in NUMBER.split(t)] for t in (stored, computed)]
    numbers = [NUMBER.findall(t) for t in (stored, computed)]
    for a, b in zip(*words, strict=False):
        if a != b:
            return [f"stored {a!r}, computed {b!r}"]
    if len(numbers[0]) != len(numbers[1]):
        return [f"stored {len(numbers[0])} numbers, computed {len(numbers[1])}"]
    return [f"stored {a}, computed {b}" for a, b in zip(*numbers, strict=True) if not close(a, b, tolerance)]


def compare_pictures(stored: str, computed: str, tolerance: Tolerance) -> list[str]:
    """What differs between two base64-encoded pictures, in a line; empty if they agree.

    The distance is the largest root-mean-square difference over all square tiles, so that a small
    change is not diluted by a large white page. Sizes may differ by `SIZE_SLACK`; what both
    pictures have is then compared.
    """
    a, b = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA"), dtype=float)
        for text in (stored, computed)
    )
    if max(abs(a.shape[0] - b.shape[0]), abs(a.shape[1] - b.shape[1])) > SIZE_SLACK:
        return [f"sizes differ: stored {a.shape[1::-1]}, computed {b.shape[1::-1]} pixels"]
    height, width = min(a.shape[0], b.shape[0]), min(a.shape[1], b.shape[1])
    difference = a[:height, :width] - b[:height, :width]
    if tolerance.blur:
        difference = gaussian_filter(difference, (tolerance.blur, tolerance.blur, 0))
    # The mean over red, green and blue; a difference in opacity comes on top.
    squared = (difference**2).sum(axis=2) / 3  # (height, width, 4) -> (height, width)
    tiles = uniform_filter(squared, min(tolerance.tile, height, width))
    rms = math.sqrt(max(tiles.max(), 0.0))
    if rms <= tolerance.rms:
        return []
    y, x = np.unravel_index(tiles.argmax(), tiles.shape)
    return [f"RMS {rms:.1f} near x = {x}, y = {y} pixels, more than {tolerance.rms}"]


def content(output: dict[str, Any]) -> dict[str, Any]:
    """What a reader sees of one output: media type → content, or stream name → text."""
    if output["output_type"] == "stream":
        return {output["name"]: output["text"]}
    if output["output_type"] == "error":  # the traceback holds paths
        return {"error": f"{output['ename']}: {output['evalue']}"}
    # A widget's value is a random model id.
    data = {mime: v for mime, v in output["data"].items() if "jupyter.widget-view" not in mime}
    shown = {f"{output['output_type']} {mime}": value for mime, value in data.items()}
    return {kind: EMBEDDED.sub("", v) if kind.endswith("text/html") else v for kind, v in shown.items()}


def compare_outputs(
    stored: list[dict[str, Any]], computed: list[dict[str, Any]], tolerance: Tolerance
) -> list[str]:
    """What differs between two lists of outputs, a line each; empty if they agree."""
    a, b = [content(output) for output in stored], [content(output) for output in computed]
    kinds = [[sorted(parts) for parts in outputs] for outputs in (a, b)]
    if kinds[0] != kinds[1]:
        unstored = [parts["stderr"] for parts in b if "stderr" in parts]
        return [f"stored outputs {kinds[0]}, computed outputs {kinds[1]}", *unstored]
    reasons = []
    for parts, others in zip(a, b, strict=True):
        for kind, value in parts.items():
            # JSON arrives as dictionaries and lists.
            old, new = (
                v if isinstance(v, str) else json.dumps(v, sort_keys=True) for v in (value, others[kind])
            )
            picture = kind.endswith(("image/png", "image/jpeg"))
            compare = compare_pictures if picture else compare_text
            reasons += [f"{kind}: {reason}" for reason in compare(old, new, tolerance)]
    return reasons


def pytest_configure(config: pytest.Config) -> None:
    # Kernels run on the interpreter that runs pytest, activated or not, whatever kernel of the same
    # name the machine has.
    if not config.getoption("nbval_kernel_name", None):
        config.option.nbval_current_env = True


def pytest_itemcollected(item: pytest.Item) -> None:
    if not isinstance(item, IPyNbCell):
        return
    # nbval takes a cell without a number for one never run and checks nothing, so a chapter whose
    # outputs were stripped would pass.
    if item.cell.execution_count is None:
        item.cell.execution_count = 0
    item.compare_outputs = partial(_compare_cell, item, tolerance_for(item.cell.metadata.get("tags", [])))


def _compare_cell(item: IPyNbCell, tolerance: Tolerance, test: Any, ref: Any) -> bool:
    """Takes the place of `IPyNbCell.compare_outputs`: True, or the reasons for nbval's report."""
    item.comparison_traceback = compare_outputs(ref, test, tolerance)
    return not item.comparison_traceback
