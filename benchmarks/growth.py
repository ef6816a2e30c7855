"""How time and memory grow with the batch, with m, and with the number of images, which lie in a mapped file.

Each measurement has a process of its own: what one leaves behind must not count for the next.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.measure import Row, fresh, interleaved, most_allocated, short
from vaebook.models import mlp_vae
from vaebook.objectives import practical_loss
from vaebook.training import train_epoch

D = 784
PICTURE = Path(__file__).with_name("growth.svg")
CAPTION = (
    f"![Time and memory against batch, m and number of images.]({PICTURE.name})\n\n"
    "*Points are medians, shades their range; dashed lines grow in proportion from the first point.*"
)
SIZES = {
    "batch": (32, 128, 512, 4096),
    "m": (2, 20, 200),
    "N": (1_000, 10_000, 100_000, 1_000_000),
}
UNITS = {"batch": "a step", "m": "a step", "N": "an epoch"}
QUICK = {"batch": (32, 64), "m": (2, 20), "N": (256, 512)}
IMAGES = 16_384  # of one measurement with a batch or an m
MOST_SLOPE = 1.05  # 1 is linear growth; the rest is for the clock
LEAST_MEGABYTES = 50.0  # less counts as this much: below, it is the allocator's habits that are seen

Found = dict[str, dict[int, dict[str, list[float]]]]


def rows(quick: bool = False, picture: Path | None = PICTURE) -> list[Row]:
    sizes, rounds = (QUICK, 1) if quick else (SIZES, 3)
    found = {kind: measure(kind, values, rounds, quick) for kind, values in sizes.items()}
    if picture is not None and not quick:
        draw(found, picture)
    return [row for kind in found for row in of_kind(kind, found[kind])]


def of_kind(kind: str, found: dict[int, dict[str, list[float]]]) -> list[Row]:
    table = []
    for size, values in found.items():
        note = f"{median(values['megabytes']):.0f} MB in use"
        if kind == "N":
            note += f"; to read the images alone, in the same order: {short(median(values['reading']))} ms"
        table.append(Row(f"{UNITS[kind]}, {kind} = {size:,}", values["milliseconds"], "ms", note=note))
    for name in ("milliseconds", "megabytes"):
        label = f"{'time' if name == 'milliseconds' else 'memory'}, steepest growth with {kind}"
        table.append(Row(label, slopes(found, name), "log/log", most=MOST_SLOPE))
    return table


def slopes(found: dict[int, dict[str, list[float]]], name: str) -> list[float]:
    """For each round, the steepest of the slopes from one size to the next, on two logarithmic axes."""
    least = LEAST_MEGABYTES if name == "megabytes" else 0.0
    sizes = list(found)
    rounds = zip(*(found[size][name] for size in sizes), strict=True)
    steepest = []
    for values in rounds:
        logs = [math.log(max(value, least)) for value in values]
        pairs = pairwise(zip(sizes, logs, strict=True))
        steepest.append(max((b - a) / math.log(n / k) for (k, a), (n, b) in pairs))
    return steepest


def measure(kind: str, sizes: Sequence[int], rounds: int, quick: bool) -> dict[int, dict[str, list[float]]]:
    """Size to the milliseconds and the megabytes of each round."""
    found: dict[int, dict[str, list[float]]] = {n: {"milliseconds": [], "megabytes": [], "reading": []} for n in sizes}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pixels"
        rows_of_file = max(sizes) if kind == "N" else 512 if quick else IMAGES
        write_pixels(file, rows_of_file)

        def once(size: int) -> float:
            n = size if kind == "N" else rows_of_file
            code = f"from benchmarks.growth import run; run({kind!r}, {size}, {str(file)!r}, {n})"
            result = fresh(code)
            for name in ("megabytes", "reading"):
                found[size][name].append(result[name])
            return result["milliseconds"]

        times = interleaved({str(size): partial(once, size) for size in sizes}, rounds)
    for size in sizes:
        found[size]["milliseconds"] = times[str(size)]
    return found


def write_pixels(file: Path, n: int) -> None:
    """n made-up pictures of float32, one after the other: a file that need not fit into memory."""
    generator = Generator().manual_seed(0)
    block = (torch.rand(1000, D, generator=generator) < 0.2).float().numpy().tobytes()
    with file.open("wb") as out:
        for start in range(0, n, 1000):
            out.write(block[: min(1000, n - start) * D * 4])


def run(kind: str, size: int, file: str, n: int) -> None:
    """In a fresh process: an epoch over the first n pictures of the file; prints what it took."""
    x = torch.from_file(file, size=n * D).view(n, D)
    # For N a model so small that reading the pictures shows.
    hidden, m = (32, 2) if kind == "N" else (400, size if kind == "m" else 20)
    model = mlp_vae(D, m, hidden=(hidden,))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    batch = size if kind == "batch" else 128

    def one_pass(x: Tensor) -> None:
        train_epoch(model, x, optimiser, batch, 1, Generator().manual_seed(0), practical_loss)

    one_pass(x[: 2 * batch])  # torch imports parts of itself at the first step
    begun = time.perf_counter()
    megabytes = most_allocated(lambda: one_pass(x))
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    for chosen in torch.randperm(n, generator=Generator().manual_seed(0)).split(batch):
        x.index_select(0, chosen)
    reading = 1000 * (time.perf_counter() - begun)
    steps = 1 if kind == "N" else n / batch
    found = {"milliseconds": 1000 * seconds / steps, "megabytes": max(megabytes, 0.0), "reading": reading}
    print(json.dumps(found))


def draw(found: Found, picture: Path) -> None:
    """Time above, memory below; a dashed line grows linearly from the first point."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.style.use(str(Path(__file__).parent.parent / "vaebook" / "book.mplstyle"))
    figure, axes = plt.subplots(2, len(found), figsize=(9, 5), sharex="col", layout="constrained")
    for column, (kind, sizes) in enumerate(found.items()):
        for row, (name, unit) in enumerate((("milliseconds", "ms"), ("megabytes", "MB"))):
            panel(axes[row, column], sizes, name)
            axes[row, column].set_ylabel(f"{UNITS[kind]}, {unit}" if row == 0 else f"in use, {unit}")
        axes[1, column].set_xlabel({"batch": "batch", "m": "m", "N": "N, images in a mapped file"}[kind])
    figure.savefig(picture, metadata={"Date": None})
    plt.close(figure)


def panel(axes: Any, found: dict[int, dict[str, list[float]]], name: str) -> None:
    sizes = list(found)
    middle = [median(values[name]) for values in found.values()]
    low, high = ([end(values[name]) for values in found.values()] for end in (min, max))
    axes.plot(sizes, middle, "o-")
    axes.fill_between(sizes, low, high, alpha=0.3)
    linear = [middle[0] * size / sizes[0] for size in sizes]
    axes.plot(sizes, linear, "--", color="grey", linewidth=1)
    axes.set(xscale="log", yscale="log", ylim=(min(low) / 2, max(high) * 2))
