"""The Gaussians against torch.distributions, and at the ends of their range."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch.distributions import Independent, MultivariateNormal, Normal

from vaebook.estimates import monte_carlo
from vaebook.gaussians import DiagonalGaussian, FullGaussian
from vaebook.quadrature import grid, log_integral

REACH = {torch.float64: 40.0, torch.float32: 20.0}


def random_gaussian(*shape: int, seed: int = 0) -> tuple[DiagonalGaussian, Independent]:
    g = torch.Generator().manual_seed(seed)
    mu, log_sigma = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    return DiagonalGaussian(mu, log_sigma), Independent(Normal(mu, log_sigma.exp()), 1)


def test_log_prob_and_entropy_agree_with_torch() -> None:
    q, oracle = random_gaussian(5, 3)
    z = torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(q.log_prob(z), oracle.log_prob(z))
    torch.testing.assert_close(q.entropy(), oracle.entropy())
    torch.testing.assert_close(q.mean, oracle.mean)
    torch.testing.assert_close(q.sigma, oracle.stddev)


@given(st.floats(-3, 3), st.floats(-2, 1.5))
def test_density_integrates_to_one(mu: float, log_sigma: float) -> None:
    q = DiagonalGaussian(torch.tensor([mu]).double(), torch.tensor([log_sigma]).double())
    on = grid(mu - 40, mu + 40, 4001)
    assert log_integral(q.log_prob(on.points), on).item() == pytest.approx(0, abs=1e-10)


def test_samples_have_the_moments_of_the_density() -> None:
    q, oracle = random_gaussian(3)
    z = q.rsample((200_000,), torch.Generator().manual_seed(0))
    for j in range(3):
        assert abs(monte_carlo(z[:, j]).z_score(oracle.mean[j].item())) < 5
        assert abs(monte_carlo((z[:, j] - oracle.mean[j]) ** 2).z_score(oracle.variance[j].item())) < 5


def test_rsample_is_differentiable() -> None:
    mu = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    log_sigma = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)

    def draw(mu: torch.Tensor, log_sigma: torch.Tensor) -> torch.Tensor:
        return DiagonalGaussian(mu, log_sigma).rsample((3,), torch.Generator().manual_seed(0))

    assert torch.autograd.gradcheck(draw, (mu, log_sigma))  # finite differences with the same noise


def test_rsample_does_not_use_the_global_generator() -> None:
    before = torch.get_rng_state()
    random_gaussian(3)[0].rsample((5,), torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", REACH)
@pytest.mark.parametrize("side", [-1, 1])
def test_values_and_gradients_are_finite_at_the_ends_of_the_range(dtype: torch.dtype, side: int) -> None:
    mu = torch.tensor([0.5, -1.0], dtype=dtype, requires_grad=True)
    log_sigma = torch.full((2,), side * REACH[dtype], dtype=dtype, requires_grad=True)
    q = DiagonalGaussian(mu, log_sigma)
    z = q.rsample((4,), torch.Generator().manual_seed(0))
    for value in (z.sum(), q.log_prob(z).sum(), q.log_prob(torch.zeros(2, dtype=dtype)), q.entropy()):
        gradients = torch.autograd.grad(value, (mu, log_sigma), retain_graph=True, allow_unused=True)
        assert torch.isfinite(value)
        assert all(torch.isfinite(g).all() for g in gradients if g is not None)
    # The entropy is not only finite, but accurate.
    expected = 2 * (side * REACH[dtype] + 0.5 * (1 + math.log(2 * math.pi)))
    assert q.entropy().item() == pytest.approx(expected, rel=1e-6)


def test_a_scalar_log_sigma_is_one_width_for_all() -> None:
    mu = torch.zeros(7, 3)
    assert DiagonalGaussian(mu, torch.tensor(0.5)).log_sigma.shape == (7, 3)


@pytest.mark.parametrize(
    ("mu", "log_sigma", "error", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 4), ValueError, r"log_sigma .* \(3, 2\), got \(3, 4\)"),
        (torch.zeros(()), torch.zeros(()), ValueError, "mu needs at least one axis"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2), TypeError, "mu needs a floating-point tensor"),
        (torch.zeros(2), torch.zeros(2).double(), TypeError, "mu and log_sigma need the same type"),
    ],
)
def test_errors(mu: torch.Tensor, log_sigma: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DiagonalGaussian(mu, log_sigma)


def random_full(*shape: int, seed: int = 0) -> tuple[FullGaussian, MultivariateNormal]:
    g = torch.Generator().manual_seed(seed)
    mu, log_sigma = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    below = torch.randn(*shape, shape[-1], generator=g, dtype=torch.float64)
    factor = below.tril(-1) + torch.diag_embed(log_sigma.exp())
    return FullGaussian(mu, log_sigma, below), MultivariateNormal(mu, scale_tril=factor)


def test_full_covariance_agrees_with_torch() -> None:
    q, oracle = random_full(5, 3)
    z = torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(q.log_prob(z), oracle.log_prob(z))
    torch.testing.assert_close(q.entropy(), oracle.entropy())
    torch.testing.assert_close(q.mean, oracle.mean)
    torch.testing.assert_close(q.covariance, oracle.covariance_matrix)


def test_samples_of_a_full_gaussian_have_its_moments() -> None:
    q, oracle = random_full(3)
    z = q.rsample((200_000,), torch.Generator().manual_seed(0)) - oracle.mean
    for j in range(3):
        assert abs(monte_carlo(z[:, j]).z_score(0)) < 5
        for k in range(3):
            assert abs(monte_carlo(z[:, j] * z[:, k]).z_score(oracle.covariance_matrix[j, k].item())) < 5


def test_rsample_of_a_full_gaussian_is_differentiable() -> None:
    q, _ = random_full(2, 3)
    tensors = tuple(t.clone().requires_grad_() for t in (q.mu, q.log_sigma, q.below))

    def draw(*tensors: torch.Tensor) -> torch.Tensor:
        return FullGaussian(*tensors).rsample((2,), torch.Generator().manual_seed(0))

    assert torch.autograd.gradcheck(draw, tensors)


def test_a_full_gaussian_with_zeros_below_the_diagonal_is_diagonal() -> None:
    q, _ = random_gaussian(5, 3)
    full = FullGaussian(q.mu, q.log_sigma, torch.ones(5, 3, 3, dtype=torch.float64).triu())
    z = torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(full.log_prob(z), q.log_prob(z))
    seeds = (torch.Generator().manual_seed(2) for _ in range(2))
    torch.testing.assert_close(full.rsample((4,), next(seeds)), q.rsample((4,), next(seeds)))


@pytest.mark.parametrize(
    ("below", "message"),
    [
        (torch.zeros(3, 2), r"below needs shape \(3, 2, 2\) .* got \(3, 2\)"),
        (torch.zeros(3, 2, 2).double(), "below needs .* type torch.float32"),
    ],
)
def test_errors_of_a_full_gaussian(below: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FullGaussian(torch.zeros(3, 2), torch.zeros(3, 2), below)
