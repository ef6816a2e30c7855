"""Quadrature against known integrals."""

import math

import pytest
import torch

from vaebook.quadrature import expectation, grid, log_integral


@pytest.mark.parametrize("m", [1, 2])
def test_gaussian_integral(m: int) -> None:
    on = grid(-10, 10, 101, m)
    log_f = -0.5 * on.points.square().sum(-1)
    assert log_integral(log_f, on).item() == pytest.approx(m / 2 * math.log(2 * math.pi), abs=1e-12)


def test_a_batch_of_integrands_and_large_exponents() -> None:
    on = grid(-10, 10, 101)
    log_f = -0.5 * on.points[:, 0].square() + torch.tensor([[900.0], [-900.0]])  # exp overflows
    expected = torch.tensor([900.0, -900.0]).double() + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(log_integral(log_f, on), expected)


def test_the_points_of_a_plane_are_all_pairs() -> None:
    points = grid(0, 1, 3, m=2).points
    assert {tuple(p) for p in points.tolist()} == {(a, b) for a in (0, 0.5, 1) for b in (0, 0.5, 1)}


def test_expectation_is_weighted_by_the_density() -> None:
    on = grid(-20, 20, 401)
    z = on.points[:, 0]
    log_p = -0.5 * ((z - 1) / 2).square() - 0.5 * math.log(2 * math.pi * 4)  # N(1, 2²)
    assert expectation(log_p, z, on).item() == pytest.approx(1, abs=1e-12)
    assert expectation(log_p, (z - 1).square(), on).item() == pytest.approx(4, abs=1e-12)


def test_expectation_ignores_points_of_zero_density() -> None:
    on = grid(-1, 1, 3)
    log_p = torch.tensor([-math.inf, 0.0, -math.inf]).double()
    f = torch.tensor([math.inf, 2.0, -math.inf]).double()
    assert expectation(log_p, f, on).item() == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1, 1, 5), "low < high"), ((0, 1, 1), "at least 2 points"), ((0, 1, 5, 3), "m needs to be 1 or 2")],
)
def test_errors(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(*arguments)
