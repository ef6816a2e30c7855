"""Execute every chapter with parameters other than its defaults: `python tests/other_parameters.py FOLDER`.

What a chapter claims has to hold for other seeds and sizes too, not only for the stored ones. Each run goes through the
command that readers use, and leaves its notebook in FOLDER.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vaebook_runner.chapters import read_notebook
from vaebook_runner.parameters import parameters_of

ROOT = Path(__file__).parent.parent
# No chapter's defaults. The epochs stay: claims about training rest on them.
OTHER = {"seed": "1", "latent_dim": "3", "hidden": "200", "objective": "iwae", "k": "2"}


def run(chapter: Path, folder: Path) -> int:
    """One chapter in a process of its own; 0 when every cell ran."""
    defaults = parameters_of(read_notebook(chapter), chapter.name).defaults
    values = {name: value for name, value in OTHER.items() if name in defaults}
    # The size of an average in the early chapters, draws for each image in the late.
    if default := int(defaults.get("n_samples", 0)):
        values["n_samples"] = str(default // 4 if default > 1000 else default + 1)
    options = [word for name, value in values.items() for word in ("-p", name, value)]
    out = folder / f"{chapter.stem}.ipynb"
    command = [sys.executable, "-m", "vaebook_runner", "run", str(chapter), *options, "-o", str(out)]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    print(f"{chapter.stem} {' '.join(options)}: {'ok' if status == 0 else f'status {status}'}", flush=True)
    return status


def main() -> int:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    chapters = sorted((ROOT / "notebooks").glob("[0-9]*.md"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return max(pool.map(lambda chapter: run(chapter, folder), chapters))


if __name__ == "__main__":
    sys.exit(main())
