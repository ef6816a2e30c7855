"""The record of a run, ``NAME.json`` beside ``NAME.ipynb``: data, never code. Where there is one, the run is over."""

import math
import os
import platform
import re
import stat
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from vaebook_runner.files import printable

LARGEST_RECORD = 10_000_000  # bytes; a record holds a kilobyte or two
RECORDED = "application/vnd.vaebook.record+json"  # what vaebook.ledger puts into a cell's outputs
PACKAGES = ("vaebook", "torch", "torchvision", "numpy", "scikit-learn", "papermill")


class Measured(BaseModel, extra="forbid", frozen=True, strict=True):
    value: FiniteFloat
    stderr: FiniteFloat | None = None  # of an estimate


class Record(BaseModel, extra="forbid", frozen=True, strict=True):
    """All that is kept of a run besides its notebook."""

    id: str = Field(pattern="^[0-9a-f]{20}$")  # fingerprint of all that the run depends on
    status: Literal["done", "failed", "timeout"]
    chapter: str
    parameters: dict[str, bool | int | FiniteFloat | str]
    values: dict[str, Measured] = {}
    versions: dict[str, str] = {}
    device: str = ""
    commit: str | None = None
    source: str = ""  # digest of the files among what it depends on
    began: str = ""
    seconds: FiniteFloat = 0.0
    cell_seconds: FiniteFloat = 0.0
    notebook_bytes: int = 0  # a notebook that was cut short is noticed
    error: str | None = None

    def is_done(self, notebook: Path) -> bool:
        """Whether the run went well, and ``notebook`` is still the file that it left."""
        state = notebook.lstat() if os.path.lexists(notebook) else None
        whole = state and stat.S_ISREG(state.st_mode) and state.st_size == self.notebook_bytes
        return self.status == "done" and bool(whole)


def read(path: Path) -> Record:
    """The record in a file; ValueError or OSError if it is a link, a pipe, too large, cut short, or of wrong types."""
    # A link may lead anywhere, and reading a pipe may never end. Not every system knows these flags.
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(path, os.O_RDONLY | flags), "rb") as file:
        state = os.fstat(file.fileno())
        if path.is_symlink() or not stat.S_ISREG(state.st_mode) or state.st_size > LARGEST_RECORD:
            raise ValueError(f"it is not a regular file of at most {LARGEST_RECORD:,} bytes")
        content = file.read()
    try:
        return Record.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(": ".join([*map(str, first["loc"]), first["msg"]])) from None


def read_all(folder: Path) -> tuple[dict[str, Record], list[str]]:
    """Every record in a folder by its file's stem, and a line for each .json file that cannot be read as one."""
    found, problems = {}, []
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = read(path)
        except (ValueError, OSError) as error:
            problems.append(printable(f"{path.name} is not a record and was skipped: {error}"))
    return found, problems


def recorded_values(notebook: Mapping[str, Any]) -> dict[str, Measured]:
    """What the cells of an executed notebook recorded; ValueError if that is not finite, or one name came twice."""
    found = {}
    for output in (output for cell in notebook["cells"] for output in cell.get("outputs", [])):
        if data := output.get("data", {}).get(RECORDED):
            stderr = data["stderr"]  # of an estimate from one draw it is infinite
            finite = not isinstance(stderr, float) or math.isfinite(stderr)
            if data["name"] in found:
                raise ValueError(f"{data['name']!r} was recorded twice")
            found[str(data["name"])] = Measured(value=data["value"], stderr=stderr if finite else None)
    return found


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@cache
def device() -> str:
    """The processor's name, and the GPUs' where there are any; found without loading torch."""
    files = [Path("/proc/cpuinfo"), *Path("/proc/driver/nvidia/gpus").glob("*/information")]
    names = [re.findall(r"(?m)^(?:model name|Model)\s*: *(.+)$", f.read_text())[:1] for f in files if f.is_file()]
    return " + ".join(name for found in names for name in found) or platform.processor() or platform.machine()
