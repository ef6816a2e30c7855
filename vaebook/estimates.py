"""Monte Carlo results: a mean and its standard error."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Estimate(NamedTuple):
    """A Monte Carlo mean and its standard error, both in the unit of the averaged quantity."""

    value: float
    stderr: float

    def z_score(self, truth: float) -> float:
        """How many standard errors the estimate lies above ``truth``.

        >>> Estimate(1.5, 0.25).z_score(1.0)
        2.0
        """
        error = self.value - truth
        if self.stderr == 0:  # all draws were equal: the error is 0 or infinitely many standard errors
            return 0.0 if error == 0 else math.copysign(math.inf, error)
        return error / self.stderr

    def __str__(self) -> str:
        """Value ± standard error, rounded to two digits of the standard error.

        >>> print(Estimate(-12.34567, 0.0123), Estimate(1.23e-6, 4.5e-8))
        -12.346 ± 0.012 (1.230 ± 0.045)e-06
        """
        if not (math.isfinite(self.stderr) and self.stderr > 0):
            return f"{self.value:.4g} ± {self.stderr:.2g}"
        places = max(0, 1 - math.floor(math.log10(self.stderr)))
        if places > 6 and abs(self.value) < 1e-4:
            k = math.floor(math.log10(max(abs(self.value), self.stderr)))
            return f"({self.value / 10**k:.{places + k}f} ± {self.stderr / 10**k:.{places + k}f})e{k:03d}"
        return f"{self.value:.{places}f} ± {self.stderr:.{places}f}"


def effect(rows: Tensor) -> Estimate:
    r"""The mean over trained models and images, with the errors of both, :eq:`eq-running-effect` of the book.

    .. math:: \mathrm{se}^2 = \frac{\operatorname{var}_s \bar\Delta_{s\cdot}}{S}
              + \frac{\operatorname{var}_i \bar\Delta_{\cdot i}}{N}

    Args:
        rows: differences, a row for each model (seed), a column for each image, ``(S, N)``; or one a model, ``(S,)``.

    Raises:
        ValueError: there are fewer than two models, or fewer than two images.

    >>> effect(torch.tensor([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]))
    Estimate(value=2.5, stderr=0.763...)
    """
    rows = rows.to(torch.float64)
    parts = [monte_carlo(rows.mean(axis) if rows.ndim == 2 else rows) for axis in range(rows.ndim)[::-1]]
    return Estimate(parts[0].value, math.hypot(*(part.stderr for part in parts)))


def monte_carlo(samples: Tensor) -> Estimate:
    r"""The mean of independent samples, with its standard error.

    .. math:: \hat I = \frac1L \sum_l f_l, \qquad
              \mathrm{se} = \sqrt{\frac{1}{L (L - 1)} \sum_l (f_l - \hat I)^2}

    Args:
        samples: one number for each independent draw, at least two; a tensor of any shape.

    Raises:
        ValueError: there are fewer than two samples, too few for a standard error.

    Source: :eq:`def-standard-error` of the book.

    >>> monte_carlo(torch.tensor([1.0, 2.0, 3.0]))
    Estimate(value=2.0, stderr=0.577...)
    """
    if samples.is_complex():
        raise ValueError("samples needs real numbers; take the real and the imaginary parts apart")
    if samples.numel() < 2:
        raise ValueError(f"samples needs at least 2 draws for a standard error, got {samples.numel()}")
    draws = samples.detach().double().flatten()
    return Estimate(draws.mean().item(), (draws.std() / math.sqrt(draws.numel())).item())
