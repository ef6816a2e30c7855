"""The plan of a command: its words become a list of jobs here, and nothing later asks for the words again."""

import hashlib
import itertools
import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from vaebook_runner import records
from vaebook_runner.chapters import Book, made_from, read_notebook
from vaebook_runner.files import UsageError, digest, files_below, printable
from vaebook_runner.parameters import Value, parameters_of, values_of


class Job(NamedTuple):  # a run to be performed, as text and numbers alone, which any executor can carry
    id: str  # fingerprint of the state and the values
    name: str  # stem of the two files that the run leaves in the folder
    label: str  # what people are shown of it
    source: str
    made_from: tuple[str, ...]  # the files on which the chapter's outputs depend
    state: str  # their digest
    commit: str | None
    folder: str
    cwd: str  # the folder in which the chapter works
    values: dict[str, Value]
    timeout: int | None = None  # seconds

    @property
    def notebook(self) -> Path:
        return Path(self.folder, f"{self.name}.ipynb")

    @property
    def record(self) -> Path:
        return Path(self.folder, f"{self.name}.json")

    def is_done(self) -> bool:
        """Whether the folder holds a record that this very run went well, and the notebook that it left."""
        with suppress(OSError, ValueError):
            record = records.read(self.record)
            return record.id == self.id and record.is_done(self.notebook)
        return False


def make_jobs(source: Path, folder: Path, settings: Sequence[dict[str, Value]], name: str = "") -> list[Job]:
    """A job for each of the settings of one chapter; its files are named by its id where no ``name`` is given."""
    files, commit = made_from(source), None if name else current_commit(source.parent)
    state, jobs = digest(files), dict[str, Job]()
    code = str(source.resolve()), tuple(map(str, files)), state, commit
    places = str(folder.resolve()), str(Path.cwd())
    varied = [n for n in settings[0] if len({str(values[n]) for values in settings}) > 1]
    for values in settings:
        id_ = fingerprint(state, values, folder)
        label = name or printable(" ".join([id_[:8], *(f"{n}={values[n]}" for n in varied)]))
        jobs[id_] = Job(id_, name or id_, label, *code, *places, values)
    return list(jobs.values())


def plan_sweep(
    source: Path,
    folder: Path,
    given: Mapping[str, object],
    grid: Mapping[str, Sequence[object]],
    seeds: int | None = None,
) -> list[Job]:
    """A run for every combination of the grid's values, and for each of ``seeds`` seeds; or UsageError."""
    parameters, axes = parameters_of(read_notebook(source), source.stem), dict(grid)
    if twice := set(given) & set(grid):
        raise UsageError(f"parameter {min(twice)!r} has both one value and a grid")
    if seeds:
        first = values_of(parameters, given).get("seed")
        if not isinstance(first, int) or "seed" in grid:
            raise UsageError(f"--seeds needs a chapter with a parameter seed, and no grid of it; got {source.stem}")
        axes["seed"] = range(first, first + seeds)
    # In the folder of what the chapter reads, each run would change the source of the next.
    if folder.resolve().is_relative_to(source.with_suffix("").resolve()):
        raise UsageError(f"DIR needs to lie elsewhere: {folder} counts as a part of {source.name}")
    points = ({**given, **dict(zip(axes, p, strict=True))} for p in itertools.product(*axes.values()))
    return make_jobs(source, folder, [values_of(parameters, point) for point in points])


def plan_book(book: Book, given: Mapping[str, object]) -> list[Job]:
    """A run for each chapter, with those of the given parameters that it declares; UsageError if none declares one."""
    values: dict[Path, dict[str, Value]] = {source: {} for source in book.chapters}
    if given:  # reading all notebooks takes seconds that a build without parameters need not spend
        declared = {source: parameters_of(read_notebook(source), source.stem) for source in book.chapters}
        known = sorted({name for parameters in declared.values() for name in parameters.types})
        if undeclared := [name for name in given if name not in known]:
            raise UsageError(f"no chapter declares the parameter {undeclared[0]!r}; declared are: {', '.join(known)}")
        for source, p in declared.items():
            values[source] = values_of(p, {n: v for n, v in given.items() if n in p.types}, defaults=False)
    folder = book.root / "_build" / "executed"
    return [job for source in book.chapters for job in make_jobs(source, folder, [values[source]], source.stem)]


def fingerprint(state: str, values: Mapping[str, Value], folder: Path) -> str:
    """20 hexadecimal digits made from all that a run's outputs depend on: chapter, values, versions of packages.

    A text that names files stands for their contents, without those in ``folder``, which the runs themselves leave.
    """
    files = list[Path]()  # a reader's own images, which can change
    for text in (value for value in values.values() if isinstance(value, str) and value):
        with suppress(OSError, ValueError, RuntimeError):  # not every text can be a file's name
            path = Path(text).expanduser().resolve()
            files += files_below(path) if path.is_dir() else [path] if path.is_file() else []
    read = digest(file for file in files if not file.is_relative_to(folder.resolve()))
    content = json.dumps([state, sorted(values.items()), read, records.versions()])
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def current_commit(folder: Path) -> str | None:
    """The git commit that is checked out, with a mark if files were changed since; None outside of git."""
    git = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with suppress(OSError):
        return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None
    return None
