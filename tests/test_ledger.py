"""Checks must pass for sides that agree, and fail for sides that differ."""

import json
import subprocess
import sys

import nbformat
import pytest
import sympy
import torch
from nbclient import NotebookClient
from outputs import EXACT, compare_text

from vaebook import ledger
from vaebook.estimates import Estimate
from vaebook.ledger import CheckFailed, check, claim, record, written


def test_equal_sides_pass_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    check("eq-a", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0 + 1e-13]).double())
    check("eq-b", 0.1 + 0.2, 0.3, kind="quadrature")
    x = sympy.symbols("x")
    check("eq-c", (x + 1) ** 2, x**2 + 2 * x + 1)
    check("eq-d", Estimate(1.02, 0.01), 1.0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "✓ eq-a: exact", "✓ eq-b: quadrature", "✓ eq-c: symbolic", "✓ eq-d: Monte Carlo",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("left", "right", "options"),
    [
        (1.0, 1.0 + 1e-9, {}),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1]), {}),
        (1.0, 1.0 + 1e-7, {"kind": "quadrature"}),
        (1.0, 1.2, {"tolerance": 0.1}),
        (torch.tensor([1.0, 1.15]), torch.ones(2), {"tolerance": 0.1}),
        (float("nan"), 0.0, {}),
        (float("nan"), float("nan"), {}),
        (0.0, float("nan"), {"relation": "<="}),
        (2.0, 1.0, {"relation": "<="}),
        (1.0, 2.0, {"relation": ">="}),
        (Estimate(1.06, 0.01), 1.0, {}),
        (Estimate(0.94, 0.01), 1.0, {}),
        (Estimate(1.06, 0.01), 1.0, {"relation": "<="}),
        (Estimate(float("nan"), 0.01), 1.0, {}),
        (Estimate(1.0, float("inf")), 1.0, {}),
        (Estimate(1.0, 0.0), 2.0, {}),
        (sympy.Symbol("x"), sympy.Symbol("y"), {}),
    ],
)
def test_unequal_sides_raise_an_error_that_shows_both(left: object, right: object, options: dict[str, object]) -> None:
    with pytest.raises(CheckFailed, match=r"(?s)eq-a: .*left: .*right: "):
        check("eq-a", left, right, **options)


def test_a_bound_is_checked_on_one_side_only() -> None:
    check("eq-a", 1.0, 2.0, relation="<=")
    check("eq-a", 2.0, 1.0, relation=">=")
    check("eq-a", Estimate(0.5, 0.01), 1.0, relation="<=")


def shown(capsys: pytest.CaptureFixture[str], left: object, right: object, **options: object) -> str:
    check("eq-a", left, right, **options)
    return capsys.readouterr().out.replace("\u00a0", " ").strip().removeprefix("✓ eq-a: ")


