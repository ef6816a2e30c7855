"""The importance-weighted estimate: how much of the rate of matrix products it reaches, and its memory.

10,000 images with 5,000 draws each are 5·10⁷ decodings; a part of them is measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import median

import torch
from torch import Generator

from benchmarks.measure import Row, clock, fresh, has_compiler, interleaved, ratios, status
from vaebook.evaluation import log_likelihood
from vaebook.models import VAE, BernoulliDecoder, Encoder, mlp, seeded

D, WIDTHS = 784, (200, 200, 50)  # the decoder is 50-200-200-784
WHOLE = 10_000 * 5_000
ROWS = 1024  # of the products at the decoder's shapes, as many as the estimate decodes at once
LEAST_RATE, MOST_GROWTH = 0.6, 1.1
PLAIN, COMPILED = "the estimate", "the estimate, compiled"
SQUARE, SHAPES = "square products", "products at the decoder's shapes"


def rows(quick: bool = False) -> list[Row]:
    images, draws, side, rounds = (16, 200, 256, 2) if quick else (96, 16_384, 3072, 5)
    model, x = vae(), black_and_white(images)
    square, shapes = [(side, side, side)], [(ROWS, k, n) for k, n in layers()]
    decodings = images * draws
    estimate = partial(log_likelihood, model, x, draws)
    work = {  # floating-point operations; those of the encoder and of all that is no product do not count
        PLAIN: decodings * sum(2 * k * n for k, n in layers()),
        SQUARE: operations(square),
        SHAPES: operations(shapes),
    }
    actions: dict[str, Callable[[], object]] = {
        PLAIN: estimate,
        SQUARE: products(square),
        SHAPES: products(shapes),
    }
    if has_compiler() and not quick:
        work[COMPILED], actions[COMPILED] = work[PLAIN], partial(estimate, compile=True)
    for action in actions.values():
        action()  # to warm up, and to compile
    seconds = interleaved({name: clock(action) for name, action in actions.items()}, rounds)
    rates = {name: [work[name] / s / 1e9 for s in values] for name, values in seconds.items()}
    whole = {name: median(values) * WHOLE / decodings / 60 for name, values in seconds.items()}
    notes = {name: f"10,000 × 5,000 in {whole[name]:.1f} min" for name in (PLAIN, COMPILED) if name in whole}
    table = [Row(name, values, "GFLOP/s", note=notes.get(name, "")) for name, values in rates.items()]
    return [*table, *to_square_products(rates, quick), *memory(quick)]


def to_square_products(rates: dict[str, list[float]], quick: bool) -> list[Row]:
    table = [Row(f"{PLAIN}: to square products", ratios(rates[PLAIN], rates[SQUARE]), "×")]
    label = f"{COMPILED}: to square products"
    if COMPILED not in rates:
        return [*table, Row(label, least=LEAST_RATE, note="not in a quick run" if quick else "needs a C++ compiler")]
    return [*table, Row(label, ratios(rates[COMPILED], rates[SQUARE]), "×", least=LEAST_RATE)]


def layers() -> list[tuple[int, int]]:
    widths = [*reversed(WIDTHS), D]
    return list(pairwise(widths))


def operations(shapes: list[tuple[int, int, int]]) -> int:
    return sum(2 * n * k * m for n, k, m in shapes)


def products(shapes: list[tuple[int, int, int]]) -> Callable[[], object]:
    factors = [(torch.randn(n, k), torch.randn(k, m), torch.empty(n, m)) for n, k, m in shapes]

    def all_of_them() -> None:
        for a, b, c in factors:
            torch.mm(a, b, out=c)

    return all_of_them


def vae() -> VAE:
    with seeded(0):
        encoder = Encoder(mlp(D, *WIDTHS[:-1], 2 * WIDTHS[-1]))
        decoder = BernoulliDecoder(mlp(WIDTHS[-1], *reversed(WIDTHS[:-1]), D))
    return VAE(encoder, decoder, D, WIDTHS[-1])


def black_and_white(n: int) -> torch.Tensor:
    return (torch.rand(n, D, generator=Generator().manual_seed(0)) < 0.2).float()


def memory(quick: bool) -> list[Row]:
    """Memory with many draws, and with many images, over that with few of either."""
    few, many = (200, 400) if quick else (256, 16_384)
    cases = {"few": (32, few), "K": (32, many), "N": (32 * many // few, few)}
    code = "from benchmarks.likelihood import print_memory; print_memory({}, {})"
    measures = {name: (lambda case=case: fresh(code.format(*case))) for name, case in cases.items()}
    found = interleaved(measures, 1 if quick else 3)
    table = []
    for name, what in (("K", "draws"), ("N", "images")):
        label = f"the estimate's memory with {many // few} × as many {what}"
        note = f"{median(found['few']):.0f} and {median(found[name]):.0f} MB beyond the images"
        table.append(Row(label, ratios(found[name], found["few"]), "×", most=MOST_GROWTH, note=note))
    return table


def print_memory(images: int, draws: int) -> None:
    model, x = vae(), black_and_white(images)
    log_likelihood(model, x[:1], 1)  # what the first call alone needs
    before = status("VmRSS")
    log_likelihood(model, x, draws)
    print(json.dumps(status("VmHWM") - before))
