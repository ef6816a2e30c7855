"""Run chapters at seeds that nobody looked at while writing them: `python tests/replicate.py FOLDER [--seeds N] [STEM…]`.

It counts how often each check and each claim held, by default at 20 seeds from 100 on, ten apart, since a chapter uses
several in a row. A run that is in the folder, of the same code, is not run again. The counts go into
``pages/evidence.json``, which the page of checks shows.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from evidence import COMPUTING, cells_of, digest, store

FIRST, APART = 100, 10


def run(stem: str, seed: int) -> dict[str, Any]:
    """What each check and claim of a chapter says at a seed, and how the run ended; in a process of its own."""
    import matplotlib
    import torch

    from vaebook import ledger

    matplotlib.use("agg")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found: dict[str, list[bool]] = {}
    check, claim = ledger.check, ledger.claim

    def shown(what: str, line: str, data: dict[str, Any], mark: str = "") -> None:
        found.setdefault(what, []).append(data.get("holds", True))

    def noted(label: str, *sides: Any, **options: Any) -> None:
        try:
            check(label, *sides, **options)
        except ledger.CheckFailed:
            found.setdefault(label, []).append(False)

    def weighed(sentence: str, rows: Any, **margin: Any) -> None:
        claim(sentence, rows, **margin | {"book": False})

    space, ended = {"__name__": "__main__", "display": print}, "well"
    instead = patch.multiple(ledger, show=shown, check=noted, claim=weighed)
    with contextlib.redirect_stdout(io.StringIO()), instead:
        for source in cells_of(stem):
            try:
                exec(compile(source, "chapter", "exec"), space)
            except Exception as error:
                ended = f"{type(error).__name__}: {error}"[:300]
                break
            if "seed: int = " in source:  # the parameters
                space["seed"] = seed
    return {"ended": ended, "found": {what: all(held) for what, held in found.items()}}


def run_once(folder: Path, job: tuple[str, int]) -> tuple[str, int]:
    """Run a chapter at a seed, unless the folder has it; the process is for that alone."""
    stem, seed = job
    path, start = folder / f"{stem}-{seed}-{digest(stem)}.json", time.monotonic()
    if not path.exists():
        result = run(stem, seed) | {"seconds": round(time.monotonic() - start)}
        path.with_suffix(".part").write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
        path.with_suffix(".part").replace(path)
        not_held = [what for what, held in result["found"].items() if not held]
        print(f"{stem} at {seed}: ended {result['ended']} in {result['seconds']} s; not held: {not_held}", flush=True)
    return job


def counts(folder: Path, stem: str, seeds: list[int]) -> dict[str, Any]:
    """For each check and claim, at how many of the seeds it held; a run that broke off has not held what it left out."""
    paths = [folder / f"{stem}-{seed}-{digest(stem)}.json" for seed in seeds]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    everything = list(dict.fromkeys(what for result in results for what in result["found"]))
    held = {what: sum(result["found"].get(what, False) for result in results) for what in everything}
    return {"seeds": seeds, "held": held, "ended": sum(result["ended"] == "well" for result in results)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("stems", nargs="*", help="names of chapters such as 01_kl; none is all")
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    words = parser.parse_args()
    folder, n, stems = words.folder, words.seeds, words.stems or COMPUTING
    seeds = [FIRST + APART * k for k in range(n)]
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = [(stem, seed) for stem in stems for seed in seeds]
    left = dict.fromkeys(stems, n)
    # Spawned, so that none inherits what another has set.
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        for stem, _ in pool.imap_unordered(partial(run_once, folder), jobs):
            left[stem] -= 1
            if not left[stem]:
                store("replication", stem, counts(folder, stem, seeds))


if __name__ == "__main__":
    main()
