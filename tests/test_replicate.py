"""What the long runs over the chapters count."""

import json
import os
import subprocess
import sys
from pathlib import Path

import evidence
import pytest
import replicate

PARAMETERS = "seed: int = 0  # of everything, 0 or more"
CHAPTER = [
    "from functools import partial\nimport torch\nfrom vaebook import ledger\nfrom vaebook.ledger import check, record",
    PARAMETERS,
    "claim = partial(ledger.claim, book=True)\nrows = torch.tensor([[1.0, 1.2], [1.1, 0.9]]) - seed / 100",
    "check('eq-a', 1.0, 1.0)\ncheck('eq-b', 1.0, 1.0)\ncheck('eq-b', 1.0, 2.0 if seed == 120 else 1.0)",
    "claim('a beats b', rows)\nclaim('they are equal', rows, within=2)\nrecord('x', 1.0)\nprint('said')",
    "assert seed != 130",
    "check('eq-c', 1.0, 1.0)",
]
SEEDS = [0, 120, 130]


@pytest.fixture
def chapter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A small chapter in place of all others, and a store of its own."""
    for module in (replicate, evidence):
        monkeypatch.setattr(module, "cells_of", lambda stem: CHAPTER)
    monkeypatch.setattr(evidence, "STORE", tmp_path / "evidence.json")
    return tmp_path


def test_a_run_says_of_each_check_and_claim_whether_it_held_and_goes_on(chapter: Path) -> None:
    found = {"eq-a": True, "eq-b": True, "a beats b": True, "they are equal": True}
    for seed, ended, changed in (
        (0, "well", {"eq-c": True}),
        (120, "well", {"eq-b": False, "a beats b": False, "eq-c": True}),
        (130, "AssertionError: ", {"a beats b": False}),
    ):
        assert replicate.run("01_any", seed) == {"ended": ended, "found": found | changed}


def test_runs_are_counted_once_each_and_stored_with_the_code_that_ran(
    chapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in SEEDS:
        replicate.run_once(chapter, ("01_any", seed))
    assert "01_any at 130: ended AssertionError" in capsys.readouterr().out
    replicate.run_once(chapter, ("01_any", 130))
    assert capsys.readouterr().out == ""  # not again
    counted = replicate.counts(chapter, "01_any", SEEDS)
    assert counted["held"] == {"eq-a": 3, "eq-b": 2, "a beats b": 1, "they are equal": 3, "eq-c": 2}
    assert (counted["ended"], counted["seeds"]) == (2, SEEDS)
    evidence.store("replication", "01_any", counted)
    evidence.store("ranges", "01_any", {"runs": 3, "well": 3})
    stored = json.loads((chapter / "evidence.json").read_text(encoding="utf-8"))
    assert stored["ranges"]["01_any"] == {"code": evidence.digest("01_any"), "runs": 3, "well": 3}
    assert stored["replication"]["01_any"]["held"]["eq-b"] == 2


def test_the_digest_is_the_one_of_the_page_of_checks() -> None:
    import book_checks

    cells = [{"cell_type": "code", "source": source, "outputs": []} for source in evidence.cells_of("01_kl")]
    assert book_checks.read("01_kl", {"cells": cells}).code == evidence.digest("01_kl")
    code = book_checks.digest(["a = 1\nb = '#2'", "c = 3"])
    assert code == book_checks.digest(["a = 1  # one\n# and\nb = '#2'", "c = 3"])
    assert code != book_checks.digest(["a = 1\nb = '#3'", "c = 3"])


@pytest.mark.parametrize("script", ["replicate", "ranges_of_chapters", "chapter_mutants"])
def test_a_script_starts_by_itself_and_says_what_it_takes(script: str) -> None:
    """Without what conftest.py does for the tests, as `.ci/run` starts it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(evidence.ROOT / "tests" / f"{script}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "01_kl" in done.stdout
