"""Execute chapters at the ends of their parameters' ranges: `python tests/ranges_of_chapters.py FOLDER [--sample] [STEM…]`.

A declared range is a promise: a run with any value in it ends well. A case takes one parameter to an end of its range,
or images of a reader's own, with the fewest epochs; two more take all parameters to other values, with a quarter of the
epochs, and to their smallest. The sample is one of these two of each chapter. A case that went well is not run again
while the folder stays.
"""

import argparse
import ast
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
import numpy as np
from evidence import store
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

from vaebook_runner.chapters import read_notebook
from vaebook_runner.jobs import Job, make_jobs
from vaebook_runner.parameters import Value, parameters_of
from vaebook_runner.sweep import here, sweep

CHAPTERS = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9]*.md"))
Values = dict[str, Value]
# Beyond what a chapter's default says: what is larger still takes longer, and is of the same kind.
LARGE: dict[str, tuple[Value, ...]] = {
    "latent_dim": (40,),
    "sigma_dec": (1.0, 10.0),
    "hidden": (300,),
    "n_samples": (),  # follows from the default: an average in some chapters, draws for each image in others
    "epochs": (),  # the defaults are large
    "batch_size": (5000,),  # more than there are images
    "learning_rate": (),  # has a largest value
    "seed": (2**40 + 5,),  # torch keeps the low 32 bits
    "objective": ("iwae",),
    "k": (7,),
    "budget": (),  # what is not "smoke" takes hours
    "passes": (3,),
    "precision": (),  # not every processor has units for another
    "keep": (),  # a folder
    "dataset": (),  # see own_images
}
# Twenty seconds or more at their smallest, on a loaded core: of these the sample has other values.
SLOW = (
    "01_kl", "02_maximum_likelihood", "03_latent_variables", "04_elbo", "10_good_loss", "11_linear_vae",
)  # fmt: skip
# No chapter's defaults.
OTHER: Values = {"seed": 1, "latent_dim": 3, "hidden": 200, "objective": "iwae", "k": 2}


class Range(NamedTuple):
    kind: str  # of the check, "at_least" or "above"
    least: float
    most: float | None  # None: none, or one that depends on the images


def code(chapter: Path) -> list[Any]:
    return [cell for cell in jupytext.read(chapter).cells if cell.cell_type == "code"]


def checked(chapter: Path) -> dict[str, Range]:
    """The parameters whose range a chapter checks, each with its first check."""
    found: dict[str, Range] = {}
    for node in (node for cell in code(chapter) for node in ast.walk(ast.parse(cell.source))):
        match node:
            case ast.Call(ast.Name("at_least" | "above" as kind), [ast.Constant(least)], keywords):
                words = {str(k.arg): k.value for k in keywords}
                most = words.pop("most", None)
                limit = most.value if isinstance(most, ast.Constant) else None
                for name in (name for name, value in words.items() if ast.unparse(value) == name):
                    found.setdefault(name, Range(kind, float(least), limit))
    return found


def own_images(folder: Path) -> dict[str, Path]:
    """Files of images unlike the digits: in shape, grey levels and number, one with labels."""
    bunch = load_digits()
    x = bunch.images / 16
    wide = zoom(x[:400], (1, 1.5, 2.5), order=1).clip(0, 1)  # 12 × 20 pixels
    scans = 5e4 * wide + np.random.default_rng(0).integers(0, 9_000, wide.shape)
    arrays = {
        "wide": {"images": (255 * wide).astype(np.uint8), "labels": bunch.target[:400]},
        "border": {"images": np.pad(x[:400], ((0, 0), (2, 2), (2, 2)))},  # constant pixels
        "two": {"images": x[:400] > 0.5},
        "fewest": {"images": (255 * x[:100]).astype(np.uint8)},
        "scan": {"images": scans.astype(np.uint16)},
        "bright": {"images": 1 - 0.3 * wide},
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.npz" for name in arrays}
    for name, content in arrays.items():
        if not paths[name].exists():
            np.savez(paths[name], **content)
    return paths


def smallest(range_: Range) -> Value:
    if range_.kind == "at_least":
        return int(range_.least)
    return 1.001 * range_.least or 1e-6


def ends(name: str, range_: Range | None, default: Value) -> list[Value]:
    """The values of a parameter that are tried, without its default."""
    large = LARGE[name]
    if name == "n_samples":
        large = (2 * int(default) + 3,)
    if range_ is None:  # a text
        return [value for value in large if value != default]
    if range_.most is not None:
        large = (range_.most,)
    return [value for value in (smallest(range_), *large) if value != default]


def cases(chapter: Path, own: dict[str, Path], sample: bool) -> Iterator[tuple[str, Values]]:
    """What each run of a chapter is called, and its values."""
    defaults, ranges = parameters_of(read_notebook(chapter), chapter.name).defaults, checked(chapter)
    few: Values = {"epochs": smallest(ranges["epochs"])} if "epochs" in ranges else {}
    other = {name: value for name, value in OTHER.items() if name in defaults}
    if default := int(defaults.get("n_samples", 0)):
        other["n_samples"] = default // 4 if default > 1000 else default + 1
    if default := int(defaults.get("epochs", 0)):
        other["epochs"] = max(smallest(ranges["epochs"]), default // 4)
    least = {name: smallest(range_) for name, range_ in ranges.items()}
    together = {
        "other": {n: v for n, v in other.items() if n not in ranges or v <= (ranges[n].most or v)},
        "smallest": least | ({"dataset": str(own["fewest"])} if "dataset" in defaults else {}),
    }
    if sample:
        label = "other" if chapter.stem in SLOW else "smallest"
        yield label, together[label]
        return
    yield from together.items()
    for name, default in defaults.items():
        for value in ends(name, ranges.get(name), default):
            yield f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}", few | {name: value}
    for name, path in own.items() if "dataset" in defaults else ():
        yield f"dataset={name}", few | {"dataset": str(path)}


def plan(folder: Path, stems: list[str], sample: bool) -> list[Job]:
    own = own_images(folder.resolve() / "own")
    chapters = [chapter for chapter in CHAPTERS if not stems or chapter.stem in stems]
    jobs = []
    for chapter in chapters:
        for label, values in cases(chapter, own, sample):
            (job,) = make_jobs(chapter, folder, [values])
            jobs.append(job._replace(label=f"{chapter.stem} {label}", timeout=900))
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("stems", nargs="*", help="names of chapters such as 01_kl; none is all")
    parser.add_argument("--sample", action="store_true")
    words = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = plan(words.folder, words.stems, words.sample)
    try:
        print(sweep(jobs, partial(here, os.cpu_count() or 1)))
    finally:
        for stem in {job.label.split()[0] for job in jobs} if not words.sample else ():
            mine = [job for job in jobs if job.label.startswith(f"{stem} ")]
            store("ranges", stem, {"runs": len(mine), "well": sum(job.is_done() for job in mine)})


if __name__ == "__main__":
    main()
