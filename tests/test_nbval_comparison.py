"""The comparison of stored and computed outputs by nbval: cases that pass and cases that fail."""

import base64
import io
import os
import shutil
import sys
import xml.etree.ElementTree as ET
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import matplotlib
import nbformat
import numpy as np
import pytest
from hypothesis import given, strategies as st
from nbformat.v4 import new_code_cell, new_notebook
from outputs import EXACT, TRAINED, Tolerance, close, compare_pictures, compare_text, tolerance_for
from PIL import Image

ROOT = Path(__file__).parents[1]
FONT_CACHE = matplotlib.get_cachedir()  # read here, because pytester changes the home folder in its tests
RTOL_1E4 = tolerance_for(["rtol-1e-4"])


# --- numbers in text ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "computed"),
    [
        ("0.5 nats", "0.5 nats"),
        ("2.220446049250313e-16", "4.440892098500626e-16"),
        ("KL = 1.00000001", "KL = 1.00000002"),
        ("[ 1e-17  0.5]", "[-1e-17  0.5]"),
        ("x  9.99999999\n", "x 10.0\n"),
        ("-0.00", "0.00"),
        ("−1.5 ± 0.25", "-1.50 ±0.25"),
        ("1,437 images", "1437 images"),
        ("nan inf -inf", "NaN Inf -Inf"),
        ("<td>0.1234567890123</td>", "<td>0.1234567890124</td>"),
        ("6.02e+23", "6.02E23"),
        ("deviation 6 · 10⁻¹⁷", "deviation 2 · 10⁻¹⁶"),
        ("deviation 0, tolerance", "deviation 10⁻¹⁶, tolerance"),
        ("margin −4\u00a0·\u00a010⁻¹⁶ over", "margin 0 over"),
        ("margin −10⁻¹⁶", "margin 10⁻¹⁶"),
        ("6.02 · 10²³", "6.020000001 · 10²³"),
        ("'5\u00a0·\u00a010⁻¹⁴'", "'9e-14'"),
    ],
)
def test_text_agrees(stored: str, computed: str) -> None:
    assert compare_text(stored, computed, EXACT) == []


@pytest.mark.parametrize(
    ("stored", "computed"),
    [
        ("0.5", "0.50001"),
        ("0.12", "0.13"),  # a difference in the last printed place
        ("1.234567", "1.234569"),  # the same, when it is about as large as the tolerance
        ("1.0", "-1.0"),
        ("-0.5", "−0.6"),
        ("1e-3", "1e-4"),
        ("10⁻³", "10⁻⁴"),
        ("6 · 10⁻⁵", "7 · 10⁻⁵"),
        ("6 · 10⁻⁵", "−6 · 10⁻⁵"),
        ("6 · 10⁻⁵", "16 · 10⁻⁵"),
        ("tolerance 10⁻¹⁰", "tolerance 10⁻⁷"),
        ("10⁻¹⁷", "0.1"),
        ("2 · 10", "2 · 10³"),
        ("z10²", "z10³"),
        ("x² + 1", "x³ + 1"),
        ("1,437", "1,438"),
        ("1234567 weights", "1234568 weights"),  # within rtol, but integers must be equal
        ("nan", "0.0"),
        ("inf", "1.0"),
        ("inf", "-inf"),
        ("0.5 nats", "0.5 bits"),
        ("float32", "float64"),
        ("1 2", "1 2 3"),
        ("1 2", "12"),
        ("done", ""),
        ("0x7f3a", "0x7f3b"),
    ],
)
def test_text_differs(stored: str, computed: str) -> None:
    assert compare_text(stored, computed, EXACT)
    assert compare_text(computed, stored, EXACT)


@pytest.mark.parametrize(
    ("a", "b", "tolerance", "agree"),
    [
        ("12.34", "12.50", TRAINED, True),
        ("12.34", "13.34", TRAINED, False),
        ("0.12", "0.13", TRAINED, True),  # one unit of rounding, about as large as the tolerance
        ("0.12", "0.14", TRAINED, False),
        ("0.12", "0.13", RTOL_1E4, False),  # the same unit is much larger than the tolerance
        ("0.2345", "0.2346", RTOL_1E4, True),
        ("0.5", "0.6", TRAINED, False),
        ("341", "343", TRAINED, True),  # integers get rtol ...
        ("7", "8", TRAINED, False),  # ... but no unit of rounding
        ("nan", "0.1", TRAINED, False),
        ("0.99", "nats", TRAINED, False),
    ],
)
def test_widened_tolerance(a: str, b: str, tolerance: Tolerance, agree: bool) -> None:
    assert (compare_text(a, b, tolerance) == []) is agree


