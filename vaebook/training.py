"""A plain training loop with a history, and checkpoints that resume to the same numbers."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Generator, Tensor, nn
from tqdm import tqdm

from vaebook.ledger import in_notebook
from vaebook.objectives import Loss, LossFunction, name_of, practical_loss

Schedule = Callable[[float], float]
QUANTITIES = ("J", "J_recon", "J_KL", "elbo")
VALIDATION_BATCH = 4096


@dataclass
class History:
    """Means for each epoch: J, J_recon and J_KL in the unit of x², 𝓛 in nats.

    ``train`` is measured during the epoch, while the weights change; ``validation`` is measured after it.
    """

    train: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in QUANTITIES})
    validation: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in QUANTITIES})

    def __len__(self) -> int:
        return len(self.train["J"])


def constant(t: float) -> float:
    """The same learning rate in all epochs."""
    return 1.0


def cosine(t: float) -> float:
    """Half a cosine, from the full rate at t = 0 to zero at t = 1 (Loshchilov and Hutter 2017).

    >>> cosine(0.0), round(cosine(0.5), 6), cosine(1.0)
    (1.0, 0.5, 0.0)
    """
    return (1 + math.cos(math.pi * t)) / 2


def train(
    model: nn.Module,
    x_train: Tensor,
    x_validation: Tensor,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    n_samples: int = 1,
    seed: int = 0,
    loss: LossFunction = practical_loss,
    schedule: Schedule = constant,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
) -> History:
    r"""Minimise J = (1/N) Σ_i [J_recon(x_i) + J_KL(x_i)] by Adam, in place, and return the history.

    Args:
        model: a VAE or an AutoEncoder; afterwards it is on the device where it was before.
        x_train, x_validation: data, shapes ``(N, d)``; all of them must fit into the device's memory.
        epochs: total number of passes through ``x_train``, including those of the checkpoint; may be 0.
        batch_size, learning_rate: settings of the Adam steps.
        n_samples: L, the number of z for each x and step.
        seed: seed of the shuffling and the noise. Torch's global generator is neither used nor changed.
        loss: ``practical_loss`` (J), ``negative_elbo`` for other decoders, ``reconstruction_loss``.
        schedule: factor of the learning rate as a function of t, the completed share of the epochs, from
            0 to 1: ``constant``, ``cosine``, or your own.
        checkpoint: a ``.safetensors`` file, written after each epoch. If it exists, training resumes from
            it and gives the same numbers as an uninterrupted run.
        device: where to train; the default is a GPU if there is one, else the CPU.

    Raises:
        ValueError: a setting is out of range, or the checkpoint is damaged or of another run.
        FloatingPointError: J is no longer finite; the last good checkpoint is kept.

    Source: :eq:`def-loss` of the book; Kingma and Ba 2015 (Adam).

    >>> from vaebook.data import load
    >>> from vaebook.models import mlp_vae
    >>> digits = load("digits")
    >>> history = train(mlp_vae(64, 2), digits.train, digits.validation, epochs=2)
    >>> len(history)
    2
    """
    check_settings(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, n_samples=n_samples)
    weights = next(model.parameters())
    home, dtype = weights.device, weights.dtype
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(device)
    x_train, x_validation = x_train.to(device), x_validation.to(device)
    generator = Generator(device).manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    history, path = History(), Path(checkpoint) if checkpoint is not None else None
    run = {
        "model": str(model), "dtype": str(dtype), "device": device.type, "loss": name_of(loss),
        "N": len(x_train), "batch_size": batch_size, "learning_rate": learning_rate,
        "n_samples": n_samples, "seed": seed,
        # If the schedule varies, a different number of epochs changes the run from its first step.
        "schedule": "constant" if schedule is constant else f"{name_of(schedule)} over {epochs} epochs",
    }  # fmt: skip
    try:
        if path is not None:
            history = load_checkpoint(path, model, optimiser, generator, run, epochs)
        for epoch in epochs_with_progress(len(history), epochs, history):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * schedule((epoch - 1) / epochs)
            means = train_epoch(model, x_train, optimiser, batch_size, n_samples, generator, loss)
            append(history.train, means, epoch)
            append(history.validation, validate(model, x_validation, n_samples, seed, loss), epoch)
            if path is not None:
                save_checkpoint(path, model, optimiser, generator, run, history)
    finally:
        model.to(home)
    return history


def train_epoch(
    model: nn.Module,
    x: Tensor,
    optimiser: torch.optim.Optimizer,
    batch_size: int,
    n_samples: int,
    generator: Generator,
    loss: LossFunction,
) -> Tensor:
    """One pass through x in a new random order; returns the means of J_recon, J_KL and 𝓛, ``(3,)``."""
    totals = torch.zeros(3, device=x.device, dtype=torch.float64)
    for batch in torch.randperm(len(x), generator=generator, device=x.device).split(batch_size):
        terms = loss(model, x.index_select(0, batch), n_samples, generator)
        optimiser.zero_grad()
        (terms.reconstruction + terms.kl).mean().backward()
        optimiser.step()
        totals += sums(terms)
    return totals / len(x)


@torch.no_grad()
def validate(model: nn.Module, x: Tensor, n_samples: int, seed: int, loss: LossFunction) -> Tensor:
    """The means of J_recon, J_KL and 𝓛 over x, shape ``(3,)``, with the same noise at each call.

    It has its own generator, so that validation does not change the draws of the training.
    """
    generator = Generator(x.device).manual_seed(seed + 1)
    batches = [sums(loss(model, batch, n_samples, generator)) for batch in x.split(VALIDATION_BATCH)]
    return torch.stack(batches).sum(0) / len(x)


def sums(terms: Loss) -> Tensor:
    """J_recon, J_KL and 𝓛 summed over a batch, shape ``(3,)``, in float64."""
    return torch.stack(terms).detach().sum(-1, dtype=torch.float64)


def append(means: dict[str, list[float]], values: Tensor, epoch: int) -> None:
    """Add an epoch's means to one side of the history, or raise ``FloatingPointError`` if J is not finite."""
    reconstruction, kl, bound = values.tolist()
    J = reconstruction + kl
    if not math.isfinite(J):
        raise FloatingPointError(
            f"J became {J} in epoch {epoch}; try a smaller learning_rate, or look for NaN in the data"
        )
    for name, number in zip(QUANTITIES, (J, reconstruction, kl, bound), strict=True):
        means[name].append(number)