@pytest.mark.parametrize(
    ("left", "right", "relation", "line"),
    [
        (0.1 + 0.2, 0.3, "=", "exact, deviation 6 · 10⁻¹⁷, tolerance 10⁻¹⁰"),
        (0.5, 0.5, "=", "exact, deviation 0, tolerance 10⁻¹⁰"),
        (Estimate(1.234, 0.005), 1.236, "=", "Monte Carlo, 1.2340 ± 0.0050 against 1.236, 0.4 standard errors apart"),
        (Estimate(-0.05, 0.011), -0.0499, "=", "Monte Carlo, −0.050 ± 0.011 against −0.0499, 0.0 standard errors apart"),
        (Estimate(0.0068, 0.0002), 0.0759, "<=", "Monte Carlo, 0.00680 ± 0.00020 ≤ 0.0759"),
        (Estimate(0.000063, 0.0000066), 6.675661e-5, "=", "Monte Carlo, (6.30 ± 0.66) · 10⁻⁵ against 0.0000667566, 0.6 standard errors apart"),
        (Estimate(1.2e6, 1e5), 1.25e6, "=", "Monte Carlo, 1200000 ± 100000 against 1250000, 0.5 standard errors apart"),
        (6e-5, 0.0, ">=", "exact, 6 · 10⁻⁵ ≥ 0, tolerance 10⁻¹⁰"),
        (Estimate(1.01, 0.01), 1.0, "<=", "Monte Carlo, 1.010 ± 0.010 ≤ 1 up to 1.0 standard errors"),
        (Estimate(0.99, 0.01), 1.0, ">=", "Monte Carlo, 0.990 ± 0.010 ≥ 1 up to 1.0 standard errors"),
        (1.23456, 1.5, "<=", "exact, 1.23456 ≤ 1.5, tolerance 10⁻¹⁰"),
        (-1.8e-18, 0.0, ">=", "exact, 0 ≥ 0, tolerance 10⁻¹⁰"),
        (torch.tensor([0.0, 1.0]), torch.tensor([0.25, 4.0]), "<=", "exact, left ≤ right, least margin 0.25 over 2 entries, tolerance 10⁻¹⁰"),
        (torch.tensor([9.0, 1.0]), torch.tensor([0.0, 1.0]), ">=", "exact, left ≥ right, least margin 0 over 2 entries, tolerance 10⁻¹⁰"),
        (torch.ones(1500), torch.tensor(0.0), ">=", "exact, left ≥ right, least margin 1 over 1,500 entries, tolerance 10⁻¹⁰"),
        (torch.ones(2), torch.full((2,), 1 - 1e-15, dtype=torch.float64), "<=", "exact, left ≤ right, least margin 0 over 2 entries, tolerance 10⁻¹⁰"),
    ],
)  # fmt: skip
def test_a_line_says_what_was_compared(
    capsys: pytest.CaptureFixture[str], left: object, right: object, relation: str, line: str
) -> None:
    assert shown(capsys, left, right, relation=relation) == line


def test_the_deviation_is_relative_to_the_right_side_where_that_is_large(capsys: pytest.CaptureFixture[str]) -> None:
    assert "deviation 0.5," in shown(capsys, torch.tensor([1.0, 150.0]), torch.tensor([1.2, 100.0]), tolerance=0.6)


