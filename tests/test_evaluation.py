"""The held-out log-likelihood against exact values, and its memory."""

import math
import shutil

import pytest
import torch
from torch import nn

from vaebook import evaluation
from vaebook.evaluation import log_likelihood
from vaebook.linear import LinearGaussian
from vaebook.models import VAE, BernoulliDecoder, Encoder, GaussianDecoder, mlp, mlp_vae, seeded
from vaebook.objectives import importance_weighted_bound, log_weights


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def data(n: int) -> torch.Tensor:
    return torch.rand(n, 6, dtype=torch.float64, generator=generator())


def test_it_equals_the_bound_for_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, x = mlp_vae(6, 2, (5,)).double(), data(3)
    whole = log_likelihood(vae, x, 50, generator())
    torch.testing.assert_close(whole, importance_weighted_bound(vae, x, 50, generator()))
    monkeypatch.setattr(evaluation, "AT_ONCE", {"cpu": 60})  # 3 images, 20 draws at a time
    g = generator()
    log_w = torch.cat([log_weights(vae, x, part, g) for part in (20, 20, 10)])
    torch.testing.assert_close(log_likelihood(vae, x, 50, generator()), log_w.exp().mean(0).log())


def test_the_images_of_each_batch_have_their_place() -> None:
    vae, x = mlp_vae(6, 2, (5,)).double(), data(2 * evaluation.BATCH + 6)
    found, g = log_likelihood(vae, x, 5, generator()), generator()
    bounds = [importance_weighted_bound(vae, part, 5, g) for part in x.split(evaluation.BATCH)]
    torch.testing.assert_close(found, torch.cat(bounds))


def test_memory_does_not_grow_with_the_number_of_draws_or_images(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    def watched(model: VAE, x: torch.Tensor, n: int, g: torch.Generator | None) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, n * len(x))
        return log_weights(model, x, n, g)

    monkeypatch.setattr(evaluation, "log_weights", watched)
    monkeypatch.setattr(evaluation, "AT_ONCE", {"cpu": 1000})
    assert log_likelihood(mlp_vae(6, 2, (5,)).double(), data(600), 77, generator()).shape == (600,)
    assert 500 < largest <= 1000


def test_it_converges_to_the_exact_log_likelihood() -> None:
    W = torch.eye(6, 2, dtype=torch.float64)
    p = LinearGaussian(W, torch.zeros(6, dtype=torch.float64), 0.5)
    vae = VAE(Encoder(torch.nn.Linear(6, 4)), GaussianDecoder(torch.nn.Linear(2, 6), 0.5), 6, 2).double()
    with torch.no_grad():  # q ignores x: N(0, 0.7²), too wide and with a wrong mean
        vae.encoder.network.weight.zero_()
        vae.encoder.network.bias.copy_(torch.tensor([0.0, 0.0, -0.35, -0.35]))
        vae.decoder.network.weight.copy_(W)
        vae.decoder.network.bias.zero_()
    x = data(20)
    exact = p.log_prob(x)
    ratio = (log_likelihood(vae, x, 20_000, generator()) - exact).exp()
    stderr = (log_weights(vae, x, 20_000, torch.Generator().manual_seed(1)) - exact).exp().std(0) / 20_000**0.5
    assert stderr.max() < 0.05
    assert ((ratio - 1).abs() < 5 * stderr).all()


def test_it_converges_to_the_integral_over_the_prior_for_black_and_white_pixels() -> None:
    with seeded(0):
        vae = VAE(Encoder(mlp(6, 2)), BernoulliDecoder(mlp(1, 5, 6)), 6, 1).double()
    torch.nn.init.zeros_(vae.encoder.network[0].weight)
    vae.encoder.network[0].bias.data = torch.tensor([0.1, 0.2], dtype=torch.float64)  # wider than the prior
    x = (data(20) < 0.5).double()
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    probability = vae.decoder.network(z).sigmoid()[:, None]  # (4001, 1, 6)
    likelihood = (x * probability + (1 - x) * (1 - probability)).prod(-1)
    prior = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    exact = torch.trapezoid(likelihood * prior, z[:, 0], dim=0).log()
    ratio = (log_likelihood(vae, x, 20_000, generator()) - exact).exp()
    weights = (log_weights(vae, x, 20_000, torch.Generator().manual_seed(1)) - exact).exp()
    stderr = weights.std(0) / 20_000**0.5
    assert stderr.max() < 0.02
    assert ((ratio - 1).abs() < 5 * stderr).all()


def test_no_gradient_is_recorded_and_errors_name_the_argument() -> None:
    vae = mlp_vae(6, 2, (5,)).double()
    assert not log_likelihood(vae, data(2), 3, generator()).requires_grad
    with pytest.raises(ValueError, match="n_samples needs to be at least 1"):
        log_likelihood(vae, data(2), 0)
    with pytest.raises(ValueError, match="x needs 6 features"):
        log_likelihood(vae, data(2)[:, :5], 3)


def test_the_model_computes_in_evaluation_mode_and_is_not_changed() -> None:
    with seeded(0):
        network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 4))
        model = VAE(Encoder(network), GaussianDecoder(mlp(2, 8, 6), 0.5), 6, 2)
    x = torch.rand(9, 6, generator=torch.Generator().manual_seed(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = [log_likelihood(model, x, 50, torch.Generator().manual_seed(2)) for _ in range(2)]
    assert torch.equal(found[0], found[1])
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    assert model.training
    expected = log_likelihood(model.eval(), x, 50, torch.Generator().manual_seed(2))
    assert torch.equal(found[0], expected)


def black_and_white() -> tuple[VAE, torch.Tensor]:
    with seeded(0):
        model = VAE(Encoder(mlp(36, 16, 4)), BernoulliDecoder(mlp(2, 16, 36)), d=36, latent_dim=2).float()
    return model, (torch.rand(48, 36, generator=generator()) < 0.3).float()  # a batch of 32 images, one of 16


def test_compiled_weights_do_not_take_grey_pixels() -> None:
    model, x = black_and_white()
    with pytest.raises(ValueError, match="pixels that are 0 or 1"):
        log_likelihood(model, 0.5 * x, 2, compile=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # its compiler uses what it deprecates
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_from_compiled_weights_it_agrees_to_rounding() -> None:
    model, x = black_and_white()
    plain, fast = (log_likelihood(model, x, 300, generator(), compile=fast) for fast in (False, True))
    # Other draws would change each image by its Monte Carlo error, some hundredths of a nat.
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-4)
