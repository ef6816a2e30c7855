"""A plain training loop with a history, and checkpoints that resume to the same numbers."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from tqdm import tqdm

from vaebook.checkpoints import check_unchanged, describe, describe_run, load_checkpoint, save_checkpoint
from vaebook.faster import arithmetic, compiled
from vaebook.ledger import in_notebook
from vaebook.models import in_mode, seeded
from vaebook.objectives import Loss, LossFunction, practical_loss
from vaebook.ranges import above, at_least

Schedule = Callable[[float], float]
QUANTITIES = ("J", "J_recon", "J_KL", "elbo")
VALIDATION_BATCH = 4096


@dataclass
class History:
    """Means for each epoch: J, J_recon and J_KL in the unit of x², ℒ in nats.

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
    device: str | int | torch.device | None = None,
    compile: bool = False,
    precision: str = "float32",
    progress: bool = True,
) -> History:
    r"""Minimise J = (1/N) Σ_i [J_recon(x_i) + J_KL(x_i)] by Adam, in place, and return the history.

    Args:
        model: a VAE, an AutoEncoder, or another module that ``loss`` takes. Its parts are in training mode while
            it is trained and in evaluation mode while it is validated (dropout and batch normalisation tell them
            apart); afterwards each is in the mode, and on the device, where it was before.
        x_train, x_validation: data, shapes ``(N, d)``, N ≥ 1; all of them must fit into the device's memory.
        epochs: total number of passes through ``x_train``, including those of the checkpoint; may be 0.
        batch_size, learning_rate: settings of the Adam steps.
        n_samples: L, the number of z for each x and step.
        seed: seed of the shuffling, the noise, and what the model's parts draw. Torch's global generators, on the
            CPU and on GPUs, are as they were afterwards.
        loss: ``practical_loss`` (J), ``negative_elbo`` for other decoders, ``reconstruction_loss``, or your own. It is
            called for validation too, and once to see its shapes, so that it must not count its calls.
        schedule: factor of the learning rate at t, the share of epochs done: ``constant``, ``cosine``, your own.
        checkpoint: a ``.safetensors`` file, written after each epoch. If it exists, training resumes from it, with the
            numbers of an uninterrupted run. It knows its run by the data, the initial weights, the loss, the schedule
            and the settings. :func:`vaebook.checkpoints.load_weights` takes the weights alone.
        device: where to train; the default is a GPU if there is one, else the CPU.
        compile: whether to compile the loss first, see :func:`vaebook.faster.compiled`: it takes ten seconds or more.
        precision: of the products of matrices in training: "float32", or "bfloat16" where the device has units for it.
        progress: whether to show how the epochs go.

    Raises:
        TypeError: a setting is no number.
        ValueError: a setting is out of range, the data or the loss's terms have the wrong shape, or the checkpoint
            is damaged or of another run, or the loss or the schedule cannot be compared with another run's, or the
            device has no units for ``precision``.
        RuntimeError: the loss cannot be compiled.
        FileNotFoundError: the folder of the checkpoint does not exist.
        FloatingPointError: J is no longer finite; the last good checkpoint is kept.

    Source: :eq:`def-loss` of the book; Kingma and Ba 2015 (Adam).

    >>> from vaebook.data import load
    >>> from vaebook.models import mlp_vae
    >>> digits = load("digits")
    >>> history = train(mlp_vae(64, 2), digits.train, digits.validation, epochs=2)
    >>> len(history)
    2
    """
    at_least(0, epochs=epochs)
    at_least(1, batch_size=batch_size, n_samples=n_samples)
    above(0, learning_rate=learning_rate)
    # As plain numbers, whatever library they come from.
    epochs, batch_size, n_samples, seed = map(int, (epochs, batch_size, n_samples, seed))
    learning_rate = float(learning_rate)
    check_data(model, x_train, x_validation, batch_size)
    history, path = History(), Path(checkpoint) if checkpoint is not None else None
    if path is not None and not path.parent.is_dir():
        raise FileNotFoundError(f"checkpoint needs a folder that exists, got {path}; create {path.parent} first")
    home = next(model.parameters()).device
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    multiply = partial(arithmetic, precision, device)
    multiply()  # or raise
    model.to(device)
    x_train, x_validation = x_train.to(device), x_validation.to(device)
    generator = Generator(device).manual_seed(seed)
    try:
        check_loss(model, (x_train[:2], x_validation[:2]), n_samples, seed, loss)
        if compile:  # the compiled loss checks no data
            check_loss(model, x_train.split(max(1, VALIDATION_BATCH // n_samples)), n_samples, seed, loss)
        optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
        if path is not None:
            run = describe_run(
                model, x_train=x_train, x_validation=x_validation, loss=loss, batch_size=batch_size,
                learning_rate=learning_rate, n_samples=n_samples, seed=seed, schedule=schedule,
                arithmetic=f"{precision}{', compiled' * compile}",
                # If the schedule varies, a different number of epochs changes the run from its first step.
                epochs_of_schedule=0 if schedule is constant else epochs,
            )  # fmt: skip
            if path.exists():
                history = History(*load_checkpoint(path, model, optimiser, generator, run, epochs))
        trained = compiled(loss) if compile else loss
        for epoch in epochs_with_progress(len(history), epochs, history, progress):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * schedule((epoch - 1) / epochs)
            with in_mode(model, True), seeded((1_000_003 * seed + epoch) % 2**63), multiply():
                values = train_epoch(model, x_train, optimiser, batch_size, n_samples, generator, trained)
            append(history.train, values, epoch)
            append(history.validation, validate(model, x_validation, n_samples, seed, loss), epoch)
            if path is not None:
                check_unchanged(run, describe(model, loss=loss, schedule=schedule))
                save_checkpoint(path, model, optimiser, generator, run, (history.train, history.validation))
    finally:
        model.to(home)
    return history


def train_epoch(
    model: nn.Module, x: Tensor, optimiser: Optimizer, batch_size: int, n_samples: int, generator: Generator,
    loss: LossFunction,
) -> Tensor:  # fmt: skip
    """One pass through x in a new random order; returns the means of J_recon, J_KL and ℒ, ``(3,)``."""
    seen = []
    for batch in torch.randperm(len(x), generator=generator, device=x.device).split(batch_size):
        terms = loss(model, x.index_select(0, batch), n_samples, generator)
        model.zero_grad()
        (terms.reconstruction + terms.kl).mean().backward()
        optimiser.step()
        torch.clear_autocast_cache()  # or autocast would go on with the weights before this step
        seen.append(torch.stack(terms).detach())
    return means(torch.cat(seen, 1))


@torch.no_grad()
def validate(model: nn.Module, x: Tensor, n_samples: int, seed: int, loss: LossFunction) -> Tensor:
    """The means of J_recon, J_KL and ℒ over x, shape ``(3,)``, in evaluation mode, with the same noise at each call.

    It has its own generator, so that validation does not change the draws of the training.
    """
    generator = Generator(x.device).manual_seed(seed + 1)
    with in_mode(model, False), seeded(1_000_003 * seed % 2**63):
        seen = [torch.stack(loss(model, batch, n_samples, generator)) for batch in x.split(VALIDATION_BATCH)]
    return means(torch.cat(seen, 1))


def means(terms: Tensor) -> Tensor:
    """J_recon, J_KL and ℒ averaged over images, ``(3, N)`` to ``(3,)``, in float64, which Apple's GPUs lack."""
    return terms.mean(-1, dtype=torch.float32 if terms.device.type == "mps" else torch.float64)


def append(side: dict[str, list[float]], values: Tensor, epoch: int) -> None:
    """Add an epoch's means to one side of the history, or raise ``FloatingPointError`` if J is not finite."""
    reconstruction, kl, bound = values.tolist()
    J = reconstruction + kl
    if not math.isfinite(J):
        raise FloatingPointError(
            f"J became {J} in epoch {epoch}; try a smaller learning_rate, or look for NaN in the data"
        )
    for name, number in zip(QUANTITIES, (J, reconstruction, kl, bound), strict=True):
        side[name].append(number)


def epochs_with_progress(start: int, stop: int, history: History, progress: bool) -> Any:
    """Yield the numbers of the remaining epochs, start + 1 to stop, and show the progress.

    A terminal shows a bar. A notebook shows a line after each fifth of the epochs, without times, so that stored
    outputs are the same on every machine. Without ``progress`` neither shows anything.
    """
    notebook = in_notebook()
    shown = {round(stop * k / 5) for k in range(1, 6)} if progress else set()
    hide = notebook or not progress or None  # None: no bar if the output is not a terminal
    bar = tqdm(range(start + 1, stop + 1), initial=start, total=stop, unit="epoch", disable=hide)
    for epoch in bar:
        yield epoch
        if notebook and epoch in shown:
            print(f"epoch {epoch:>{len(str(stop))}}/{stop}  {summary(history)}")
        bar.set_postfix_str(summary(history), refresh=False)


def summary(history: History) -> str:
    """The last epoch in one line."""
    means = history.validation
    line = f"validation J {means['J'][-1]:.3f} (recon {means['J_recon'][-1]:.3f}, KL {means['J_KL'][-1]:.3f})"
    return line if math.isnan(means["elbo"][-1]) else f"{line}, ℒ {means['elbo'][-1]:.2f} nats"


def check_data(model: nn.Module, x_train: Tensor, x_validation: Tensor, batch_size: int) -> None:
    """Raise ``ValueError`` if there are no images, or if a batch is too small for the model's parts."""
    for name, x in (("x_train", x_train), ("x_validation", x_validation)):
        if x.ndim != 2 or len(x) == 0:
            raise ValueError(
                f"{name} needs the shape (N, d) with at least one image, got {tuple(x.shape)}; "
                "flatten images with x.flatten(1), and keep some for validation"
            )
    n = len(x_train)
    normalised = any(isinstance(part, _BatchNorm) for part in model.modules())
    if normalised and (batch_size == 1 or n % batch_size == 1):
        other = next((f"try {size}" for size in range(batch_size + 1, n + 1) if n % size != 1), "add an image")
        why = "which has no variance for batch normalisation"
        raise ValueError(f"batch_size needs no rest of one image, {why}, got {batch_size} for {n} images; {other}")


def check_loss(model: nn.Module, parts: Iterable[Tensor], n_samples: int, seed: int, loss: LossFunction) -> None:
    """Raise ``ValueError`` if the loss does not give one number for each image of each part, before the first step."""
    if isinstance(loss, nn.Module) and any(weights.requires_grad for weights in loss.parameters()):
        raise ValueError("loss holds weights that would not be trained; make them a part of the model")
    for x in parts:
        with torch.no_grad(), in_mode(model, False), seeded(seed):
            terms = loss(model, x, n_samples, Generator(x.device).manual_seed(seed))
        for name, term in zip(Loss._fields, terms, strict=True):
            if term.shape != (len(x),):
                raise ValueError(
                    f"loss needs one {name} for each image, shape ({len(x)},) for {len(x)} images, "
                    f"got {tuple(term.shape)}; sum over pixels, and leave the mean over images to train"
                )
