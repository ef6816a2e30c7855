"""The tests bite: each of the small mistakes in `tests/mutants.py` makes one of them fail."""

import subprocess
import sys
from pathlib import Path


def test_every_slip_in_the_mathematics_is_noticed() -> None:
    command = [sys.executable, "tests/mutants.py"]
    run = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    lines = run.stdout.splitlines()
    assert run.returncode == 0, "\n".join([line for line in lines if "SURVIVED" in line] + [run.stderr])
    caught = [line for line in lines if line.startswith("caught  ")]
    assert len(caught) >= 40
    assert lines[-1] == f"{len(caught)} of {len(caught)} mutants caught"
