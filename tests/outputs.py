"""Makes nbval compare a chapter's stored outputs with the computed ones as a reader would.

By itself, nbval compares numbers as text (1.00000001 differs from 1.00000002), ignores pictures, and
passes a cell whose outputs were stripped. With this plugin, the outputs of a cell must agree in
number, order, kind and media types. Their content is compared as

- text: word for word, and numbers within a tolerance (`compare_text`);
- pictures: pixel for pixel, within a tolerance (`compare_pictures`).

The tolerance is `EXACT`. The tag `trained` on a cell widens it to `TRAINED`. A tag such as
`rtol-0.05` sets the relative tolerance of the cell's numbers; the tolerance of pictures stays.

With `--built`, chapters of which `vaebook build` left an executed copy that is up to date are not executed
again: the copy's outputs are compared instead (`built`). The last lines of a session count both.
"""

import base64
import importlib
import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import numpy as np
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter

# Base64 data in an HTML output: a picture, and the explorer's numbers. They are not compared as text, because
# the same output has an image/png that shows both.
EMBEDDED = re.compile(r'(?<=data:image/png;base64,)[^"]*|(?<=<script type="application/json">)[^<]*')


class Tolerance(NamedTuple):
    rtol: float  # relative to the larger of the two numbers
    atol: float
    widened: bool  # set by a tag: it applies to integers and to rounding too, see `close`
    blur: float  # standard deviation of the Gaussian that blurs the difference of two pictures, pixels
    rms: float  # largest root-mean-square difference over tiles, grey levels of 0 to 255
    tile: int  # side of a tile, pixels


# Chapters compute in float64. Another processor changes the last bits, about 1e-16 relative, and sums
# and cancellations magnify that by a few powers of ten. A tolerance of 1e-6 is far larger.
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
# Over the whole page, without tiles, the wrong digit gives 2 and the moved curve 7, so that no
# threshold separates noise from errors. A trained curve may move by several pixels; without blur, this
# counts more than a missing curve. With blur, the comparison of `trained` pictures detects what is
# drawn, where and in which colour, but not the digits of labels or pale thin lines. Draw those in
# another cell.
EXACT = Tolerance(rtol=1e-6, atol=1e-9, widened=False, blur=0, rms=5.0, tile=16)
TRAINED = Tolerance(rtol=2e-2, atol=1e-3, widened=True, blur=6, rms=8.0, tile=32)

# A tight bounding box may gain or lose a row when a label changes its width.
SIZE_SLACK = 2  # pixels

# A number as Python, NumPy and the book's prose print it. Digits inside a word (float64, z1) are text.
NUMBER = re.compile(
    r"""(?:(?<!\w)[+\-−])? (?<!\w)
        (?: (?: [0-9]{1,3}(?:,[0-9]{3})+(?![0-9,]) | [0-9]+) (?:\.[0-9]*)? (?:e[+\-−]?[0-9]+)?
          | \.[0-9]+ (?:e[+\-−]?[0-9]+)?
          | (?:inf|nan)(?!\w) )""",
    re.VERBOSE | re.IGNORECASE,
)

