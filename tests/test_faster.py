"""Compiled losses and products in bfloat16: the same numbers, the same draws, and a word where they cannot be had."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from vaebook.data import binarise
from vaebook.faster import arithmetic, compiled
from vaebook.models import VAE, BernoulliDecoder, Encoder, mlp, seeded
from vaebook.objectives import Loss, LossFunction, binarised, negative_elbo, negative_importance_bound
from vaebook.training import train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # its compiler uses what it deprecates
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
WITH_UNITS: dict[str, Any] = {"amx_bf16": True}


def vae() -> VAE:
    with seeded(0):
        return VAE(Encoder(mlp(36, 16, 4)), BernoulliDecoder(mlp(2, 16, 36)), d=36, latent_dim=2).float()


@pytest.fixture(scope="module")
def grey() -> Tensor:
    return torch.rand(48, 36, generator=Generator().manual_seed(0), dtype=torch.float32)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run(model: VAE, x: Tensor, epochs: int = 2, loss: LossFunction = negative_elbo, **options: Any) -> Tensor:
    """Train on two batches of one size, since each size is compiled; returns the history of the bound."""
    history = train(model, x, x[:8], epochs=epochs, batch_size=24, device="cpu", loss=loss, progress=False, **options)
    return torch.tensor([history.train["elbo"], history.validation["elbo"]])


@needs_compiler
def test_training_compiled_or_not_agrees_to_rounding(grey: Tensor) -> None:
    plain, fast, before = vae(), vae(), torch.get_rng_state()
    loss = binarised(negative_importance_bound)
    bounds = [run(model, grey, loss=loss, n_samples=3, compile=fast is model) for model in (plain, fast)]
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(weights(fast), weights(vae()))
    # Other draws would change the bound by its Monte Carlo error, some 0.1 nats, and the weights by as much as a step.
    torch.testing.assert_close(bounds[1], bounds[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights(fast), weights(plain), rtol=0, atol=1e-5)


@needs_compiler
def test_a_compiled_loss_takes_its_draws_from_the_generator(grey: Tensor) -> None:
    model, x = vae(), binarise(grey, Generator().manual_seed(1))
    fast, before = compiled(negative_elbo), torch.get_rng_state()
    one, other = Generator().manual_seed(5), Generator().manual_seed(5)
    for _ in range(2):
        terms, plain = fast(model, x, 2, one), negative_elbo(model, x, 2, other)
        torch.testing.assert_close(terms.elbo, plain.elbo)
        assert torch.equal(one.get_state(), other.get_state())
    assert torch.equal(before, torch.get_rng_state())
    with seeded(3):
        terms = fast(model, x, 2, None)
        after = torch.get_rng_state()
    with seeded(3):
        torch.testing.assert_close(terms.elbo, negative_elbo(model, x, 2, None).elbo)
        assert torch.equal(after, torch.get_rng_state())


@needs_compiler
def test_any_number_of_losses_can_be_compiled() -> None:
    """Torch compiles the same lines at most eight times."""

    def loss(model: nn.Module, x: Tensor, n_samples: int, generator: Generator | None) -> Loss:
        return Loss(*[model(x).sum(-1)] * 3)

    for k in range(9):
        model, x = nn.Linear(3, 2), torch.ones(1 + k, 3)
        torch.testing.assert_close(compiled(loss)(model, x, 1, None).elbo, model(x).sum(-1))


def test_what_cannot_be_compiled_says_so_and_disturbs_no_draws() -> None:
    def branches(model: nn.Module, x: Tensor, n_samples: int, generator: Generator | None) -> Loss:
        return Loss(*[x.sum(-1) if x.sum() > 0 else -x.sum(-1)] * 3)

    model, before = nn.Linear(2, 2), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="without branches on values, got: .*; train without compile"):
        compiled(branches)(model, torch.ones(2, 2), 1, Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_compiler_the_message_says_what_is_wanted(tmp_path: Path) -> None:
    code = "import tests.test_faster as t, torch; t.run(t.vae(), torch.ones(48, 36), compile=True)"
    env = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "RuntimeError: compile=True needs a C++ compiler" in done.stderr.splitlines()[-1]


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Makes the processor say that it has, or has not, what bfloat16 needs; without them, it emulates."""
    return lambda found: monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)


def test_networks_multiply_in_bfloat16_in_training_alone(grey: Tensor, units: Callable[..., None]) -> None:
    units(WITH_UNITS)
    types: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    model = vae()
    layer: Any = list(model.decoder.modules())[-1]
    layer.register_forward_hook(lambda part, _, out: types[part.training].add(out.dtype))
    run(model, grey, loss=binarised(negative_elbo), precision="bfloat16")
    assert types == {True: {torch.bfloat16}, False: {torch.float32}}
    assert weights(model).dtype == torch.float32


@pytest.mark.parametrize("found", [{}, {"avx512_f": True, "amx_bf16": False}])
def test_bfloat16_is_refused_where_it_would_be_emulated(
    grey: Tensor, units: Callable[..., None], found: dict[str, Any]
) -> None:
    units(found)
    model = vae()
    with pytest.raises(
        ValueError, match="precision='bfloat16' needs a device with units for it, got cpu; use 'float32'"
    ):
        run(model, grey, loss=binarised(negative_elbo), precision="bfloat16")
    assert torch.equal(weights(model), weights(vae()))


def test_another_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="'float32' or 'bfloat16', got 'half'"):
        arithmetic("half", torch.device("cpu"))
