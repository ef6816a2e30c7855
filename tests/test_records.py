"""Records are whole or not there, and other files are told from them without being executed, followed or waited for."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vaebook_runner import records
from vaebook_runner.records import Measured, Record

ID = "0123456789abcdef0123"


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "id": ID,
        "status": "done",
        "chapter": "tiny",
        "parameters": {"seed": 3, "rate": 1e-4, "mode": "a\n'\"{}../$(x)", "flag": True},
        "values": {"tiny-mean": Measured(value=1.5, stderr=0.25), "tiny-m": Measured(value=2.0)},
        "versions": {"python": "3.11.7"},
        "began": "2026-01-01T00:00:00.000000+00:00",
        "seconds": 1.5,
        "notebook_bytes": 4,
    }
    return Record(**values | changes)


def text(record: Record) -> str:
    return record.model_dump_json(indent=1) + "\n"


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / f"{ID}.json"
    path.write_text(text(record()))
    back = records.read(path)
    assert back == record()
    assert [type(value) for value in back.parameters.values()] == [int, float, str, bool]
    assert json.loads(path.read_text())["parameters"] == record().parameters


def written(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(record().model_dump() | changes))


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100_000_000)


def link(path: Path) -> None:
    target = path.with_suffix(".elsewhere")
    target.write_text(text(record()))
    path.symlink_to(target)


POISON: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_text(""), "EOF"),
    "cut short": (lambda path: path.write_text(text(record())[:-20]), "EOF"),
    "not JSON": (lambda path: path.write_text("seed: 3"), "Invalid JSON"),
    "a list": (lambda path: path.write_text("[]"), "object"),
    "deep": (lambda path: path.write_text("[" * 100_000), "recursion"),
    "binary": (lambda path: path.write_bytes(bytes(range(256))), "Invalid JSON"),
    "an id that is a path": (lambda path: written(path, id="../../../../etc/pass"), "id: "),
    "unknown status": (lambda path: written(path, status="excellent"), "status: "),
    "the status of an older version": (lambda path: written(path, status="died"), "status: "),
    "text for a number": (lambda path: written(path, seconds="3"), "seconds: "),
    "number for text": (lambda path: written(path, error=3), "error: "),
    "text for a value": (lambda path: written(path, values={"m": {"value": "1"}}), "value: "),
    "NaN": (lambda path: written(path, values={"m": {"value": float("nan")}}), "value: "),
    "infinite": (lambda path: written(path, parameters={"rate": float("inf")}), "rate"),
    "a parameter of lists": (lambda path: written(path, parameters={"rate": [1]}), "rate"),
    "unknown field": (lambda path: written(path, run="rm -rf"), "run: "),
    "control characters": (lambda path: written(path, **{"\x1b[2J\n": 1}), r"\x1b[2J\n: "),
    "100 MB": (sparse, "not a regular file of at most 10,000,000 bytes"),
    "a link": (link, "symbolic link"),
    "a dangling link": (lambda path: path.symlink_to("/nowhere"), "symbolic link"),
    "a link to an endless file": (lambda path: path.symlink_to("/dev/zero"), "symbolic link"),
    "a folder": (lambda path: path.mkdir(), "Is a directory"),
    "a pipe": (lambda path: os.mkfifo(path), "not a regular file"),
}


@pytest.mark.parametrize(("poison", "said"), POISON.values(), ids=POISON)
def test_another_file_is_reported_and_skipped(tmp_path: Path, poison: Callable[[Path], object], said: str) -> None:
    poison(tmp_path / f"{ID}.json")
    other = record(id="a" * 20)
    (tmp_path / f"{'a' * 20}.json").write_text(text(other))
    found, problems = records.read_all(tmp_path)
    assert found == {"a" * 20: other}
    (problem,) = problems
    assert problem.startswith(f"{ID}.json is not a record and was skipped: ")
    assert said in problem
    assert problem.isprintable()


def test_a_report_holds_no_control_characters(tmp_path: Path) -> None:
    (tmp_path / "\x1b[2J\n.json").write_text("{}")
    _, (problem,) = records.read_all(tmp_path)
    assert problem.startswith(r"\x1b[2J\n.json is not a record")


def output(value: object) -> dict[str, Any]:
    data = {"text/plain": "x", "application/vnd.vaebook.record+json": value}
    return {"cells": [{"outputs": [{"data": data}]}]}


def test_recorded_values_are_read_from_a_notebook() -> None:
    found = records.recorded_values(output({"name": "m", "value": 2, "stderr": None}))
    assert found == {"m": Measured(value=2.0)}
    found = records.recorded_values(output({"name": "m", "value": 2.5, "stderr": 0.5}))
    assert found == {"m": Measured(value=2.5, stderr=0.5)}
    # An estimate from a single draw.
    found = records.recorded_values(output({"name": "m", "value": 2.5, "stderr": float("inf")}))
    assert found == {"m": Measured(value=2.5)}


@pytest.mark.parametrize(
    "value",
    [
        "m",
        {"name": "m"},
        {"name": "m", "value": "2", "stderr": None},
        {"name": "m", "value": float("nan"), "stderr": None},
        {"name": "m", "value": True, "stderr": "0.1"},
    ],
)
def test_a_recorded_value_needs_a_name_and_a_finite_number(value: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        records.recorded_values(output(value))


def test_a_name_that_is_recorded_twice_is_no_record() -> None:
    data = {records.RECORDED: {"name": "x", "value": 1.0, "stderr": None}}
    cells = [{"outputs": [{"data": data}]}, {"outputs": [{"data": data}]}]
    with pytest.raises(ValueError, match="'x' was recorded twice"):
        records.recorded_values({"cells": cells})