def test_tags_set_the_tolerance() -> None:
    assert tolerance_for([]) == tolerance_for(["hide-input"]) == EXACT
    assert tolerance_for(["trained"]) == TRAINED
    both = tolerance_for(["rtol-0.05", "trained"])
    assert (both.rtol, both.atol, both.rms) == (0.05, TRAINED.atol, TRAINED.rms)


@pytest.mark.parametrize("tag", ["rtol-", "rtol-wide", "rtol--0.1", "rtol-nan", "rtol-5"])
def test_a_misspelt_tag_is_refused(tag: str) -> None:
    with pytest.raises(pytest.UsageError, match=r"such as rtol-0\.05"):
        tolerance_for([tag])


numbers = st.decimals(min_value=-(10**9), max_value=10**9, places=4, allow_nan=False, allow_infinity=False)
tolerances = st.sampled_from([EXACT, TRAINED, RTOL_1E4])


@given(st.text(alphabet="0123456789.,eE+-− \nxσnaif(±·⁻⁰¹²"), tolerances)
def test_every_text_agrees_with_itself(text: str, tolerance: Tolerance) -> None:
    assert compare_text(text, text, tolerance) == []


@given(numbers, numbers, tolerances)
def test_agreement_is_symmetric(x: Decimal, y: Decimal, tolerance: Tolerance) -> None:
    assert close(str(x), str(y), tolerance) == close(str(y), str(x), tolerance)


@given(numbers)
def test_the_tolerance_is_exact(x: Decimal) -> None:
    # 17 decimals, so that rounding does not matter.
    room = Decimal(EXACT.atol) + Decimal(EXACT.rtol) * abs(x)
    for share, agree in ((Decimal("0.99"), True), (Decimal("1.01"), False)):
        for y in (x + share * room, x - share * room):
            assert close(f"{x:.17f}", f"{y:.17f}", EXACT) is agree


@given(st.integers(0, 99_999), st.integers(0, 4), st.integers(1, 9))
def test_a_changed_digit_fails(number: int, place: int, step: int) -> None:
    digits = [int(d) for d in f"{number:05d}"]
    digits[place] = (digits[place] + step) % 10
    a, b = f"{number:05d}", "".join(map(str, digits))
    assert compare_text(f"KL 0.{a} nats", f"KL 0.{b} nats", EXACT)


# --- pictures ----------------------------------------------------------------------------------


