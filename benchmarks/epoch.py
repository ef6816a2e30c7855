"""One epoch of MNIST by this module, by others, and by the products and Adam's pass that a step cannot do without.

784-400-20, batches of 128, Adam, float32, all cores. A part of the epoch is measured and scaled to the whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Generator, Tensor, nn

from benchmarks import others
from benchmarks.measure import ROOT, Row, clock, fresh, has_compiler, interleaved, ratios, status
from vaebook.data import binarise, data_folder, load
from vaebook.estimates import effect
from vaebook.faster import arithmetic, compiled
from vaebook.models import VAE, BernoulliDecoder, Encoder, GaussianDecoder, mlp, seeded
from vaebook.objectives import LossFunction, elbo, negative_elbo, practical_loss
from vaebook.training import train, train_epoch

HIDDEN, LATENT_DIM, BATCH = 400, 20, 128
LIMIT, HALF_LIMIT = "the limit: products and Adam's pass alone", "the limit in bfloat16"
OURS, GAUSSIAN, COMPILED = "this module", "this module, Gaussian decoder", "this module, compiled"
HALF, BOTH, TUTORIAL = "this module, bfloat16", "this module, compiled, bfloat16", "a tutorial's loop"
MOST_TO_LIMIT = {OURS: 1.4, GAUSSIAN: 1.4, COMPILED: 1.3, BOTH: 0.9}
LEAST_TO_OTHERS: dict[str, dict[str, float | None]] = {
    COMPILED: {"pythae": 1.5, "pyro-ppl": 1.5, TUTORIAL: 2.7},
    BOTH: {"pythae": 1.9, "pyro-ppl": 1.9},
    OURS: {"pythae": None, "pyro-ppl": None, TUTORIAL: None},  # side by side
}
LEAST_GAIN, MOST_ERRORS, MOST_MEMORY = 1.15, 2.0, 1.5
PICTURE = Path(__file__).with_name("epoch.svg")
CAPTION = (
    f"![Seconds for an epoch, of this module, of others, and of the products alone.]({PICTURE.name})\n\n"
    "*Bars are medians, lines their range. Grey: what no step can do without.*"
)


def rows(quick: bool = False, dataset: str = "mnist", picture: Path | None = PICTURE) -> list[Row]:
    steps, rounds = (2, 2) if quick else (86, 15)
    images = load(dataset)
    x = binarise(images.train, Generator().manual_seed(0))[: steps * BATCH]
    passes = contenders(dataset, x, images.train[: steps * BATCH], images.shape)
    for one_pass in passes.values():
        one_pass()  # to warm up, and to compile
    whole = math.ceil(len(images.train) / BATCH) / math.ceil(len(x) / BATCH)
    found = interleaved({name: clock(one_pass) for name, one_pass in passes.items()}, rounds)
    seconds = {name: [whole * value for value in values] for name, values in found.items()}
    if picture is not None and not quick:
        draw(seconds, picture)
    table = [Row(f"an epoch: {name}", values, "s") for name, values in seconds.items()]
    return [*table, *targets(found), agreement(x, quick), memory(dataset, 1 if quick else 3)]


def contenders(dataset: str, x: Tensor, grey: Tensor, shape: tuple[int, int]) -> dict[str, others.Pass]:
    """Name to one pass over the same number of images; what is not installed or not possible here is left out."""
    sizes = HIDDEN, LATENT_DIM, BATCH
    passes = {
        LIMIT: limit(x, torch.float32),
        OURS: ours(x, BernoulliDecoder, negative_elbo),
        GAUSSIAN: ours(grey, gaussian, practical_loss),
        TUTORIAL: others.tutorial(pictures(dataset, len(x), shape), x.shape[1], *sizes),
    }
    if has_compiler():
        passes[COMPILED] = ours(x, BernoulliDecoder, compiled(negative_elbo))
    if has_units():
        passes[HALF_LIMIT] = limit(x, torch.bfloat16)
        passes[HALF] = in_bfloat16(passes[OURS])
    if has_compiler() and has_units():
        passes[BOTH] = in_bfloat16(ours(x, BernoulliDecoder, compiled(negative_elbo)))
    for name, make in (("pythae", others.pythae), ("pyro-ppl", others.pyro)):
        if installed(name):
            passes[name] = make(x, *sizes)
    return passes


def has_units() -> bool:
    """Whether this processor multiplies in bfloat16 without emulating it."""
    try:
        arithmetic("bfloat16", torch.device("cpu"))
    except ValueError:
        return False
    return True


def in_bfloat16(one_pass: others.Pass) -> others.Pass:
    def other() -> None:
        with arithmetic("bfloat16", torch.device("cpu")):
            one_pass()

    return other


def targets(seconds: dict[str, list[float]]) -> list[Row]:
    table = []
    for name, most in MOST_TO_LIMIT.items():
        reached = ratios(seconds[HALF_LIMIT], seconds[LIMIT]) if name == BOTH and name in seconds else ()
        table.append(compared(seconds, name, LIMIT, f"{name}: to the limit", most=most, reached=reached))
    for name, other_to_least in LEAST_TO_OTHERS.items():
        for other, least in other_to_least.items():
            label = f"{name}: as fast as {other} {installed(other)}".strip()
            table.append(compared(seconds, other, name, label, least=least))
    table.append(compared(seconds, OURS, HALF, f"{HALF}: as fast as {OURS}", least=LEAST_GAIN))
    return table


def compared(seconds: dict[str, list[float]], above: str, below: str, label: str, **target: Any) -> Row:
    if missing := [name for name in (above, below) if name not in seconds]:
        needed = {COMPILED: "a C++ compiler", HALF: "units for bfloat16", BOTH: "a compiler and units for bfloat16"}
        return Row(label, note=f"needs {needed[missing[0]]}" if missing[0] in needed else "not installed", **target)
    return Row(label, ratios(seconds[above], seconds[below]), "×", **target)


def installed(name: str) -> str:
    """The version of a library, or nothing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def gaussian(network: nn.Module) -> GaussianDecoder:
    return GaussianDecoder(network, sigma_dec=0.2)


