"""One epoch of MNIST by this module, by others, and by the step's matrix products alone.

784-400-20, batches of 128, Adam, float32, all cores. A part of the epoch is measured and scaled to the whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Generator, Tensor, nn

from benchmarks import others
from benchmarks.measure import Row, clock, fresh, interleaved, ratios, status
from vaebook.data import binarise, data_folder, load
from vaebook.models import VAE, BernoulliDecoder, Encoder, GaussianDecoder, mlp, seeded
from vaebook.objectives import LossFunction, negative_elbo, practical_loss
from vaebook.training import train, train_epoch

HIDDEN, LATENT_DIM, BATCH = 400, 20, 128
MOST_TO_FLOOR, MOST_MEMORY = 1.5, 1.5
LEAST_TO_OTHERS = {"pythae": 1.8, "pyro-ppl": 2.8, "tutorial": 4.5}


def rows(quick: bool = False, dataset: str = "mnist") -> list[Row]:
    steps, rounds = (2, 2) if quick else (86, 15)
    images = load(dataset)
    x = binarise(images.train, Generator().manual_seed(0))[: steps * BATCH]
    passes = contenders(dataset, x, images.train[: steps * BATCH], images.shape)
    for one_pass in passes.values():
        one_pass()  # to warm up
    whole = math.ceil(len(images.train) / BATCH) / math.ceil(len(x) / BATCH)
    found = interleaved({name: clock(one_pass) for name, one_pass in passes.items()}, rounds)
    seconds = {name: [whole * value for value in values] for name, values in found.items()}
    table = [Row(f"an epoch, {name}", values, "s") for name, values in seconds.items()]
    return [*table, *targets(found), bfloat16(x, rounds), memory(dataset, 1 if quick else 3)]


def contenders(dataset: str, x: Tensor, grey: Tensor, shape: tuple[int, int]) -> dict[str, others.Pass]:
    """Name to one pass over the same number of images; libraries that are not installed are left out."""
    sizes = HIDDEN, LATENT_DIM, BATCH
    passes = {
        "floor": products(x),
        "Bernoulli": ours(x, BernoulliDecoder, negative_elbo),
        "Gaussian": ours(grey, gaussian, practical_loss),
        "tutorial": others.tutorial(pictures(dataset, len(x), shape), x.shape[1], *sizes),
    }
    for name, make in (("pythae", others.pythae), ("pyro-ppl", others.pyro)):
        if installed(name):
            passes[name] = make(x, *sizes)
    return passes


def targets(seconds: dict[str, list[float]]) -> list[Row]:
    ours = seconds["Bernoulli"]
    table = [
        Row(f"{name} decoder, to the floor", ratios(seconds[name], seconds["floor"]), "×", most=MOST_TO_FLOOR)
        for name in ("Bernoulli", "Gaussian")
    ]
    for name, least in LEAST_TO_OTHERS.items():
        label = f"Bernoulli decoder, as fast as {name} {installed(name)}".strip()
        if name in seconds:
            table.append(Row(label, ratios(seconds[name], ours), "×", least=least))
        else:
            table.append(Row(label, least=least, note="not installed"))
    return table


def installed(name: str) -> str:
    """The version of a library, or nothing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def gaussian(network: nn.Module) -> GaussianDecoder:
    return GaussianDecoder(network, sigma_dec=0.2)


def vae(d: int, decoder: Callable[[Any], Any]) -> VAE:
    with seeded(0):
        encoder = Encoder(mlp(d, HIDDEN, 2 * LATENT_DIM))
        return VAE(encoder, decoder(mlp(LATENT_DIM, HIDDEN, d)), d, LATENT_DIM)


def ours(x: Tensor, decoder: Callable[[Any], Any], loss: LossFunction) -> others.Pass:
    """``vaebook.training``, with the optimiser that ``train`` makes."""
    model, generator = vae(x.shape[1], decoder), Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    return lambda: train_epoch(model, x, optimiser, BATCH, 1, generator, loss)


def products(x: Tensor) -> others.Pass:
    """The matrix products of each step at their shapes, and nothing else: no training can be faster.

    Forward, for the gradient of the weights, and for that of the layer's input, which the first has not.
    """
    d = x.shape[1]
    shapes = [(d, HIDDEN), (HIDDEN, 2 * LATENT_DIM), (LATENT_DIM, HIDDEN), (HIDDEN, d)]
    weights = [torch.randn(n_out, n_in) for n_in, n_out in shapes]
    inputs = [torch.randn(BATCH, n_in) for n_in, _ in shapes]
    outputs = [torch.randn(BATCH, n_out) for _, n_out in shapes]
    of_weights, of_inputs = ([torch.empty_like(t) for t in tensors] for tensors in (weights, inputs))

    def one_pass() -> None:
        for batch in x.split(BATCH):
            for k, weight in enumerate(weights):
                layer = batch if k == 0 else inputs[k][: len(batch)]
                y = outputs[k][: len(batch)]
                torch.mm(layer, weight.t(), out=y)
                torch.mm(y.t(), layer, out=of_weights[k])
                if k > 0:
                    torch.mm(y, weight, out=of_inputs[k][: len(batch)])

    return one_pass


def pictures(dataset: str, n: int, shape: tuple[int, int]) -> Any:
    """The data set of tutorials, torchvision's; for a trial without MNIST a made-up one."""
    from torchvision.datasets import MNIST, FakeData
    from torchvision.transforms import ToTensor

    if dataset != "mnist":
        return FakeData(n, (1, *shape), transform=ToTensor())
    return torch.utils.data.Subset(MNIST(str(data_folder()), transform=ToTensor()), range(n))


def bfloat16(x: Tensor, rounds: int) -> Row:
    """Whether a step under autocast to bfloat16 gains; a processor without units for it emulates it."""
    x = x[: 2 * BATCH]
    plain = ours(x, BernoulliDecoder, negative_elbo)
    other = ours(x, BernoulliDecoder, negative_elbo)

    def with_autocast() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            other()

    for action in (plain, with_autocast):
        action()  # to warm up
    found = interleaved({"float32": clock(plain), "bfloat16": clock(with_autocast)}, min(rounds, 3))
    gain = ratios(found["float32"], found["bfloat16"])
    note = "no gain, so not offered" if sorted(gain)[len(gain) // 2] < 1.1 else "a gain: worth a setting?"
    return Row("as fast in bfloat16 (autocast)", gain, "×", note=note)


def memory(dataset: str, rounds: int) -> Row:
    code = f"from benchmarks.epoch import print_memory; print_memory({dataset!r})"
    return Row(
        "memory to data + parameters + Adam's state",
        [fresh(code) for _ in range(rounds)],
        "×",
        most=MOST_MEMORY,
        note="peak of an epoch, over what importing costs",
    )


def print_memory(dataset: str) -> None:
    """In a fresh process: the peak of loading and one epoch, over what has to be in memory."""
    few = torch.zeros(BATCH, 784)
    train(vae(784, gaussian), few, few, epochs=1)  # torch imports parts of itself at the first step
    import torchvision  # noqa: F401

    before = status("VmRSS")
    images = load(dataset)
    model = vae(images.d, gaussian)
    train(model, images.train, images.validation, epochs=1)
    parts = [images.train, images.validation, images.test, *[p for p in model.parameters() for _ in range(3)]]
    print(json.dumps((status("VmHWM") - before) / (sum(part.nbytes for part in parts) / 1e6)))
