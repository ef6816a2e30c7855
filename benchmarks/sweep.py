"""What a sweep costs: beside papermill alone, for one run, and for ten thousand that are done.

    python benchmarks/sweep.py [--runs 64] [--records 10000]

Both sides execute the same short chapter, two at a time, one after the other on the same machine. Measure on
a quiet machine; with 64 runs it takes several minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import mean

import nbformat

from vaebook_runner import records, results
from vaebook_runner.execute import cores
from vaebook_runner.jobs import plan_sweep
from vaebook_runner.records import Measured, Record
from vaebook_runner.sweep import here, sweep

AT_ONCE = 2
HIGHEST_RATIO = 0.6
MOST_OVERHEAD = 0.8  # seconds
MOST_BOOKKEEPING = 3.0  # seconds

CELLS = [
    "seed: int = 0  # of the generator",
    "import matplotlib.pyplot as plt\nimport torch\nimport torchvision\n\nfrom vaebook.ledger import record",
    "x = torch.randn(1000, generator=torch.Generator().manual_seed(seed))\nrecord('tiny-mean', x.mean())",
    "plt.plot(x.cumsum(0))\nplt.show()",
]


def write_chapter(path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def timed(command: list[str], folder: Path, said: str | None = None) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = time.monotonic()
    subprocess.run(command, cwd=folder, input=said, text=True, capture_output=True, check=True, env=environment)
    return time.monotonic() - begun


def seconds_of_sweep(folder: Path, runs: int) -> float:
    words = ["sweep", "tiny.ipynb", "--seeds", str(runs), "--jobs", str(AT_ONCE), "-o", "runs"]
    return timed([sys.executable, "-m", "vaebook_runner", *words], folder)


def seconds_of_papermill(folder: Path, runs: int) -> float:
    (folder / "alone").mkdir()
    one = [
        sys.executable,
        "-m",
        "papermill",
        "--no-progress-bar",
        "tiny.ipynb",
        "alone/{}.ipynb",
        "-p",
        "seed",
        "{}",
    ]
    seeds = "".join(f"{seed}\n" for seed in range(runs))
    return timed(["xargs", "-P", str(AT_ONCE), "-I", "{}", *one], folder, seeds)


def overhead(folder: Path) -> float:
    """Mean seconds of a run beyond its cells' own, without those that waited for the libraries to load."""
    runs = sorted(records.read_all(folder)[0].values(), key=lambda record: record.began)[AT_ONCE:]
    return mean(record.seconds - record.cell_seconds for record in runs)


def seconds_of_bookkeeping(folder: Path, count: int) -> tuple[float, float]:
    """Seconds to resume a sweep that is done, and to list its runs."""
    chapter, runs = folder / "tiny.ipynb", folder / "many"
    runs.mkdir()
    for job in plan_sweep(chapter, runs, {}, {}, count):
        values = {"tiny-mean": Measured(value=0.5, stderr=0.1)}
        record = Record(id=job.id, status="done", chapter="tiny", parameters=job.values, values=values)
        job.record.write_text(record.model_dump_json())
        job.notebook.write_text("")
    begun = time.monotonic()
    sweep(plan_sweep(chapter, runs, {}, {}, count), partial(here, cores()))
    resumed = time.monotonic()
    results.text(results.read(runs)[0].sort_values("tiny-mean", ascending=False))
    return resumed - begun, time.monotonic() - resumed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--records", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_chapter(folder / "tiny.ipynb")
        resume, listing = seconds_of_bookkeeping(folder, arguments.records)
        ours = seconds_of_sweep(folder, arguments.runs)
        beyond = overhead(folder / "runs")
        alone = seconds_of_papermill(folder, arguments.runs)
    verdicts = {
        f"sweep of {arguments.runs} runs, {ours:.1f} s, to papermill, {alone:.1f} s": (
            ours / alone,
            HIGHEST_RATIO,
        ),
        "seconds of a run beyond its cells": (beyond, MOST_OVERHEAD),
        f"seconds to resume {arguments.records} runs that are done": (resume, MOST_BOOKKEEPING),
        f"seconds to list {arguments.records} runs": (listing, MOST_BOOKKEEPING),
    }
    for what, (found, most) in verdicts.items():
        print(f"{'✓' if found <= most else '✗'} {what}: {found:.2f}, at most {most}")
    print(json.dumps({"load": os.getloadavg()[0], "cores": os.cpu_count()}))
    return int(any(found > most for found, most in verdicts.values()))


if __name__ == "__main__":
    sys.exit(main())
