"""The record of one run: a small JSON file beside its executed notebook. Records are data, never code.

A folder of runs holds ``ID.ipynb`` and ``ID.json`` for each run, where ID is the fingerprint of what was
run. The record is written last and moved into place whole: where it stands, the run is over.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from vaebook.runner.parameters import Value

# A record holds some parameters and some numbers: a kilobyte or two. What is far larger is none.
LARGEST_RECORD = 10_000_000
ID = r"^[0-9a-f]{20}$"
# No text is taken for a number, and nothing is there that does not belong there.
DATA = ConfigDict(extra="forbid", frozen=True, strict=True)

Status = Literal["done", "failed", "timeout", "died"]


class Measured(BaseModel):
    """A recorded value, with its standard error where it is an estimate."""

    model_config = DATA

    value: FiniteFloat
    stderr: FiniteFloat | None = None


class Record(BaseModel):
    """All that is kept of a run besides its notebook.

    ``source`` is the fingerprint of the chapter's source, the module and the lock. ``seconds`` is the whole
    run's time, ``cell_seconds`` that of its cells alone. ``device`` names the machine's processor, and its
    GPUs where there are any. ``notebook_bytes`` is the notebook's size: one that was cut short is noticed.
    """

    model_config = DATA

    id: str = Field(pattern=ID)
    status: Status
    chapter: str
    parameters: dict[str, bool | int | FiniteFloat | str]
    values: dict[str, Measured] = {}
    seed: int | None = None
    versions: dict[str, str] = {}
    device: str = ""
    commit: str | None = None
    source: str = ""
    began: str = ""
    seconds: FiniteFloat = 0.0
    cell_seconds: FiniteFloat = 0.0
    notebook_bytes: int = 0
    attempts: int = 1
    error: str | None = None


def text(record: Record) -> str:
    """The text of a record's file."""
    return record.model_dump_json(indent=1) + "\n"


def read(path: Path) -> Record:
    """The record in a file.

    Raises:
        ValueError: if the file is no record: a link, too large, cut short, of wrong types, of another name.
        OSError: if it cannot be read.
    """
    # Neither a link, which may lead anywhere, nor a pipe, which may never end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is not a regular file")
        if state.st_size > LARGEST_RECORD:
            raise ValueError(f"it has {state.st_size:,} bytes, and no record has over {LARGEST_RECORD:,}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            text = file.read(LARGEST_RECORD)
    finally:
        os.close(descriptor)
    try:
        record = Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None
    if record.id != path.stem:
        raise ValueError(f"it is the record of {record.id}")
    return record


def read_all(folder: Path) -> tuple[dict[str, Record], list[str]]:
    """Every record in a folder by its id, and a line for each file that looks like one and is not."""
    found, problems = {}, []
    for path in sorted(Path(entry.path) for entry in os.scandir(folder) if entry.name.endswith(".json")):
        try:
            found[path.stem] = read(path)
        except (ValueError, OSError) as error:
            problems.append(printable(f"{path.name} is no record and was skipped: {error}"))
    return found, problems


def printable(text: object) -> str:
    """One line without control characters, which a file from elsewhere might send to the terminal.

    >>> printable("two\\nlines")
    'two\\\\nlines'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def values_of(notebook: Mapping[str, Any]) -> dict[str, Measured]:
    """What the cells of an executed notebook recorded, from the JSON of its .ipynb.

    Raises:
        ValueError: if something there is no recorded value, such as NaN or a text for a number.
    """
    found = {}
    for output in outputs_of(notebook):
        data = output.get("data", {}).get("application/vnd.vaebook.record+json")
        if data is None:
            continue
        try:
            stderr = data["stderr"]
            # An estimate from one draw has none.
            if isinstance(stderr, float) and not math.isfinite(stderr):
                stderr = None
            found[str(data["name"])] = Measured(value=data["value"], stderr=stderr)
        except (ValidationError, KeyError, TypeError):
            raise ValueError(f"no recorded value: {data!r:.200}") from None
    return found


def outputs_of(notebook: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for cell in notebook["cells"]:
        yield from cell.get("outputs", [])


def cell_seconds(notebook: Mapping[str, Any]) -> float:
    """The time that the cells took, from papermill's notes."""
    notes = (cell["metadata"].get("papermill", {}) for cell in notebook["cells"])
    return round(sum(note.get("duration") or 0.0 for note in notes), 3)


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    import platform
    from importlib.metadata import version

    packages = ("vaebook", "torch", "torchvision", "numpy", "scikit-learn", "papermill")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


@cache
def device() -> str:
    """The processor's name, and the GPUs' where there are any; without loading torch."""
    import platform

    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    cards = Path("/proc/driver/nvidia/gpus").glob("*/information")
    models = [
        line.split(":", 1)[1].strip()
        for c in cards
        for line in c.read_text().splitlines()
        if line.startswith("Model")
    ]
    return " + ".join([processor, *models])


def seed_of(parameters: Mapping[str, Value]) -> int | None:
    seed = parameters.get("seed")
    return seed if isinstance(seed, int) else None


def notebook_json(path: Path) -> Any:
    """The JSON of an .ipynb."""
    return json.loads(path.read_text(encoding="utf-8"))
