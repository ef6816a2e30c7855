"""The same training by others, as their documentation shows it: functions that return a pass over the data.

All train the same network by Adam: tanh, one hidden layer of the same width on either side, as many z.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pass = Callable[[], object]


class TutorialVAE(nn.Module):
    """The model of a hundred tutorials: probabilities, not logits, and log σ²."""

    def __init__(self, d: int, hidden: int, latent_dim: int) -> None:
        super().__init__()
        self.into = nn.Linear(d, hidden)
        self.mean, self.log_variance = nn.Linear(hidden, latent_dim), nn.Linear(hidden, latent_dim)
        self.out_of, self.pixels = nn.Linear(latent_dim, hidden), nn.Linear(hidden, d)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.into(x).tanh()
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return self.pixels(self.out_of(z).tanh()).sigmoid(), mean, log_variance


def tutorial(pictures: Any, d: int, hidden: int, latent_dim: int, batch_size: int) -> Pass:
    """A DataLoader that makes a tensor of one picture at a time, and a loop around it."""
    loader = torch.utils.data.DataLoader(pictures, batch_size, shuffle=True)
    model = TutorialVAE(d, hidden, latent_dim)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    def one_pass() -> float:
        total = 0.0
        for batch, _ in loader:
            x = batch.view(-1, d)
            optimiser.zero_grad()
            y, mean, log_variance = model(x)
            reconstruction = F.binary_cross_entropy(y, x, reduction="sum")
            kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
            (reconstruction + kl).backward()
            total += (reconstruction + kl).item()
            optimiser.step()
        return total

    return one_pass


def pythae(x: Tensor, hidden: int, latent_dim: int, batch_size: int) -> Pass:
    """pythae's own trainer, with networks of the same widths in its interface."""
    logging.disable(logging.INFO)
    from pythae.data.datasets import BaseDataset  # type: ignore[import-not-found]
    from pythae.models import VAE, VAEConfig  # type: ignore[import-not-found]
    from pythae.models.base.base_utils import ModelOutput  # type: ignore[import-not-found]
    from pythae.models.nn import BaseDecoder, BaseEncoder  # type: ignore[import-not-found]
    from pythae.trainers import BaseTrainer, BaseTrainerConfig  # type: ignore[import-not-found]

    d = x.shape[1]

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(d, hidden), nn.Tanh())
            self.mean, self.log_variance = nn.Linear(hidden, latent_dim), nn.Linear(hidden, latent_dim)

        def forward(self, x: Tensor) -> Any:
            h = self.body(x)
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            layers = nn.Linear(latent_dim, hidden), nn.Tanh(), nn.Linear(hidden, d), nn.Sigmoid()
            self.body = nn.Sequential(*layers)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.body(z))

    config = VAEConfig(input_dim=(d,), latent_dim=latent_dim, reconstruction_loss="bce")
    model, data = VAE(config, Encoder(), Decoder()), BaseDataset(x, torch.zeros(len(x)))
    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder, per_device_train_batch_size=batch_size, learning_rate=1e-3, no_cuda=True
        )
        trainer = BaseTrainer(model, data, training_config=settings)
        trainer.prepare_training()

    def one_pass() -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # its bar
            trainer.train_step(1)

    return one_pass


def pyro(x: Tensor, hidden: int, latent_dim: int, batch_size: int) -> Pass:
    """Pyro's stochastic variational inference with the KL in closed form, unchecked, on data in memory."""
    import pyro  # type: ignore[import-not-found]
    from pyro import distributions as dist
    from pyro.infer import SVI, TraceMeanField_ELBO  # type: ignore[import-not-found]

    d = x.shape[1]
    encoder = nn.Sequential(nn.Linear(d, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent_dim))
    decoder = nn.Sequential(nn.Linear(latent_dim, hidden), nn.Tanh(), nn.Linear(hidden, d))

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("pictures", len(x)):
            zero = x.new_zeros(len(x), latent_dim)
            z = pyro.sample("z", dist.Normal(zero, torch.ones_like(zero)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("pictures", len(x)):
            mean, log_sigma = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_sigma.exp()).to_event(1))

    pyro.clear_param_store()
    inference = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=TraceMeanField_ELBO())

    def one_pass() -> None:
        with pyro.validation_enabled(False):
            for batch in torch.randperm(len(x)).split(batch_size):
                inference.step(x[batch])

    return one_pass