def epochs_with_progress(start: int, stop: int, history: History) -> Any:
    """Yield the numbers of the remaining epochs, start + 1 to stop, and show the progress.

    A terminal shows a bar. A notebook shows one line after each fifth of the epochs, without times, so that
    stored outputs are the same on every machine.
    """
    notebook = in_notebook()
    shown = {round(stop * k / 5) for k in range(1, 6)}
    # disable=None: no bar if the output is not a terminal.
    bar = tqdm(range(start + 1, stop + 1), initial=start, total=stop, unit="epoch", disable=notebook or None)
    for epoch in bar:
        yield epoch
        if notebook and epoch in shown:
            print(f"epoch {epoch:>{len(str(stop))}}/{stop}  {summary(history)}")
        bar.set_postfix_str(summary(history), refresh=False)


def summary(history: History) -> str:
    """The last epoch in one line."""
    means = history.validation
    line = f"validation J {means['J'][-1]:.3f} (recon {means['J_recon'][-1]:.3f}, KL {means['J_KL'][-1]:.3f})"
    return line if math.isnan(means["elbo"][-1]) else f"{line}, 𝓛 {means['elbo'][-1]:.2f} nats"


def check_settings(*, epochs: int, batch_size: int, learning_rate: float, n_samples: int) -> None:
    """Raise ``ValueError`` if a setting is out of range."""
    for name, value, least in (
        ("epochs", epochs, 0),
        ("batch_size", batch_size, 1),
        ("n_samples", n_samples, 1),
    ):
        if value < least:
            raise ValueError(f"{name} needs to be at least {least}, got {value}")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate needs a positive number, got {learning_rate}; try 1e-3")


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: Generator,
    run: dict[str, Any],
    history: History,
) -> None:
    """Write weights, Adam's state, the generator's state and the history.

    A safetensors file holds tensors and text, and reading it runs no code. The new file replaces the old
    one only when it is complete, so a run that is killed at any moment leaves a complete checkpoint.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": tensor for name, tensor in state.items()}
    tensors["generator"] = generator.get_state()
    metadata = {"run": json.dumps(run), "history": json.dumps([history.train, history.validation])}
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: Generator,
    run: dict[str, Any],
    epochs: int,
) -> History:
    """Load a checkpoint into model, optimiser and generator, and return its history.

    If the file does not exist yet, nothing is changed and the history is empty.

    Raises:
        FileNotFoundError: the folder of the checkpoint does not exist.
        ValueError: the file is not a complete checkpoint, comes from a run with other settings, or has
            more than ``epochs`` epochs. In each case nothing is changed.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"checkpoint needs a folder that exists, got {path}; create {path.parent} first")
    if not path.exists():
        return History()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stored, (train_means, validation_means) = json.loads(metadata["run"]), json.loads(metadata["history"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is not a complete checkpoint of this module ({error}); move it away to start again"
        ) from None
    for name, wanted in run.items():
        if stored.get(name) != wanted:
            raise ValueError(
                f"{path} comes from a run with another {name}:\n{stored.get(name)}\n"
                f"This run has\n{wanted}\n"
                "Give another file, or move this one away to start again."
            )
    if len(train_means["J"]) > epochs:
        done = len(train_means["J"])
        raise ValueError(f"epochs needs to be at least {done}, the number done in {path}, got {epochs}")
    model.load_state_dict({name[6:]: t for name, t in tensors.items() if name.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    generator.set_state(tensors["generator"])
    return History(train_means, validation_means)
