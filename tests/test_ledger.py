"""Checks must pass for sides that agree, and fail for sides that differ."""

import json
import subprocess
import sys

import nbformat
import pytest
import sympy
import torch
from nbclient import NotebookClient

from vaebook.estimates import Estimate
from vaebook.ledger import CheckFailed, check, claim, record


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
        "from vaebook.ledger import check, record\n"
        "from vaebook.estimates import Estimate\n"
        "check('eq-a', 1.0, 1.0)\nrecord('kl-x', -1.5, '.2f')\nrecord('kl-y', Estimate(2.0, 0.1))"
    )
    notebook = NotebookClient(nbformat.v4.new_notebook(cells=[cell]), kernel_name="python3").execute()
    shown, x, y = notebook.cells[0].outputs
    assert "{eq}`eq-a`" in shown.data["text/markdown"]
    assert shown.metadata["vaebook"]["check"] == {
        "label": "eq-a", "kind": "exact", "deviation": "0e+00", "tolerance": "1e-10",
    }  # fmt: skip
    assert x.data["application/papermill.record/text/plain"] == "'−1.50'"
    assert x.metadata["scrapbook"] == {"name": "kl-x", "mime_prefix": "application/papermill.record/"}
    assert x.data["application/vnd.vaebook.record+json"] == {"name": "kl-x", "value": -1.5, "stderr": None}
    assert y.data["application/vnd.vaebook.record+json"]["stderr"] == 0.1
    json.dumps(notebook)  # the notebook holds only plain data


def test_importing_the_ledger_does_not_load_sphinx() -> None:
    code = "import sys, vaebook.ledger; sys.exit(any(m in sys.modules for m in ('sphinx', 'myst_nb')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_claim_must_hold_only_with_the_books_settings(capsys: pytest.CaptureFixture[str]) -> None:
    claim("a", True, book=True)
    claim("b", True, book=False)
    claim("c", False, book=False)
    assert capsys.readouterr().out.splitlines() == ["✓ a", "✓ b", "✗ not with these settings: c"]
    with pytest.raises(CheckFailed, match="^d$"):
        claim("d", False, book=True)


@pytest.mark.parametrize(("left", "right"), [([1 + 2j], [1 + 9j]), ([1.0], [1 + 9j]), ([], []), ([], [1.0])])
def test_a_check_of_what_is_no_real_number_is_refused(left: list[complex], right: list[complex]) -> None:
    with pytest.raises(TypeError, match="eq-x: both sides need real numbers"):
        check("eq-x", torch.tensor(left), torch.tensor(right))
