"""Integrals over R and R² to nearly machine precision, with which the book compares sampled estimates.

They use the trapezoidal rule on an even grid. For smooth integrands that vanish at both ends, its error
falls faster than any power of the step (Trefethen and Weideman 2014).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """Points z, shape ``(n^m, m)``, and the logarithm of the volume of one grid cell, shape ``()``."""

    points: Tensor
    log_volume: Tensor


def grid(low: float, high: float, n: int, m: int = 1) -> Grid:
    """An even grid on the cube [low, high]^m, in float64, with n points along each of m = 1 or 2 axes.

    Raises:
        ValueError: the interval is empty, n is less than 2, or m is neither 1 nor 2.

    Source: :eq:`def-quadrature` of the book.

    >>> grid(-1, 1, 3).points.flatten()
    tensor([-1.,  0.,  1.], dtype=torch.float64)
    >>> grid(-1, 1, 3, m=2).points.shape
    torch.Size([9, 2])
    """
    if not low < high:
        raise ValueError(f"low and high need low < high, got {low} and {high}")
    if n < 2:
        raise ValueError(f"n needs at least 2 points along an axis, got {n}")
    if m not in (1, 2):
        # A fine grid in 3 dimensions has too many points, n³. Chapter 3 shows this.
        raise ValueError(f"m needs to be 1 or 2, got {m}; use Monte Carlo in higher dimensions")
    axis = torch.linspace(low, high, n, dtype=torch.float64)
    points = torch.cartesian_prod(*[axis] * m).reshape(-1, m)  # (n,) m times -> (n^m, m)
    step = (high - low) / (n - 1)
    return Grid(points, torch.tensor(m * math.log(step), dtype=torch.float64))


def log_integral(log_f: Tensor, on: Grid) -> Tensor:
    r"""log ∫ f(z) dz from the values of log f on a grid, computed without overflow; shape ``(...)``.

    .. math:: \log \int f(z)\, dz \approx \operatorname{logsumexp}_k \log f(z_k) + \log \Delta^m

    Args:
        log_f: log f at ``on.points``, shape ``(..., n^m)``.
        on: the grid; f must be negligible at its edges, whose points have weight 1 here, not ½.

    >>> g = grid(-10, 10, 101)
    >>> log_integral(-0.5 * g.points[:, 0] ** 2, g)                     # log sqrt(2π) = 0.9189...
    tensor(0.9189, dtype=torch.float64)
    """
    return log_f.logsumexp(-1) + on.log_volume  # (..., n^m) -> (...)


def expectation(log_p: Tensor, f: Tensor, on: Grid) -> Tensor:
    """∫ p(z) f(z) dz from log p and f on a grid; shapes ``(..., n^m)`` to ``(...)``.

    Where p underflows to 0, f contributes nothing, even if it is infinite (0 · log 0 = 0).

    >>> g = grid(-10, 10, 101)
    >>> z = g.points[:, 0]
    >>> expectation(-0.5 * z**2 - 0.9189385332046727, z**2, g)          # the variance of N(0, 1)
    tensor(1., dtype=torch.float64)
    """
    weight = (log_p + on.log_volume).exp()
    return torch.where(weight > 0, weight * f, torch.zeros_like(weight)).sum(-1)  # (..., n^m) -> (...)