def vae(d: int, decoder: Callable[[Any], Any], seed: int = 0) -> VAE:
    with seeded(seed):
        encoder = Encoder(mlp(d, HIDDEN, 2 * LATENT_DIM))
        return VAE(encoder, decoder(mlp(LATENT_DIM, HIDDEN, d)), d, LATENT_DIM)


def ours(x: Tensor, decoder: Callable[[Any], Any], loss: LossFunction) -> others.Pass:
    """``vaebook.training``, with the optimiser that ``train`` makes."""
    model, generator = vae(x.shape[1], decoder), Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    return lambda: train_epoch(model, x, optimiser, BATCH, 1, generator, loss)


def limit(x: Tensor, dtype: torch.dtype) -> others.Pass:
    """The matrix products of each step at their shapes, Adam's pass over the weights, and nothing else.

    No training can be faster that multiplies step by step and keeps Adam's state. Products: forward, for the gradient
    of the weights, and for that of the layer's input, which the first has not. Adam's state is of float32.
    """
    d = x.shape[1]
    shapes = [(d, HIDDEN), (HIDDEN, 2 * LATENT_DIM), (LATENT_DIM, HIDDEN), (HIDDEN, d)]
    weights = [torch.randn(n_out, n_in).to(dtype) for n_in, n_out in shapes]
    inputs = [torch.randn(BATCH, n_in).to(dtype) for n_in, _ in shapes]
    outputs = [torch.randn(BATCH, n_out).to(dtype) for _, n_out in shapes]
    of_weights, of_inputs = ([torch.empty_like(t) for t in tensors] for tensors in (weights, inputs))
    state = [nn.Parameter(weight.float()) for weight in weights]
    for parameter in state:
        parameter.grad = torch.full_like(parameter, 1e-3)
    adam, x = torch.optim.Adam(state, lr=1e-3, fused=True), x.to(dtype)

    def one_pass() -> None:
        for batch in x.split(BATCH):
            for k, weight in enumerate(weights):
                layer = batch if k == 0 else inputs[k][: len(batch)]
                y = outputs[k][: len(batch)]
                torch.mm(layer, weight.t(), out=y)
                torch.mm(y.t(), layer, out=of_weights[k])
                if k > 0:
                    torch.mm(y, weight, out=of_inputs[k][: len(batch)])
            adam.step()

    return one_pass


def pictures(dataset: str, n: int, shape: tuple[int, int]) -> Any:
    """The data set of tutorials, torchvision's; for a trial without MNIST a made-up one."""
    from torchvision.datasets import MNIST, FakeData
    from torchvision.transforms import ToTensor

    if dataset != "mnist":
        return FakeData(n, (1, *shape), transform=ToTensor())
    return torch.utils.data.Subset(MNIST(str(data_folder()), transform=ToTensor()), range(n))


def agreement(x: Tensor, quick: bool) -> Row:
    """After an equal training, ℒ in bfloat16 minus ℒ in float32, in its standard errors over three seeds."""
    label = f"{HALF}: ℒ differs by so many standard errors (3 seeds)"
    if not has_units():
        return Row(label, most=MOST_ERRORS, note="needs units for bfloat16")
    differences = []
    for seed in range(3):
        bounds = [bound_after(x, precision, seed, 1 if quick else 20) for precision in ("bfloat16", "float32")]
        differences.append(bounds[0] - bounds[1])
    found = effect(torch.stack(differences))
    return Row(label, [abs(found.z_score(0))], "", most=MOST_ERRORS, note=f"ℒ in bfloat16 − ℒ in float32: {found} nats")


def bound_after(x: Tensor, precision: str, seed: int, epochs: int) -> Tensor:
    """ℒ of the last tenth of the images, which are not trained on; evaluated in float32, with the same noise."""
    model, n = vae(x.shape[1], BernoulliDecoder, seed), len(x) * 9 // 10
    train(
        model, x[:n], x[n:], epochs=epochs, batch_size=BATCH, seed=seed, loss=negative_elbo, precision=precision,
        progress=False,
    )  # fmt: skip
    with torch.no_grad():
        return elbo(model, x[n:], 10, Generator().manual_seed(seed))


def draw(seconds: dict[str, list[float]], picture: Path) -> None:
    """A bar for each, the fastest on top, with its range over the rounds."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.style.use(str(ROOT / "vaebook" / "book.mplstyle"))
    names = sorted(seconds, key=lambda name: median(seconds[name]), reverse=True)
    figure, axes = plt.subplots(figsize=(7, 0.32 * len(names) + 0.8), layout="constrained")
    middle = [median(seconds[name]) for name in names]
    reach = [[m - min(seconds[n]) for n, m in zip(names, middle, strict=True)],
             [max(seconds[n]) - m for n, m in zip(names, middle, strict=True)]]  # fmt: skip
    colours = ["0.7" if "limit" in name else "C0" if "module" in name else "C1" for name in names]
    labels = [f"{name} {installed(name)}".strip() for name in names]
    axes.barh(labels, middle, xerr=reach, color=colours, error_kw={"linewidth": 1, "ecolor": "0.3"})
    axes.set_xlabel("seconds for an epoch of MNIST")
    figure.savefig(picture, metadata={"Date": None})
    plt.close(figure)


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