def encode(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


@given(st.integers(1, 40), st.integers(1, 40), tolerances)
def test_every_picture_agrees_with_itself(height: int, width: int, tolerance: Tolerance) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert compare_pictures(encode(pixels), encode(pixels), tolerance) == []


def test_the_distance_does_not_depend_on_the_size_of_the_page() -> None:
    reasons = []
    for side in (64, 512):
        page = np.full((side, side, 3), 255, dtype=np.uint8)
        marked = page.copy()
        marked[30:38, 30:35] = 0  # as much ink as a digit
        reasons.append(compare_pictures(encode(page), encode(marked), EXACT))
    assert reasons[0] == reasons[1] != []


def test_noise_of_one_grey_level_passes() -> None:
    page = np.full((64, 64, 3), 200, dtype=np.uint8)
    noise = np.random.default_rng(0).integers(0, 2, page.shape, dtype=np.uint8)
    assert compare_pictures(encode(page), encode(page + noise), EXACT) == []


@pytest.mark.parametrize(("extra", "agree"), [(1, True), (2, True), (3, False)])
def test_size_may_differ_by_two_pixels(extra: int, agree: bool) -> None:
    a = np.full((50, 60, 3), 255, dtype=np.uint8)
    b = np.full((50, 60 + extra, 3), 255, dtype=np.uint8)
    for pair in ((a, b), (b, a)):
        assert (compare_pictures(*map(encode, pair), EXACT) == []) is agree


def test_pictures_with_different_opacity_differ() -> None:
    a = np.full((32, 32, 4), 255, dtype=np.uint8)
    b = a.copy()
    b[..., 3] = 0
    assert compare_pictures(encode(a), encode(b), EXACT)


# --- whole notebooks through nbval -------------------------------------------------------------

SETUP = """\
import os, sys, warnings
import numpy as np
import matplotlib.pyplot as plt
from IPython.display import HTML, Markdown, display
plt.rcParams["figure.figsize"] = (4, 3)

def curve(scale=1.0, color="C0", second=True, label="encoder"):
    x = np.linspace(-3, 3, 200)
    plt.plot(x, scale * np.sin(2 * x), color=color, label=label)
    if second:
        plt.plot(x, 0.5 * np.cos(3 * x), color="k", lw=1)
    plt.legend(loc="upper right")
    plt.show()

def record(value):
    mime = "application/papermill.record/text/plain"
    display({mime: repr(value)}, raw=True)
"""


class Case(NamedTuple):
    """A cell with the stored outputs of `stored` and the source `computed`.

    If `reason` is empty the cell must pass. Otherwise it must fail, and the report must contain the reason.
    """

    stored: str
    computed: str
    reason: str = ""
    tags: tuple[str, ...] = ()


TWO = "display(Markdown('*one*')); display(HTML('<b>two</b>'))"
ENVIRONMENT = "os.path.isabs(os.environ['VAEBOOK_DATA']) and sys.executable == {!r}"

CASES = {
    "setup": Case(SETUP, SETUP),
    "equal text": Case("print('0.5 nats')", "print('0.5 nats')"),
    "equal result": Case("0.5", "0.5"),
    "noise": Case("print(2**-52)", "print(2**-51)"),
    "noise in a result": Case("0.1 + 0.2", "0.3"),
    "noise in html": Case("HTML('<td>0.30000000000000004</td>')", "HTML('<td>0.3</td>')"),
    "noise in markdown": Case("Markdown('*KL* = 1.00000001')", "Markdown('*KL* = 1.0')"),
    "noise in a record": Case("record(0.1 + 0.2)", "record(0.3)"),
    "noise in json": Case(
        "display({'application/json': {'b': [0.1 + 0.2], 'a': 1}}, raw=True)",
        "display({'application/json': {'b': [0.3], 'a': 1}}, raw=True)",  # nbformat sorts keys
    ),
    "wrong number": Case("print(0.5)", "print(0.50001)", "stored 0.5, computed 0.50001"),
    "wrong last place": Case("print('0.12')", "print('0.13')", "stored 0.12, computed 0.13"),
    "wrong word": Case("print('0.5 nats')", "print('0.5 bits')", "'nats', computed 'bits'"),
    "wrong html": Case("HTML('<td>1</td>')", "HTML('<td>2</td>')", "text/html: stored 1"),
    "wrong markdown": Case("Markdown('0.5')", "Markdown('0.6')", "text/markdown: stored 0.5"),
    "wrong record": Case("record(0.5)", "record(0.51)", "stored 0.5, computed 0.51"),
    "wrong json": Case(
        "display({'application/json': {'a': 1}}, raw=True)",
        "display({'application/json': {'a': 2}}, raw=True)",
        "application/json: stored 1, computed 2",
    ),
    "missing text": Case("print(1)", "a = 1", "computed outputs []"),
    "extra text": Case("a = 1", "print(1)", "stored outputs []"),
    "missing line": Case("print(1); print(2)", "print(1)", "stored 2 numbers, computed 1"),
    "missing result": Case("print(1)\n2", "print(1)", "computed outputs [['stdout']]"),
    "extra result": Case("print(1)", "print(1)\n2", "stored outputs [['stdout']]"),
    "one display of two": Case(TWO, TWO.split("; ")[0], "computed outputs"),
    "displays swapped": Case(TWO, "; ".join(reversed(TWO.split("; "))), "computed outputs"),
    "display for result": Case("0.5", "display(0.5)", "computed outputs [['display_data"),
    "html for markdown": Case("HTML('a')", "Markdown('a')", "computed outputs"),
    "one media type of two": Case(
        "display({'text/html': 'a', 'text/plain': 'a'}, raw=True)",
        "display({'text/plain': 'a'}, raw=True)",
        "computed outputs [['display_data text/plain']]",
    ),
    "new warning": Case("a = 1", "warnings.warn('overflow')", "UserWarning: overflow"),
    "new warning beside text": Case("print(1)", "print(1); warnings.warn('overflow')", "UserWarning: overflow"),
    "lost warning": Case("warnings.warn('overflow')", "a = 1", "stored outputs [['stderr']]"),
    "exception": Case("print(1)", "print(1); 1 / 0", "ZeroDivisionError"),
    "expected exception": Case("1 / 0", "1 / 0", "", ("raises-exception",)),
    "another exception": Case("1 / 0", "int('x')", "computed 'ValueError", ("raises-exception",)),
    "no exception": Case("1 / 0", "a = 1", "computed outputs []", ("raises-exception",)),
    "trained": Case("print(12.34)", "print(12.50)", "", ("trained",)),
    "trained, too far": Case("print(12.34)", "print(13.34)", "stored 12.34", ("trained",)),
    "only the tagged cell": Case("print(12.34)", "print(12.50)", "stored 12.34"),
    "own tolerance": Case("print(1.0)", "print(1.04)", "", ("rtol-0.05",)),
    "own tolerance, too far": Case("print(1.0)", "print(1.2)", "stored 1.0", ("rtol-0.05",)),
    "equal picture": Case("curve()", "curve()"),
    "noise in a picture": Case("curve()", "curve(1 + 1e-9)"),
    "red for blue": Case("curve(color='r')", "curve(color='b')", "image/png: RMS"),
    "missing curve": Case("curve()", "curve(second=False)", "image/png: RMS"),
    "extra curve": Case("curve(second=False)", "curve()", "image/png: RMS"),
    "another label": Case("curve()", "curve(label='encodes')", "image/png: RMS"),
    "moved curve": Case("curve()", "curve(1.01)", "image/png: RMS"),
    "missing picture": Case("curve()", "a = 1", "computed outputs []"),
    "trained picture": Case("curve()", "curve(1.01)", "", ("trained",)),
    "trained, red for blue": Case("curve(color='r')", "curve(color='b')", "image/png: RMS", ("trained",)),
    "trained, missing curve": Case("curve()", "curve(second=False)", "image/png: RMS", ("trained",)),
    "outputs stripped": Case("print(1)", "print(1)", "stored outputs []"),
    "kernel's environment": Case("True", ENVIRONMENT.format(sys.executable)),
}

STORE = """\
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbformat.write(nbclient.execute(notebook, kernel_name="python3"), sys.argv[1])
"""


def project_with(pytester: pytest.Pytester, cells: list[nbformat.NotebookNode]) -> Path:
    """A project with the same configuration as this one and one chapter of these cells; returns the chapter."""
    pytester.mkdir("tests")
    pytester.mkdir("notebooks")
    for name in ("conftest.py", "pyproject.toml", "tests/outputs.py"):
        shutil.copy(ROOT / name, pytester.path / name)
    chapter = pytester.path / "notebooks" / "01_cases.ipynb"
    nbformat.write(new_notebook(cells=cells), chapter)
    return chapter


def store_and_change(pytester: pytest.Pytester, cases: dict[str, Case]) -> Path:
    """A chapter with one cell for each case: the outputs of `stored`, and the source `computed`."""
    # Some of the cells raise on purpose.
    tags = {"tags": ["raises-exception"]}
    chapter = project_with(pytester, [new_code_cell(case.stored, metadata=tags) for case in cases.values()])
    assert pytester.run(sys.executable, "-c", STORE, chapter).ret == 0
    notebook = nbformat.read(chapter, as_version=4)
    for cell, (name, case) in zip(notebook.cells, cases.items(), strict=True):
        cell.source = case.computed
        cell.metadata = {"tags": list(case.tags)}
        if name == "outputs stripped":
            cell.outputs, cell.execution_count = [], None
    # No kernel of this name exists; nbval must use the interpreter that runs pytest.
    notebook.metadata.kernelspec = {"name": "elsewhere", "display_name": "", "language": "python"}
    nbformat.write(notebook, chapter)
    return chapter


def test_nbval_passes_and_fails_cell_by_cell(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", FONT_CACHE)
    chapter = store_and_change(pytester, CASES)
    monkeypatch.setenv("VAEBOOK_DATA", "data")
    monkeypatch.setenv("MPLBACKEND", "agg")  # with this backend, kernels would show no pictures
    monkeypatch.setenv("PATH", os.defpath)  # no virtual environment is activated
    # Started in the chapters' folder, pytest must still find the conftest of the root.
    monkeypatch.chdir(chapter.parent)
    report = pytester.path / "report.xml"
    result = pytester.runpytest_subprocess("--nbval", chapter.name, f"--junitxml={report}")
    failures = [cell.findtext("failure") for cell in ET.parse(report).iter("testcase")]
    wrong = {
        name: failure
        for (name, case), failure in zip(CASES.items(), failures, strict=True)
        if bool(case.reason) != bool(failure) or case.reason not in (failure or "")
    }
    assert wrong == {}
    # There were no warnings, and no errors when the kernel ended.
    failed = sum(bool(case.reason) for case in CASES.values())
    result.assert_outcomes(passed=len(CASES) - failed, failed=failed, warnings=0)


def test_a_misspelt_tag_stops_the_run(pytester: pytest.Pytester) -> None:
    chapter = project_with(pytester, [new_code_cell("1", metadata={"tags": ["rtol-wide"]})])
    result = pytester.runpytest_inprocess("--nbval", chapter)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*rtol-wide*such as rtol-0.05*"])
