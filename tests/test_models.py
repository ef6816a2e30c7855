"""The models: shapes, parametrisation, seeds and errors."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

from vaebook.models import VAE, AutoEncoder, BernoulliDecoder, Encoder, GaussianDecoder, in_mode, mlp, mlp_vae, seeded


class Constant(nn.Module):
    """A "network" with a given output."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output.expand(*x.shape[:-1], -1)


def test_the_encoder_emits_mu_and_log_sigma_not_log_variance() -> None:
    q = Encoder(Constant(torch.tensor([1.0, 2.0, math.log(3.0), math.log(0.5)])))(torch.zeros(7, 64))
    torch.testing.assert_close(q.mu, torch.tensor([1.0, 2.0]).expand(7, 2))
    torch.testing.assert_close(q.sigma, torch.tensor([3.0, 0.5]).expand(7, 2))


def test_the_gaussian_decoder_is_an_isotropic_normal_over_the_pixels() -> None:
    mean = torch.linspace(0, 1, 64)
    p = GaussianDecoder(Constant(mean), sigma_dec=0.3)(torch.zeros(7, 2))
    x = torch.rand(7, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(p.log_prob(x), Independent(Normal(mean, 0.3), 1).log_prob(x))
    assert GaussianDecoder(Constant(mean), sigma_dec=0.3).sigma_dec == pytest.approx(0.3)


def test_the_bernoulli_decoder_sums_over_pixels_and_refuses_grey_ones() -> None:
    logits = torch.linspace(-2, 2, 64)
    p = BernoulliDecoder(Constant(logits))(torch.zeros(7, 2))
    x = (torch.rand(7, 64, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    expected = (x * logits.sigmoid().log() + (1 - x) * (-logits).sigmoid().log()).sum(-1)
    torch.testing.assert_close(p.log_prob(x), expected)
    torch.testing.assert_close(p.mean, Bernoulli(logits=logits).mean.expand(7, 64))
    with pytest.raises(
        ValueError, match="pixels that are 0 or 1, got values from 0.5 to 0.5; use vaebook.data.binarise"
    ):
        p.log_prob(torch.full((7, 64), 0.5))


@pytest.mark.parametrize("leading", [(), (5,), (3, 5)])
def test_shapes(leading: tuple[int, ...]) -> None:
    model = mlp_vae(400, 3)
    q = model.encode(torch.zeros(*leading, 400))
    assert q.mu.shape == q.log_sigma.shape == (*leading, 3)
    assert model.decode(q.rsample((2,))).mean.shape == (2, *leading, 400)
    assert model.prior().mu.shape == (3,)
    assert model.prior().log_prob(torch.zeros(3)).item() == pytest.approx(-1.5 * math.log(2 * math.pi))


def test_the_last_layer_is_linear() -> None:
    assert isinstance(mlp(3, 4, 5)[-1], nn.Linear)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: mlp_vae(64, 2, seed=s),
        lambda s: AutoEncoder(64, 2, seed=s),
    ],
)
def test_seeds_determine_the_weights_and_the_global_generator_is_restored(make: object) -> None:
    before = torch.get_rng_state()
    one, same, other = (list(make(s).parameters()) for s in (0, 0, 1))  # type: ignore[operator]
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("latent_dim", [0, -3, 64, 100])
@pytest.mark.parametrize("make", [mlp_vae, AutoEncoder, lambda d, latent_dim: VAE(mlp(1), mlp(1), d, latent_dim)])
def test_latent_dim_out_of_range(make: object, latent_dim: int) -> None:
    with pytest.raises(ValueError, match=rf"latent_dim needs to lie between 1 and d - 1 = 63, got {latent_dim}"):
        make(64, latent_dim)  # type: ignore[operator]


@pytest.mark.parametrize("sigma_dec", [0.0, -0.1, math.inf, math.nan])
def test_sigma_dec_out_of_range(sigma_dec: float) -> None:
    with pytest.raises(ValueError, match=f"sigma_dec needs a positive number, got {sigma_dec}"):
        mlp_vae(64, 2, sigma_dec=sigma_dec)


def test_errors_of_encode() -> None:
    model = mlp_vae(64, 2)
    with pytest.raises(ValueError, match=r"x needs 64 features on its last axis, got shape \(5, 8, 8\)"):
        model.encode(torch.zeros(5, 8, 8))
    with pytest.raises(TypeError, match="x needs the type of the weights, torch.float32, got torch.float64"):
        model.encode(torch.zeros(5, 64, dtype=torch.float64))


def test_seeded_restores_the_generator_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), seeded(0):
        raise RuntimeError("inside")
    assert torch.equal(before, torch.get_rng_state())


def test_all_parts_are_in_one_mode_and_then_each_in_its_own() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout().eval())).eval()
    model[1].train()
    before = [part.training for part in model.modules()]
    for training in (True, False):
        with in_mode(model, training):
            assert {part.training for part in model.modules()} == {training}
        assert [part.training for part in model.modules()] == before
