"""The slips of `tests/mutants.py` still fit the module; `make mutants` says whether the tests notice them."""

from collections import Counter

import pytest
from mutants import MUTANTS, ROOT


@pytest.mark.parametrize("module", sorted({module for module, _, _ in MUTANTS}))
def test_every_slip_changes_a_text_that_stands_in_its_module(module: str) -> None:
    text = (ROOT / "vaebook" / f"{module}.py").read_text(encoding="utf-8")
    for name, old, new in MUTANTS:
        assert name != module or (old in text and old != new), old


def test_no_slip_is_listed_twice() -> None:
    assert len(MUTANTS) >= 80
    assert [mutant for mutant, count in Counter(MUTANTS).items() if count > 1] == []
