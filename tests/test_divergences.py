"""The KL in three ways, against torch.distributions and against one another."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from vaebook.divergences import kl_diagonal, kl_monte_carlo, kl_quadrature, kl_to_prior
from vaebook.gaussians import DiagonalGaussian, FullGaussian
from vaebook.quadrature import grid

REACH = {torch.float64: 40.0, torch.float32: 20.0}


def gaussian(mu: list[float], log_sigma: list[float]) -> DiagonalGaussian:
    return DiagonalGaussian(torch.tensor(mu).double(), torch.tensor(log_sigma).double())


def oracle(q: DiagonalGaussian) -> Independent:
    return Independent(Normal(q.mu, q.sigma), 1)


numbers = st.lists(st.floats(-2, 2), min_size=3, max_size=3)


@given(numbers, numbers, numbers, numbers)
def test_closed_forms_agree_with_torch(a: list[float], b: list[float], c: list[float], d: list[float]) -> None:
    q, p = gaussian(a, b), gaussian(c, d)
    torch.testing.assert_close(kl_diagonal(q, p), kl_divergence(oracle(q), oracle(p)))
    standard = gaussian([0.0] * 3, [0.0] * 3)
    torch.testing.assert_close(kl_to_prior(q), kl_divergence(oracle(q), oracle(standard)))


@given(numbers, numbers, st.lists(st.floats(-2, 2), min_size=9, max_size=9))
def test_kl_to_prior_of_a_full_covariance_agrees_with_torch(
    mu: list[float], log_sigma: list[float], below: list[float]
) -> None:
    q = FullGaussian(*(torch.tensor(v).double() for v in (mu, log_sigma)), torch.tensor(below).double().view(3, 3))
    full = MultivariateNormal(q.mu, scale_tril=q.cholesky)
    standard = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    torch.testing.assert_close(kl_to_prior(q), kl_divergence(full, standard))


def test_kl_to_prior_keeps_the_batch_of_full_covariances() -> None:
    below = torch.arange(8.0).view(2, 2, 2)  # 2 and 6 lie below the diagonal
    kl = kl_to_prior(FullGaussian(torch.zeros(2, 2), torch.zeros(2, 2), below))
    torch.testing.assert_close(kl, torch.tensor([2.0, 18.0]))


@given(numbers, numbers, numbers, numbers)
def test_the_kl_is_not_negative_and_zero_for_equal_densities(
    a: list[float], b: list[float], c: list[float], d: list[float]
) -> None:
    q, p = gaussian(a, b), gaussian(c, d)
    assert kl_diagonal(q, p) >= -1e-12
    assert kl_diagonal(q, q) == 0


@pytest.mark.parametrize("m", [1, 2])
def test_quadrature_agrees_with_the_formula(m: int) -> None:
    q, p = gaussian([0.3, -0.5][:m], [-0.4, 0.2][:m]), gaussian([-0.2, 0.1][:m], [0.3, -0.1][:m])
    on = grid(-12, 12, 401, m)
    torch.testing.assert_close(kl_quadrature(q.log_prob, p.log_prob, on), kl_diagonal(q, p))


def test_quadrature_is_right_for_densities_that_underflow() -> None:
    # Far from the means both densities are 0 in float64; 0 · log 0 must count as 0, not as NaN.
    q, p = gaussian([0.0], [-3.0]), gaussian([0.1], [-3.0])
    on = grid(-60, 60, 40_001)
    torch.testing.assert_close(kl_quadrature(q.log_prob, p.log_prob, on), kl_diagonal(q, p))


def test_the_errors_of_monte_carlo_match_its_standard_error() -> None:
    q, p = gaussian([0.3, -0.5], [-0.4, 0.2]), gaussian([-0.2, 0.1], [0.3, -0.1])
    exact = kl_diagonal(q, p).item()
    estimates = [kl_monte_carlo(q, p.log_prob, 2000, torch.Generator().manual_seed(s)) for s in range(200)]
    scores = torch.tensor([e.z_score(exact) for e in estimates])
    assert scores.abs().max() < 5
    assert scores.square().mean().item() == pytest.approx(1, abs=5 * (2 / 200) ** 0.5)


@pytest.mark.parametrize("dtype", REACH)
@pytest.mark.parametrize("side", [-1, 1])
def test_values_and_gradients_are_finite_at_the_ends_of_the_range(dtype: torch.dtype, side: int) -> None:
    mu = torch.zeros(2, dtype=dtype, requires_grad=True)
    log_sigma = torch.full((2,), side * REACH[dtype], dtype=dtype, requires_grad=True)
    q = DiagonalGaussian(mu, log_sigma)
    p = DiagonalGaussian(torch.ones(2, dtype=dtype), -log_sigma.detach())
    for value in (kl_to_prior(q).sum(), kl_diagonal(q, p).sum(), kl_diagonal(p, q).sum()):
        gradients = torch.autograd.grad(value, (mu, log_sigma))
        assert torch.isfinite(value)
        assert all(torch.isfinite(g).all() for g in gradients)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"same dimension m, got 1 \(q\) and 2 \(p\)"):
        kl_diagonal(gaussian([0.0], [0.0]), gaussian([0.0] * 2, [0.0] * 2))
    batch = DiagonalGaussian(torch.zeros(5, 2), torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"one density, of shape \(m,\), got \(5, 2\)"):
        kl_monte_carlo(batch, batch.log_prob, 10)
    with pytest.raises(ValueError, match="n_samples needs to be at least 2 .* got 1"):
        kl_monte_carlo(gaussian([0.0], [0.0]), gaussian([0.0], [0.0]).log_prob, 1)
