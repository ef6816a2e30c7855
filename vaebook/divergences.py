"""The Kullback–Leibler divergence in three ways: closed form, quadrature, Monte Carlo. All in nats."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from vaebook.estimates import Estimate, monte_carlo
from vaebook.gaussians import DiagonalGaussian, FullGaussian
from vaebook.quadrature import Grid, expectation


def kl_to_prior(q: DiagonalGaussian | FullGaussian) -> Tensor:
    r"""D_KL(q ‖ N(0, I_m)), closed form, in nats.

    .. math:: D_{\mathrm{KL}} = \tfrac12 \big( \|\mu\|^2 + \|\sigma\|^2 - 2 \cdot 1^\top \log \sigma - m \big)

    for q = N(μ, diag σ²). A full covariance (diag σ + T)(diag σ + T)ᵀ adds ½ Σ_ij T_ij².

    Shapes: ``q`` holds ``(..., m)``, the result is ``(...)``.

    Source: :eq:`eq-kl-prior` of the book, which omits the factor m that the article "VAE-I basics" has before
    the logarithm; :eq:`eq-kl-prior-full` for a full covariance.

    >>> kl_to_prior(DiagonalGaussian(torch.tensor([1.0, 0.0]), torch.zeros(2)))
    tensor(0.5000)
    """
    mu, log_sigma = q.mu, q.log_sigma
    kl = 0.5 * (mu.square() + (2 * log_sigma).exp() - 2 * log_sigma - 1).sum(-1)  # (..., m) -> (...)
    return kl + 0.5 * q.below.square().sum((-2, -1)) if isinstance(q, FullGaussian) else kl


def kl_diagonal(q: DiagonalGaussian, p: DiagonalGaussian) -> Tensor:
    r"""D_KL(q‖p) of two diagonal Gaussians, closed form, in nats.

    .. math:: D_{\mathrm{KL}} = \sum_j \log \frac{\sigma^p_j}{\sigma^q_j}
              + \tfrac12 \sum_j \Big[ \Big(\frac{\sigma^q_j}{\sigma^p_j}\Big)^2
              + \Big(\frac{\mu^q_j - \mu^p_j}{\sigma^p_j}\Big)^2 - 1 \Big]

    Shapes: ``(..., m)`` each, broadcasting; the result is ``(...)``.

    Raises:
        ValueError: q and p have different dimensions m.

    Source: :eq:`eq-kl-gaussian` of the book.

    >>> narrow = DiagonalGaussian(torch.zeros(1), torch.tensor([-1.0]))
    >>> wide = DiagonalGaussian(torch.zeros(1), torch.tensor([0.0]))
    >>> kl_diagonal(narrow, wide), kl_diagonal(wide, narrow)            # not symmetric
    (tensor(0.5677), tensor(2.1945))
    """
    if q.mu.shape[-1] != p.mu.shape[-1]:
        raise ValueError(f"q and p need the same dimension m, got {q.mu.shape[-1]} (q) and {p.mu.shape[-1]} (p)")
    log_ratio = q.log_sigma - p.log_sigma  # log σ_q/σ_p; exp is taken of this ratio only
    distance = (q.mu - p.mu) * (-p.log_sigma).exp()
    return (0.5 * ((2 * log_ratio).exp() + distance.square() - 1) - log_ratio).sum(-1)  # (..., m) -> (...)


def kl_quadrature(log_q: Callable[[Tensor], Tensor], log_p: Callable[[Tensor], Tensor], on: Grid) -> Tensor:
    r"""D_KL(q‖p) = ∫ q log(q/p) on a grid in 1 or 2 dimensions, in nats, shape ``(...)``.

    Args:
        log_q, log_p: functions from points ``(n^m, m)`` to log densities ``(..., n^m)``, Gaussian or not.
        on: a grid that covers practically all of q's mass.

    Source: :eq:`def-kl` of the book.

    >>> from vaebook.quadrature import grid
    >>> zero = torch.zeros(1, dtype=torch.float64)
    >>> narrow, wide = DiagonalGaussian(zero, zero - 1), DiagonalGaussian(zero, zero)
    >>> kl_quadrature(narrow.log_prob, wide.log_prob, grid(-12, 12, 2001))
    tensor(0.5677, dtype=torch.float64)
    """
    at_q = log_q(on.points)
    return expectation(at_q, at_q - log_p(on.points), on)


def kl_monte_carlo(
    q: DiagonalGaussian, log_p: Callable[[Tensor], Tensor], n_samples: int, generator: Generator | None = None
) -> Estimate:
    r"""D_KL(q‖p) ≈ (1/L) Σ_l [log q(z_l) − log p(z_l)] with z_l ~ q, in nats, with its standard error.

    Args:
        q: one density, of shape ``(m,)``; the samples are drawn from it.
        log_p: a function from samples ``(L, m)`` to log densities ``(L,)``.
        n_samples: L, at least 2.

    Raises:
        ValueError: ``q`` is a batch of densities, or ``n_samples`` is less than 2.

    Source: :eq:`eq-kl-monte-carlo` of the book.

    >>> q, p = (DiagonalGaussian(torch.tensor([mu]), torch.zeros(1)) for mu in (1.0, 0.0))
    >>> abs(kl_monte_carlo(q, p.log_prob, 10_000, torch.Generator().manual_seed(0)).z_score(0.5)) < 4
    True
    """
    if q.mu.ndim != 1:
        raise ValueError(f"q needs to be one density, of shape (m,), got {tuple(q.mu.shape)}; pass one row at a time")
    if n_samples < 2:
        raise ValueError(f"n_samples needs to be at least 2 for a standard error, got {n_samples}")
    with torch.no_grad():
        z = q.rsample((n_samples,), generator)  # (L, m)
        return monte_carlo(q.log_prob(z) - log_p(z))
