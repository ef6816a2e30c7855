"""The bound and the loss against the article's formulas, written with torch.distributions."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from vaebook.estimates import monte_carlo
from vaebook.gaussians import FullGaussian
from vaebook.linear import LinearGaussian
from vaebook.models import VAE, AutoEncoder, BernoulliDecoder, Encoder, GaussianDecoder, mlp, mlp_vae, seeded
from vaebook.objectives import (
    binarised,
    elbo,
    elbo_from_loss,
    importance_weighted_bound,
    log_weights,
    negative_elbo,
    negative_importance_bound,
    practical_loss,
    reconstruction_loss,
)

D, M, B = 12, 3, 5


def model(sigma_dec: float = 0.3, d: int = D, m: int = M) -> VAE:
    return mlp_vae(d, m, hidden=(7,), sigma_dec=sigma_dec).double()


def data(d: int = D) -> torch.Tensor:
    return torch.rand(B, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def noise(n_samples: int, m: int = M) -> torch.Tensor:
    """The first ε from a generator with seed 0."""
    return torch.randn(n_samples, B, m, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n_samples", [1, 4])
def test_elbo_against_torch_distributions(n_samples: int) -> None:
    vae, x = model(), data()
    mu, log_sigma = vae.encoder.network(x).chunk(2, -1)
    z = mu + log_sigma.exp() * noise(n_samples)
    likelihood = Independent(Normal(vae.decoder.network(z), 0.3), 1).log_prob(x).mean(0)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    expected = likelihood - kl_divergence(Independent(Normal(mu, log_sigma.exp()), 1), prior)
    torch.testing.assert_close(elbo(vae, x, n_samples, torch.Generator().manual_seed(0)), expected)
    terms = negative_elbo(vae, x, n_samples, torch.Generator().manual_seed(0))
    torch.testing.assert_close(terms.reconstruction, -likelihood)
    torch.testing.assert_close(terms.elbo, expected)


def test_loss_term_by_term() -> None:
    vae, x = model(sigma_dec=0.5), data()
    terms = practical_loss(vae, x, 2, torch.Generator().manual_seed(0))
    epsilon = noise(2)
    for i in range(B):  # the article's sums, written as loops
        mu, log_sigma = vae.encoder.network(x[i]).chunk(2, -1)
        kl = 0.25 * sum(mu[j] ** 2 + log_sigma[j].exp() ** 2 - 2 * log_sigma[j] for j in range(M))
        f = [vae.decoder.network(mu + log_sigma.exp() * epsilon[k, i]) for k in range(2)]
        reconstruction = sum(sum((x[i, k] - f_l[k]) ** 2 for k in range(D)) for f_l in f) / 2
        torch.testing.assert_close(terms.kl[i], kl)
        torch.testing.assert_close(terms.reconstruction[i], reconstruction)


@given(st.floats(0.01, 10), st.integers(1, 8), st.integers(1, 3))
def test_the_exact_relation_of_loss_and_bound(sigma_dec: float, m: int, n_samples: int) -> None:
    vae, x = model(sigma_dec, m=m), data()
    sigma_dec = vae.decoder.sigma_dec  # rounded, because the model was created in float32
    terms = practical_loss(vae, x, n_samples, torch.Generator().manual_seed(0))
    bound = elbo(vae, x, n_samples, torch.Generator().manual_seed(0))
    loss = terms.reconstruction + terms.kl
    variance = sigma_dec**2
    constant = variance * (m - D * math.log(2 * math.pi * variance))
    torch.testing.assert_close(loss, -2 * variance * bound + constant)
    torch.testing.assert_close(elbo_from_loss(loss, sigma_dec, D, m), bound)
    torch.testing.assert_close(terms.elbo, bound)


def test_gradients_of_the_loss_are_proportional_to_those_of_the_bound() -> None:
    vae, x = model(sigma_dec=0.4), data()
    weights = list(vae.parameters())
    loss = practical_loss(vae, x, 1, torch.Generator().manual_seed(0))
    of_loss = torch.autograd.grad((loss.reconstruction + loss.kl).sum(), weights)
    of_bound = torch.autograd.grad(elbo(vae, x, 1, torch.Generator().manual_seed(0)).sum(), weights)
    for a, b in zip(of_loss, of_bound, strict=True):
        torch.testing.assert_close(a, -2 * 0.4**2 * b)


def test_finite_differences_agree_with_autograd() -> None:
    vae, x = model(), data()

    def bound(*weights: torch.Tensor) -> torch.Tensor:
        named = dict(zip(dict(vae.named_parameters()), weights, strict=True))
        return torch.func.functional_call(_Bound(vae), {f"vae.{k}": v for k, v in named.items()}, (x,))

    weights = tuple(w.detach().clone().requires_grad_() for w in vae.parameters())
    assert torch.autograd.gradcheck(bound, weights)


class _Bound(torch.nn.Module):
    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return elbo(self.vae, x, 2, torch.Generator().manual_seed(0))


def test_the_kl_of_the_loss_is_minimal_at_the_prior() -> None:
    vae = model(sigma_dec=0.5)
    torch.nn.init.zeros_(vae.encoder.network[-1].weight)
    torch.nn.init.zeros_(vae.encoder.network[-1].bias)  # μ = 0, log σ = 0
    torch.testing.assert_close(practical_loss(vae, data()).kl, torch.full((B,), 0.25 * M).double())


def test_a_bernoulli_decoder_has_the_loss_negative_elbo_but_not_practical_loss() -> None:
    with seeded(0):
        vae = VAE(Encoder(mlp(D, 2 * M)), BernoulliDecoder(mlp(M, D)), D, M).double()
    x = (data() < 0.5).double()
    terms = negative_elbo(vae, x, 1, torch.Generator().manual_seed(0))
    mu, log_sigma = vae.encoder.network(x).chunk(2, -1)
    logits = vae.decoder.network(mu + log_sigma.exp() * noise(1)[0])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    torch.testing.assert_close(terms.reconstruction, expected)
    with pytest.raises(TypeError, match="needs a GaussianDecoder for J, got BernoulliDecoder; use negative_elbo"):
        practical_loss(vae, x)


def test_the_importance_weighted_loss_against_torch_distributions() -> None:
    vae, x = model(), data()
    mu, log_sigma = vae.encoder.network(x).chunk(2, -1)
    z = mu + log_sigma.exp() * noise(4)
    likelihood = Independent(Normal(vae.decoder.network(z), 0.3), 1).log_prob(x)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1).log_prob(z)
    q = Independent(Normal(mu, log_sigma.exp()), 1).log_prob(z)
    terms = negative_importance_bound(vae, x, 4, torch.Generator().manual_seed(0))
    expected = (likelihood + prior - q).exp().mean(0).log()
    torch.testing.assert_close(terms.elbo, expected)
    torch.testing.assert_close(terms.reconstruction, -likelihood.mean(0))
    torch.testing.assert_close(terms.reconstruction + terms.kl, -expected)


def test_a_binarised_loss_sees_fresh_draws_with_the_mean_of_the_pixels() -> None:
    with seeded(0):
        vae = VAE(Encoder(mlp(D, 2 * M)), BernoulliDecoder(mlp(M, D)), D, M).double()
    x, seen = data(), []

    def watched(model: VAE, x: torch.Tensor, n_samples: int, generator: torch.Generator | None) -> object:
        seen.append(x)
        return negative_elbo(model, x, n_samples, generator)

    loss, generator = binarised(watched), torch.Generator().manual_seed(0)  # type: ignore[arg-type]
    for _ in range(2000):
        loss(vae, x, 1, generator)
    draws = torch.stack(seen)
    assert ((draws == 0) | (draws == 1)).all()
    z = (draws.mean(0) - x) / (Bernoulli(x).variance / 2000).sqrt()
    assert z.abs().max() < 5


def test_the_auto_encoder_has_only_a_reconstruction_loss() -> None:
    autoencoder = AutoEncoder(D, M, hidden=(7,)).double()
    x = data()
    terms = reconstruction_loss(autoencoder, x)
    f = autoencoder.decoder(autoencoder.encoder(x))
    torch.testing.assert_close(terms.reconstruction, D * torch.nn.functional.mse_loss(f, x, reduction="none").mean(-1))
    assert (terms.kl == 0).all()
    assert terms.elbo.isnan().all()


@pytest.mark.parametrize(
    "objective",
    [
        elbo,
        practical_loss,
        negative_elbo,
        log_weights,
        importance_weighted_bound,
        negative_importance_bound,
    ],
)
def test_zero_samples_raise_an_error(objective: object) -> None:
    with pytest.raises(ValueError, match=r"n_samples needs to be at least 1 .* got 0"):
        objective(model(), data(), 0)  # type: ignore[operator]


def test_a_new_likelihood_needs_only_a_decoder() -> None:
    """A new decoder is a module whose forward returns an object with log_prob and mean."""

    class Laplace(GaussianDecoder):
        def forward(self, z: torch.Tensor) -> Independent:  # type: ignore[override]
            return Independent(torch.distributions.Laplace(self.network(z), self.log_sigma_dec.exp()), 1)

    with seeded(0):
        vae = VAE(Encoder(mlp(D, 2 * M)), Laplace(mlp(M, D), 0.3), D, M).double()
    assert negative_elbo(vae, data()).elbo.shape == (B,)


def linear_vae(exact: bool) -> tuple[VAE, LinearGaussian]:
    """A VAE with a linear decoder of orthogonal columns. Its encoder is the posterior, or wider than that."""
    W = torch.zeros(D, M, dtype=torch.float64)
    W[:M] = torch.tensor([2.0, 1.0, 0.5]).diag()
    p = LinearGaussian(W, torch.full((D,), 0.5, dtype=torch.float64), 0.3)
    vae = VAE(Encoder(torch.nn.Linear(D, 2 * M)), GaussianDecoder(torch.nn.Linear(M, D), 0.3), D, M).double()
    vae.decoder.log_sigma_dec = p.sigma_dec.log()
    A = torch.linalg.solve(p.M, W.T)  # E[z|x] = A (x − b)
    log_sigma = p.sigma_dec.log() - 0.5 * p.M.diagonal().log() + (0.0 if exact else 0.4)
    with torch.no_grad():
        vae.decoder.network.weight.copy_(W)
        vae.decoder.network.bias.copy_(p.b)
        vae.encoder.network.weight.copy_(torch.cat([A, torch.zeros_like(A)]))
        vae.encoder.network.bias.copy_(torch.cat([-A @ p.b, log_sigma]))
    return vae, p


def test_every_weight_equals_the_evidence_if_q_is_the_posterior() -> None:
    vae, p = linear_vae(exact=True)
    log_w = log_weights(vae, data(), 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_w, p.log_prob(data()).expand(4, B))


def test_the_weights_are_unbiased_and_the_bounds_increase_with_k() -> None:
    vae, p = linear_vae(exact=False)
    x = data()[:1]
    exact = p.log_prob(x)
    ratios = (log_weights(vae, x, 40_000, torch.Generator().manual_seed(0)) - exact).exp()
    assert abs(monte_carlo(ratios).z_score(1.0)) < 5
    many = x.expand(4000, D)  # 4000 draws of each bound
    bounds = [importance_weighted_bound(vae, many, K, torch.Generator().manual_seed(1)) for K in (1, 4, 16)]
    assert abs(monte_carlo(bounds[0]).z_score(elbo(vae, many, 10, torch.Generator().manual_seed(2)).mean().item())) < 5
    for lower, higher in zip(bounds, [*bounds[1:], exact.expand(4000)], strict=True):
        assert monte_carlo(lower - higher).z_score(0.0) < -5


def test_the_bound_of_two_weights_equals_the_formula() -> None:
    vae, x = model(), data()
    w = log_weights(vae, x, 2, torch.Generator().manual_seed(0)).exp()
    bound = importance_weighted_bound(vae, x, 2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(bound, ((w[0] + w[1]) / 2).log())


def test_a_full_covariance_has_a_bound_but_practical_loss_refuses_it() -> None:
    class Full(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> FullGaussian:
            return FullGaussian(x[:, :M], 0.1 * x[:, :M], torch.ones(len(x), M, M, dtype=x.dtype))

    vae = VAE(Full(), model().decoder, D, M).double()
    x = data()
    bounds = elbo(vae, x.repeat(4000, 1), 1, torch.Generator().manual_seed(0)).view(4000, B)
    weights = log_weights(vae, x, 4000, torch.Generator().manual_seed(1))
    for difference in (bounds - weights).unbind(1):  # two estimators of the same quantity
        assert abs(monte_carlo(difference).z_score(0.0)) < 5
    with pytest.raises(TypeError, match="needs a diagonal q for J, got FullGaussian; use negative_elbo"):
        practical_loss(vae, x)


class PerPixel(torch.nn.Module):
    """A decoder whose density was not summed over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.network = mlp(2, 8, 16)

    def forward(self, z: torch.Tensor) -> Normal:
        return Normal(self.network(z), 0.2)


@pytest.mark.parametrize(
    "bound", [elbo, log_weights, importance_weighted_bound, negative_elbo, negative_importance_bound]
)
def test_a_density_for_each_pixel_is_refused(bound: object) -> None:
    """With as many images as pixels it would broadcast to a number for each pair of an image and a pixel."""
    model = VAE(Encoder(mlp(16, 8, 4)), PerPixel(), 16, 2)
    with pytest.raises(ValueError, match=r"log_prob needs one number for each image, \(3, 16\), got \(3, 16, 16\)"):
        bound(model, torch.rand(16, 16), 3)  # type: ignore[operator]