# 6 · 10⁻¹⁷ or 10⁻¹⁷, as `vaebook.ledger` writes 6e-17 and 1e-17.
POWER = re.compile(r"(?<![\w.,])(?:([0-9][0-9.,]*)\s·\s)?10([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
DIGITS = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")


def tolerance_for(tags: Iterable[str]) -> Tolerance:
    """The tolerance that a cell's tags set.

    Raises:
        pytest.UsageError: a tag begins with `rtol-`, but no number from 0 to 1 follows.

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
                raise pytest.UsageError(f"cell tag {tag!r}: expected rtol- and a number from 0 to 1, such as rtol-0.05")
            tolerance = tolerance._replace(rtol=rtol, widened=True)
    return tolerance


def close(a: str, b: str, tolerance: Tolerance) -> bool:
    """Whether two printed numbers agree: |a − b| ≤ atol + rtol·max(|a|, |b|), where nan equals nan.

    An integer is a count, a size or a name. Integers must be equal, or within rtol in a widened cell;
    atol does not apply to them.

    Rounding: two nearly equal values print 0.12 and 0.13 if they lie on different sides of 0.125. A
    slack of one unit in the last place would accept that, but then a number with two printed digits
    would hardly be checked. So exact cells have no slack. Their deviations d are about 1e-14, and a
    value lies so close to such an edge once in u/d = 1e12 numbers, where u is the unit of the last
    place. (A value that lies on an edge by construction fails on the first other machine: print one
    more digit.) In a widened cell d may be as large as u, and crossing an edge is common. There one
    unit is allowed, but only if the tolerance is at least a fifth of it. So 0.12 agrees with 0.13 at
    rtol 2e-2 and disagrees at rtol 1e-4, and 0.5 disagrees with 0.6 at both.

    Example:
        >>> close("0.12", "0.13", EXACT), close("0.12", "0.13", TRAINED)
        (False, True)
    """
    # Decimal, so that 0.13 − 0.12 is exactly one unit of the last place.
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
    """The differences between two texts, one line each; empty if they agree.

    A run of white space counts as one space, and beside a number it is ignored: columns are padded to
    the widest number, and NumPy prints `[ 0.1` but `[-0.1`. A power of ten in superscripts is a number.

    Example:
        >>> compare_text("KL = 0.5 nats", "KL =  0.50001 nats", EXACT)
        ['stored 0.5, computed 0.50001']
        >>> compare_text("deviation 6 · 10⁻³", "deviation 10⁻¹³", EXACT)
        ['stored 6e-3, computed 1e-13']
    """
    stored, computed = (POWER.sub(lambda m: f"{m[1] or 1}e{m[2].translate(DIGITS)}", t) for t in (stored, computed))
    words = [[" ".join(word.split()) for word in NUMBER.split(t)] for t in (stored, computed)]
    numbers = [NUMBER.findall(t) for t in (stored, computed)]
    for a, b in zip(*words, strict=False):
        if a != b:
            return [f"stored {a!r}, computed {b!r}"]
    if len(numbers[0]) != len(numbers[1]):
        return [f"stored {len(numbers[0])} numbers, computed {len(numbers[1])}"]
    return [f"stored {a}, computed {b}" for a, b in zip(*numbers, strict=True) if not close(a, b, tolerance)]


def compare_pictures(stored: str, computed: str, tolerance: Tolerance) -> list[str]:
    """The difference between two base64-encoded pictures, in one line; empty if they agree.

    The distance is the largest root-mean-square difference over all square tiles, so that a large
    white page does not hide a small change. Sizes may differ by `SIZE_SLACK`; then the area that both
    pictures have is compared.
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
    # The mean over red, green and blue; the difference in opacity is added.
    squared = (difference**2).sum(axis=2) / 3  # (height, width, 4) -> (height, width)
    tiles = uniform_filter(squared, min(tolerance.tile, height, width))
    rms = math.sqrt(max(tiles.max(), 0.0))
    if rms <= tolerance.rms:
        return []
    y, x = np.unravel_index(tiles.argmax(), tiles.shape)
    return [f"RMS {rms:.1f} near x = {x}, y = {y} pixels, more than {tolerance.rms}"]


def content(output: dict[str, Any]) -> dict[str, Any]:
    """The visible content of one output: media type → content, or stream name → text."""
    if output["output_type"] == "stream":
        return {output["name"]: output["text"]}
    if output["output_type"] == "error":  # not the traceback, which contains paths
        return {"error": f"{output['ename']}: {output['evalue']}"}
    # Widgets are left out: their value is a random model id.
    data = {mime: v for mime, v in output["data"].items() if "jupyter.widget-view" not in mime}
    shown = {f"{output['output_type']} {mime}": value for mime, value in data.items()}
    return {kind: EMBEDDED.sub("", v) if kind.endswith("text/html") else v for kind, v in shown.items()}


def compare_outputs(stored: list[dict[str, Any]], computed: list[dict[str, Any]], tolerance: Tolerance) -> list[str]:
    """The differences between two lists of outputs, one line each; empty if they agree."""
    a, b = [content(output) for output in stored], [content(output) for output in computed]
    kinds = [[sorted(parts) for parts in outputs] for outputs in (a, b)]
    if kinds[0] != kinds[1]:
        unstored = [parts["stderr"] for parts in b if "stderr" in parts]
        return [f"stored outputs {kinds[0]}, computed outputs {kinds[1]}", *unstored]
    reasons = []
    for parts, others in zip(a, b, strict=True):
        for kind, value in parts.items():
            # The content of JSON is a dictionary or a list.
            old, new = (v if isinstance(v, str) else json.dumps(v, sort_keys=True) for v in (value, others[kind]))
            picture = kind.endswith(("image/png", "image/jpeg"))
            compare = compare_pictures if picture else compare_text
            reasons += [f"{kind}: {reason}" for reason in compare(old, new, tolerance)]
    return reasons


def pytest_addoption(parser: pytest.Parser) -> None:
    words = (
        "with --nbval: compare with what `vaebook build` executed where that is up to date, in place of executing it"
    )
    parser.addoption("--built", action="store_true", help=words)


def pytest_configure(config: pytest.Config) -> None:
    # Kernels use the interpreter that runs pytest, even if its environment is not activated or the machine
    # has another kernel of the same name.
    if not config.getoption("nbval_kernel_name", None):
        config.option.nbval_current_env = True


def pytest_itemcollected(item: pytest.Item) -> None:
    if not isinstance(item, IPyNbCell):
        return
    # nbval does not check cells without an execution count, so a chapter whose outputs were stripped
    # would pass.
    if item.cell.execution_count is None:
        item.cell.execution_count = 0
    item.compare_outputs = partial(_compare_cell, item, tolerance_for(item.cell.metadata.get("tags", [])))
    item.parent.setup = partial(set_up, item.parent)


def _compare_cell(item: IPyNbCell, tolerance: Tolerance, test: Any, ref: Any) -> bool:
    """Replaces `IPyNbCell.compare_outputs`. Returns True if equal, and sets the reasons for nbval's report."""
    item.comparison_traceback = compare_outputs(ref, test, tolerance)
    return not item.comparison_traceback


# --- what the build executed, in place of a kernel ---

counted: Counter[str] = Counter()  # chapters: compared, executed; their kernels: forked, plain


class Replay:
    """In place of nbval's kernel: answers each cell with the outputs that the build's kernel gave to it.

    nbval receives them as it would from a kernel, so that it compares them with the stored ones in the same way.
    """

    def __init__(self, cells: list[Any]) -> None:
        self.cells, self.messages = iter(cells), iter(list[Any]())

    def is_alive(self) -> bool:
        return True

    def stop(self) -> None: ...

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None: ...

    def await_idle(self, parent_id: str, timeout: float) -> None: ...

    def execute_cell_input(self, source: str, allow_stdin: bool | None = None) -> str:
        cell = next(cell for cell in self.cells if cell.source == source)  # a selection may leave cells out
        answers = [*((output.output_type, output) for output in cell.outputs), ("status", {"execution_state": "idle"})]
        header = {"msg_id": source}
        self.messages = iter([{"msg_type": kind, "content": c, "parent_header": header} for kind, c in answers])
        return source

    def get_message(self, stream: str, timeout: float | None = None) -> dict[str, Any]:
        return next(self.messages)


def built(stored: Path) -> list[Any] | None:
    """The code cells of a stored notebook as the build executed them; None if a kernel might answer otherwise now.

    They have to be up to date, from this machine with these packages, and newer than the stored notebook: what was
    stored from a run agrees with that run whatever it printed.
    """
    from vaebook_runner import chapters, jobs, records

    source, root = stored.with_suffix(".md"), chapters.find_root(stored.parent)
    if root is None or not source.is_file():
        return None
    (job,) = jobs.plan_book(chapters.Book(root, [source]), {})
    if not job.is_done() or job.notebook.stat().st_mtime_ns <= stored.stat().st_mtime_ns:
        return None
    record = records.read(job.record)
    if (record.versions, record.device) != (records.versions(), records.device()):
        return None
    cells, ours = (
        [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        for path in (job.notebook, stored)
    )
    return cells if [cell.source for cell in cells] == [cell.source for cell in ours] else None


def set_up(chapter: IPyNbFile) -> None:
    """Replaces `IPyNbFile.setup`: starts a chapter's kernel, or takes what the build executed, and counts which."""
    if chapter.config.getoption("built", False) and (cells := built(chapter.path)):
        chapter.kernel = Replay(cells)
        chapter.setup_sanitize_files()
        counted["compared"] += 1
        return
    # Only there are kernels forked (`conftest.py` chooses it).
    kernels = importlib.import_module("vaebook_runner.forked").counts if sys.platform == "linux" else {}
    before = Counter(kernels)
    IPyNbFile.setup(chapter)
    counted.update(Counter(kernels) - before)
    counted["executed"] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # of a process that runs tests for another one
        session.config.workeroutput["counted"] = dict(counted)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    counted.update(getattr(node, "workeroutput", {}).get("counted", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if counted:
        compared, executed = counted["compared"], counted["executed"]
        write = terminalreporter.write_line
        write(f"{compared} chapters compared with what the build executed, {executed} executed")
        if sys.platform == "linux":
            write(f"kernels: {counted['forked']} forked, {counted['plain']} plain")
