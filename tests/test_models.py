"""The models: shapes, exact parametrisation, seeds, and errors at the door."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

from vaebook.models import (
    VAE,
    AutoEncoder,
    BernoulliDecoder,
    Encoder,
    GaussianDecoder,
    conv_vae,
    mlp,
    mlp_vae,
    seeded,
)


class Constant(nn.Module):
    """A "network" whose output is known."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output.expand(*x.shape[:-1], -1)


def test_the_encoder_emits_mu_and_log_sigma_not_log_variance() -> None:
    q = Encoder(Constant(torch.tensor([1.0, 2.0, math.log(3.0), math.log(0.5)])))(torch.zeros(7, 64))
    torch.testing.assert_close(q.mu, torch.tensor([1.0, 2.0]).expand(7, 2))
    torch.testing.assert_close(q.sigma, torch.tensor([3.0, 0.5]).expand(7, 2))


def test_the_gaussian_decoder_is_one_isotropic_normal_on_all_pixels() -> None:
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
@pytest.mark.parametrize("make", [lambda: mlp_vae(400, 3), lambda: conv_vae((16, 25), 3, channels=2)])
def test_shapes(make: object, leading: tuple[int, ...]) -> None:
    model = make()  # type: ignore[operator]
    q = model.encode(torch.zeros(*leading, 400))
    assert q.mu.shape == q.log_sigma.shape == (*leading, 3)
    assert model.decode(q.rsample((2,))).mean.shape == (2, *leading, 400)
    assert model.prior().mu.shape == (3,)
    assert model.prior().log_prob(torch.zeros(3)).item() == pytest.approx(-1.5 * math.log(2 * math.pi))


@pytest.mark.parametrize("shape", [(16, 16), (17, 19), (28, 28)])
def test_the_convolutional_pair_takes_sides_that_no_power_of_two_divides(shape: tuple[int, int]) -> None:
    d = shape[0] * shape[1]
    model = conv_vae(shape, latent_dim=2, channels=2)
    assert model.decode(model.encode(torch.zeros(3, d)).mu).mean.shape == (3, d)


def test_every_pixel_reaches_the_code_and_every_code_reaches_the_pixels() -> None:
    model = conv_vae((16, 16), latent_dim=2, channels=2)
    x = torch.rand(1, 256, requires_grad=True, generator=torch.Generator().manual_seed(0))
    q = model.encode(x)
    assert (torch.autograd.grad(q.mu.sum(), x)[0] != 0).all()
    jacobian = torch.autograd.functional.jacobian(lambda z: model.decode(z).mean, torch.zeros(2))
    assert (jacobian != 0).any(1).all()


def test_no_tanh_on_the_output() -> None:
    assert isinstance(mlp(3, 4, 5)[-1], nn.Linear)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: mlp_vae(64, 2, seed=s),
        lambda s: conv_vae((16, 16), 2, seed=s),
        lambda s: AutoEncoder(64, 2, seed=s),
    ],
)
def test_seeds_fix_the_weights_and_leave_the_global_generator_alone(make: object) -> None:
    before = torch.get_rng_state()
    one, same, other = (list(make(s).parameters()) for s in (0, 0, 1))  # type: ignore[operator]
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("latent_dim", [0, -3, 64, 100])
@pytest.mark.parametrize(
    "make", [mlp_vae, AutoEncoder, lambda d, latent_dim: VAE(mlp(1), mlp(1), d, latent_dim)]
)
def test_latent_dim_out_of_range(make: object, latent_dim: int) -> None:
    with pytest.raises(
        ValueError, match=rf"latent_dim needs to lie between 1 and d - 1 = 63, got {latent_dim}"
    ):
        make(64, latent_dim)  # type: ignore[operator]


@pytest.mark.parametrize("sigma_dec", [0.0, -0.1, math.inf, math.nan])
def test_sigma_dec_out_of_range(sigma_dec: float) -> None:
    with pytest.raises(ValueError, match=f"sigma_dec needs a positive number, got {sigma_dec}"):
        mlp_vae(64, 2, sigma_dec=sigma_dec)


def test_errors_at_the_door() -> None:
    model = mlp_vae(64, 2)
    with pytest.raises(ValueError, match=r"x needs 64 features on its last axis, got shape \(5, 8, 8\)"):
        model.encode(torch.zeros(5, 8, 8))
    with pytest.raises(TypeError, match="x needs the type of the weights, torch.float32, got torch.float64"):
        model.encode(torch.zeros(5, 64, dtype=torch.float64))
    with pytest.raises(ValueError, match="at least 16 × 16 pixels for two halvings, got 8 × 20"):
        conv_vae((8, 20), 2)


def test_seeded_nests_and_survives_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), seeded(0):
        raise RuntimeError("inside")
    assert torch.equal(before, torch.get_rng_state())
