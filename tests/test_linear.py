"""The linear model against torch's d × d Gaussian, Bayes' rule, quadrature and autograd."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from vaebook.gaussians import DiagonalGaussian
from vaebook.linear import LinearGaussian, fit_ppca
from vaebook.quadrature import expectation, grid, log_integral


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def model(d: int = 5, m: int = 2, sigma_dec: float = 0.6, seed: int = 0) -> LinearGaussian:
    return LinearGaussian(normal(d, m, seed=seed), normal(d, seed=seed + 1), sigma_dec)


def marginal(p: LinearGaussian) -> MultivariateNormal:
    return MultivariateNormal(p.b, p.W @ p.W.T + p.sigma_dec.square() * torch.eye(p.d).double())


def log_joint(p: LinearGaussian, x: Tensor, z: Tensor) -> Tensor:
    """log p(x, z) = log p(z) + log p(x|z) for one x (d,) and points z (n, m)."""
    prior = DiagonalGaussian(torch.zeros(p.m).double(), torch.zeros(p.m).double())
    return prior.log_prob(z) + DiagonalGaussian(p.b + z @ p.W.T, p.sigma_dec.log()).log_prob(x)


def data(n: int = 200, d: int = 6, seed: int = 0) -> Tensor:
    return normal(n, d, seed=seed) @ normal(d, d, seed=seed + 1) + 3


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 4), st.floats(0.05, 5), st.integers(0, 99))
def test_log_prob_equals_that_of_the_full_gaussian(d: int, m: int, sigma_dec: float, seed: int) -> None:
    p, x = model(d, m, sigma_dec, seed), normal(3, d, seed=seed + 2)
    torch.testing.assert_close(p.log_prob(x), marginal(p).log_prob(x), rtol=1e-9, atol=1e-9)


def test_log_prob_is_accurate_for_a_tiny_sigma_dec() -> None:
    """In the plane of the columns of W, the two large terms of the textbook's formula cancel."""
    p = LinearGaussian(torch.tensor([[1.0], [0.0]]).double(), torch.zeros(2).double(), 1e-8)
    expected = -0.5 * 0.25 - math.log(2 * math.pi) - math.log(1e-8)
    assert p.log_prob(torch.tensor([[0.5, 0.0]]).double()).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("m", [1, 2])
def test_evidence_and_posterior_against_quadrature(m: int) -> None:
    p, x = model(4, m), normal(2, 4, seed=7)
    on = grid(-9, 9, 401, m)
    at = torch.stack([log_joint(p, row, on.points) for row in x])  # (2, n)
    torch.testing.assert_close(p.log_prob(x), log_integral(at, on), rtol=1e-10, atol=1e-10)
    weight = at - p.log_prob(x)[:, None]
    means = torch.stack([expectation(weight, z, on) for z in on.points.T], -1)
    torch.testing.assert_close(p.posterior(x).mean, means, rtol=1e-9, atol=1e-9)
    squares = expectation(weight, on.points[:, -1].square(), on)
    torch.testing.assert_close(p.posterior(x).variance[:, -1], squares - means[:, -1].square())


def test_the_posterior_satisfies_bayes_rule() -> None:
    p, x, z = model(5, 3), normal(4, 5, seed=7), normal(4, 3, seed=8)
    bayes = torch.stack([log_joint(p, x[i], z[i]) for i in range(4)]) - p.log_prob(x)
    torch.testing.assert_close(p.posterior(x).log_prob(z), bayes)


def test_the_gap_of_the_bound_is_the_kl_to_the_posterior() -> None:
    p, x = model(5, 3), normal(4, 5, seed=7)
    q = DiagonalGaussian(normal(4, 3, seed=8), 0.3 * normal(4, 3, seed=9))
    gap = kl_divergence(MultivariateNormal(q.mu, torch.diag_embed(q.sigma.square())), p.posterior(x))
    torch.testing.assert_close(p.elbo(x, q), p.log_prob(x) - gap)


def test_the_best_diagonal_is_a_maximum_of_the_bound() -> None:
    p, x = model(5, 3), normal(4, 5, seed=7)
    best = p.best_diagonal(x)
    mu, log_sigma = best.mu.clone().requires_grad_(), best.log_sigma.clone().requires_grad_()
    bound = p.elbo(x, DiagonalGaussian(mu, log_sigma))
    for gradient in torch.autograd.grad(bound.sum(), [mu, log_sigma]):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    other = DiagonalGaussian(mu + 0.1 * normal(4, 3), log_sigma + 0.1 * normal(4, 3, seed=3))
    assert (p.elbo(x, other) < bound).all()
    assert (bound < p.log_prob(x) - 1e-3).all()  # the columns of W are not orthogonal


def test_orthogonal_columns_close_the_gap() -> None:
    p, x = model(5, 3), normal(4, 5, seed=7)
    U, S, _ = torch.linalg.svd(p.W, full_matrices=False)
    turned = LinearGaussian(U * S, p.b, p.sigma_dec)
    torch.testing.assert_close(turned.elbo(x, turned.best_diagonal(x)), p.log_prob(x))


@pytest.mark.parametrize("sigma_dec", [None, 0.8])
def test_the_fit_is_a_maximum_of_the_likelihood(sigma_dec: float | None) -> None:
    x = data()
    p = fit_ppca(x, 2, sigma_dec)
    W, b, sigma = (t.clone().requires_grad_() for t in (p.W, p.b, p.sigma_dec))
    mean = LinearGaussian(W, b, sigma).log_prob(x).mean()
    free = [W, b, sigma] if sigma_dec is None else [W, b]
    for gradient in torch.autograd.grad(mean, free):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    for seed in range(20):
        noise = 0.1 * normal(6, 2, seed=seed)
        assert LinearGaussian(p.W + noise, p.b, p.sigma_dec).log_prob(x).mean() < mean


def test_the_fit_has_the_variances_of_the_data() -> None:
    x = data()
    p = fit_ppca(x, 2)
    values = torch.linalg.svdvals(x - x.mean(0)).square() / len(x)  # the eigenvalues, computed in another way
    torch.testing.assert_close(p.sigma_dec.square(), values[2:].mean())
    torch.testing.assert_close(torch.linalg.eigvalsh(p.M).flip(0), values[:2])


def test_axes_with_less_variance_than_sigma_dec_get_a_zero_column() -> None:
    x = data()
    values = torch.linalg.eigvalsh(x.T.cov(correction=0)).flip(0)
    p = fit_ppca(x, 4, sigma_dec=(values[1] * values[2]).sqrt().sqrt().item())
    assert (p.W.norm(dim=0) > 0).tolist() == [True, True, False, False]
    assert fit_ppca(x, 2, sigma_dec=0.1).sigma_dec.item() == pytest.approx(0.1, rel=1e-15)  # kept in float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearGaussian(torch.ones(3), torch.ones(3), 1.0), r"W needs shape \(d, m\), got \(3,\)"),
        (lambda: LinearGaussian(torch.ones(3, 1), torch.ones(2), 1.0), r"b needs shape \(3,\)"),
        (
            lambda: LinearGaussian(torch.ones(3, 1), torch.ones(3), 0.0),
            "sigma_dec needs to be above 0, got 0.0",
        ),
        (lambda: model().log_prob(torch.ones(4, 3).double()), r"x needs shape \(B, 5\), got \(4, 3\)"),
        (lambda: fit_ppca(data(), 6), "1 <= m < d"),
        (lambda: fit_ppca(normal(20, 1) @ torch.ones(1, 4).double(), 2), "lower m, or give sigma_dec"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
