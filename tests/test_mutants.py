"""The tests bite: each small mistake in the module's mathematics is noticed by the tests that mirror it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the mutants run in forks, which this system has not")
def test_every_mutant_is_caught() -> None:
    script = Path(__file__).parent / "mutants.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    survivors = [line for line in done.stdout.splitlines() if line.startswith("SURVIVED")]
    assert done.returncode == 0, "\n".join([*survivors, done.stderr])
    assert done.stdout.count("caught  ") >= 40