def test_a_bound_that_rounding_breaks_is_shown_in_the_same_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Which side of 0 the margin falls on depends on the processor: the stored line has to agree with both.

    A margin below 0, which the tolerance allows, is shown as 0: a reader would take the minus sign for a failure.
    """
    lines = [
        shown(capsys, torch.tensor([1.0 + noise, 2.0], dtype=torch.float64), torch.tensor([1.0, 3.0]), relation="<=")
        for noise in (-4e-10, 0.0, 7e-16)
    ]
    assert lines[0] != lines[1] == lines[2]
    assert "least margin 0 over" in lines[2]
    with pytest.raises(CheckFailed, match="least margin −0.5 over"):
        check("eq-bound", torch.tensor([1.5, 2.0]), torch.tensor([1.0, 3.0]), relation="<=")
    assert all(compare_text(lines[0], line, EXACT) == [] for line in lines)
    assert compare_text(lines[0], shown(capsys, torch.zeros(2), torch.ones(2), relation="<="), EXACT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6e-17", "6 · 10⁻¹⁷"),
        ("1e-13", "10⁻¹³"),
        ("-1e-13", "−10⁻¹³"),
        ("1.5e+06", "1.5 · 10⁶"),
        ("11e-03", "11 · 10⁻³"),
        ("0e+00", "0"),
        ("3e+00", "3"),
        ("1.0e-100 and 1e-10", "1.0 · 10⁻¹⁰⁰ and 10⁻¹⁰"),
        ("1e-10 and 1e-100", "10⁻¹⁰ and 10⁻¹⁰⁰"),
        ("-0.05 ± 0.01", "−0.05 ± 0.01"),
        ("+1.25", "+1.25"),
    ],
)
def test_numbers_are_written_as_a_mathematician_does(text: str, expected: str) -> None:
    assert written(text).replace("\u00a0", " ") == expected


def test_a_recorded_number_is_written_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    record("kl-x", -5e-14, ".0e")
    record("kl-y", 0.0, ".0e")
    assert capsys.readouterr().out.replace("\u00a0", " ").splitlines() == ["kl-x = −5 · 10⁻¹⁴", "kl-y = 0"]


def test_sides_of_different_shape_do_not_pass_by_broadcasting() -> None:
    with pytest.raises(CheckFailed, match="shape"):
        check("eq-a", torch.zeros(3), torch.zeros(3, 1))


def test_the_message_shows_the_entry_that_differs_most() -> None:
    left, right = torch.zeros(3, 4), torch.zeros(3, 4)
    left[1, 2], left[2, 0] = 0.5, 0.25
    with pytest.raises(CheckFailed, match=r"left:  0\.5\nright: 0\.0"):
        check("eq-a", left, right)


def test_record_refuses_values_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="'kl-x' needs to be finite, got nan"):
        record("kl-x", float("nan"))


def test_check_and_record_write_outputs_for_the_book_in_a_notebook() -> None:
    cell = nbformat.v4.new_code_cell(
        "from vaebook.ledger import check, claim, record\n"
        "from vaebook.estimates import Estimate\n"
        "check('eq-a', 1.0, 1.0)\nrecord('kl-x', -1.5, '.2f')\nrecord('kl-y', Estimate(2.0, 0.1))\n"
        "record('kl-z', 5e-14, '.0e')\ncheck('eq-b', Estimate(0.0068, 0.0002), 0.0759, relation='<=')\n"
        "claim('a < b', Estimate(2.0, 0.1), book=True)"
    )
    notebook = NotebookClient(nbformat.v4.new_notebook(cells=[cell]), kernel_name="python3").execute()
    shown, x, y, z, bound, claimed = notebook.cells[0].outputs
    assert "{eq}`eq-a`" in shown.data["text/markdown"]
    assert shown.metadata["vaebook"]["check"] == {
        "label": "eq-a", "kind": "exact", "found": "deviation 0, tolerance 10⁻¹⁰", "resolution": pytest.approx(1e-8),
    }  # fmt: skip
    assert x.data["application/papermill.record/text/plain"] == "'−1.50'"
    assert x.metadata["scrapbook"] == {"name": "kl-x", "mime_prefix": "application/papermill.record/"}
    assert x.data["application/vnd.vaebook.record+json"] == {"name": "kl-x", "value": -1.5, "stderr": None}
    assert y.data["application/vnd.vaebook.record+json"]["stderr"] == 0.1
    # Not escaped: its comparison with a stored one has to find a number.
    assert z.data["application/papermill.record/text/plain"] == "'5\u00a0·\u00a010⁻¹⁴'"
    assert bound.data["text/plain"] == "✓ eq-b: Monte Carlo, 0.00680 ± 0.00020 ≤ 0.0759"
    assert bound.data["text/markdown"].endswith("{eq}`eq-b` · Monte Carlo, 0.00680 ± 0.00020 ≤ 0.0759")
    assert bound.data["text/html"].endswith("<code>eq-b</code> · Monte Carlo, 0.00680 ± 0.00020 ≤ 0.0759")
    assert claimed.metadata["vaebook"]["claim"] == {"claim": "a < b", "holds": True, "found": "2.00 ± 0.10 > 0"}
    assert claimed.data["text/markdown"] == "✓ a < b: 2.00 ± 0.10 > 0"
    assert claimed.data["text/html"] == "✓ a &lt; b: 2.00 ± 0.10 &gt; 0"
    json.dumps(notebook)  # the notebook holds only plain data


def test_importing_the_ledger_does_not_load_sphinx() -> None:
    code = "import sys, vaebook.ledger; sys.exit(any(m in sys.modules for m in ('sphinx', 'myst_nb')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


ROWS = torch.tensor([[1.0, 1.2, 1.1], [0.8, 1.0, 0.9]])


def test_a_claim_must_hold_only_with_the_books_settings(capsys: pytest.CaptureFixture[str]) -> None:
    claim("a", ROWS, book=True)
    claim("b", -ROWS, book=False)
    claim("c", ROWS[:, 0], book=True, above=0.5)
    claim("d", Estimate(-0.25, 0.01), book=True, within=0.3)
    claim("e", ROWS, book=True, above=0.6)
    claim("f", -ROWS, book=True, within=1.4)
    assert capsys.readouterr().out.splitlines() == [
        "✓ a: 1.00 ± 0.12 > 0 (2 seeds, 3 images)",
        "✗ not with these settings: b: −1.00 ± 0.12 > 0 (2 seeds, 3 images)",
        "✓ c: 0.900 ± 0.100 > 0.5 (2 seeds)",
        "✓ d: |−0.250 ± 0.010| < 0.3",
        "✓ e: 1.00 ± 0.12 > 0.6 (2 seeds, 3 images)",
        "✓ f: |−1.00 ± 0.12| < 1.4 (2 seeds, 3 images)",
    ]


@pytest.mark.parametrize(
    ("rows", "margin"),
    [
        (ROWS, {"above": 0.7}),
        (-ROWS, {}),
        (ROWS, {"within": 1.3}),
        (-ROWS, {"within": 1.3}),
        (torch.full((2, 3), float("nan")), {}),
        (torch.full((2, 3), float("nan")), {"within": 1.0}),
    ],
)
def test_a_claim_without_a_margin_of_three_standard_errors_fails(rows: torch.Tensor, margin: dict[str, float]) -> None:
    with pytest.raises(CheckFailed, match="^e: "):
        claim("e", rows, book=True, **margin)


def test_one_seed_makes_no_claim() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        claim("a", ROWS[:1], book=True)


@pytest.mark.parametrize(
    ("left", "right", "options", "per_cent"),
    [
        (Estimate(1.0, 0.01), 1.0, {}, 5.0),
        (Estimate(-2.0, 0.01), -2.0, {}, 2.5),
        (Estimate(0.5, 0.01), 1.0, {"relation": "<="}, 55.0),
        (Estimate(0.0, 0.01), 0.0, {}, None),
        (2.0, 2.0, {}, 1e-8),
        (0.5, 0.5, {"tolerance": 1e-3}, 0.2),
        (torch.tensor([1.0, 4.0]), torch.tensor([1.0, 4.0]), {"tolerance": 1e-3}, 0.1),
        (torch.tensor([0.0, 0.5]), torch.tensor([0.0, 0.5]), {"tolerance": 1e-3}, 0.2),
        (torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0]), {"relation": "<=", "tolerance": 1e-3}, 25.1),
        (torch.tensor([3.0, 4.0]), torch.tensor([2.0, 4.0]), {"relation": ">=", "tolerance": 1e-3}, 0.1),
        (0.0, 0.0, {}, None),
    ],
)
def test_a_check_says_what_it_would_have_noticed(
    monkeypatch: pytest.MonkeyPatch, left: object, right: object, options: dict[str, object], per_cent: float | None
) -> None:
    """A right-hand side changed by a little more than that makes it fail."""
    data: list[dict[str, object]] = []
    monkeypatch.setattr(ledger, "show", lambda label, line, found: data.append(found))
    check("eq-a", left, right, **options)
    assert data[0]["resolution"] == (None if per_cent is None else pytest.approx(per_cent, rel=1e-6))
    for sign in (-1, 1):
        if per_cent is None or (sign == 1) == (options.get("relation") == "<="):
            continue
        with pytest.raises(CheckFailed):
            check("eq-a", left, right * (1 + sign * 1.3 * per_cent / 100), **options)


@pytest.mark.parametrize(("left", "right"), [([1 + 2j], [1 + 9j]), ([1.0], [1 + 9j]), ([], []), ([], [1.0])])
def test_a_check_of_what_is_no_real_number_is_refused(left: list[complex], right: list[complex]) -> None:
    with pytest.raises(TypeError, match="eq-x: both sides need real numbers"):
        check("eq-x", torch.tensor(left), torch.tensor(right))
