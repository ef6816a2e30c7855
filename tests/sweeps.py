"""What the tests of sweeps share: a small chapter that can misbehave, and a book to sweep it in."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil
import pytest
from sources import HEADER

from vaebook_runner import chapters, cli

if sys.platform == "linux":
    from vaebook_runner import forked

CHAPTER = (
    HEADER
    + """\
# Tiny

Its step is σ.

```{code-cell} ipython3
:tags: [parameters]

seed: int = 0  # of the generator
rate: float = 0.5  # step σ, above 0
mode: str = "well"  # what happens
flag: bool = False  # on or off
```

```{code-cell} ipython3
import os, signal, subprocess, sys, time
from IPython.display import display
child = subprocess.Popen(["sleep", "600"]).pid if os.environ.get("CHILD") else 0
with open(os.environ.get("TALLY", os.devnull), "a") as file:
    file.write(f"{os.getpid()} {child} {seed} {rate} {mode}\\n")
```

```{code-cell} ipython3
if mode == "raise":
    raise RuntimeError("as the test wants it")
if mode == "surrogate":
    raise RuntimeError("half of a pair: \\ud800")
if mode == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "loop":
    while True:
        pass
if mode == "hold":
    sum(range(10**14))  # which never lets another thread of Python's run
if mode == "sleep":
    time.sleep(600)
if mode == "pause":
    time.sleep(0.5)
if mode == "memory":
    import psutil, resource
    most = psutil.Process().memory_info().vms + 100_000_000
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    bytearray(2_000_000_000)
```

```{code-cell} ipython3
value = {"name": "tiny-mean", "value": seed + rate, "stderr": 0.25}
display({"text/plain": "x", "application/vnd.vaebook.record+json": value}, raw=True)
print(os.environ["OMP_NUM_THREADS"], repr(mode))
```
"""
)

# What the process that forks loads here: small chapters need no more, and many tests start one.
FEW = ["vaebook_runner.warm", "ipykernel.kernelapp", "matplotlib", "numpy"]
LIGHT = f"""\
import sys
if sys.platform == "linux":
    from vaebook_runner import forked
    forked.CONTEXT.set_forkserver_preload({FEW})
"""
# The command, with a module in place of the real one, which somebody may edit while the tests run.
COMMAND = (
    LIGHT
    + """\
from vaebook_runner import chapters
chapters.vaebook.__file__ = sys.argv.pop(1)
from vaebook_runner.cli import main
sys.exit(main())"""
)


class Book:
    """A folder with the chapter ``tiny.md``, a module and a lock; and the command, run in it."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.capsys = root, capsys
        (root / "notebooks").mkdir()
        (root / "module").mkdir()
        (root / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n- file: notebooks/tiny.ipynb\n")
        (root / "intro.md").write_text("# Intro\n")
        (root / "requirements.lock").write_text("torch==2\n")
        self.chapter = root / "notebooks" / "tiny.md"
        self.chapter.write_text(CHAPTER, encoding="utf-8")
        self.module = root / "module" / "__init__.py"
        self.module.write_text("")
        self.tally = root / "tally"
        self.runs = root / "runs"
        patch.setattr(chapters.vaebook, "__file__", str(self.module))
        patch.setenv("TALLY", str(self.tally))
        patch.setenv("OMP_NUM_THREADS", "1")
        if sys.platform == "linux":
            forked.CONTEXT.set_forkserver_preload(FEW)
            forkserver.ensure_running()  # here, since it goes on to work in the folder in which it starts
        patch.chdir(root)

    def vaebook(self, *words: object) -> tuple[int, str, str]:
        """Run the command in this process; returns its exit code and what it wrote."""
        numbers = (signal.SIGTERM, signal.SIGHUP)
        before = [signal.getsignal(number) for number in numbers]
        self.capsys.readouterr()
        try:
            with event_loops_collected():
                code = cli.main([str(word) for word in words])
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
        return code, *self.capsys.readouterr()

    def sweep(self, *words: object) -> tuple[int, str, str]:
        return self.vaebook("sweep", "tiny", "-o", self.runs, *words)

    @contextmanager
    def started(self, *words: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """A sweep in a process and a session of its own, which ends with the block at the latest."""
        command = [sys.executable, "-c", COMMAND, str(self.module), "sweep", "tiny", "-o", str(self.runs)]
        with subprocess.Popen(
            [*command, *map(str, words)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def records(self) -> dict[str, dict[str, Any]]:
        """The records by id; every file that looks like one has to be whole."""
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in self.runs.glob("*.json")}

    def only_record(self, status: str | None = None) -> dict[str, Any]:
        """The record, of which there must be one, or one with that status."""
        (record,) = (r for r in self.records().values() if status in (None, r["status"]))
        return record

    def statuses(self) -> list[str]:
        return sorted(record["status"] for record in self.records().values())

    def executions(self) -> list[str]:
        """What the executed chapters noted: process, child process, seed, rate and mode."""
        return self.tally.read_text().splitlines() if self.tally.exists() else []

    def seeds(self) -> list[int]:
        return sorted(int(line.split()[2]) for line in self.executions())

    def kernels(self) -> list[int]:
        """The processes of the kernels so far, and the processes that cells started and left, if CHILD is set."""
        return [int(number) for line in self.executions() for number in line.split()[:2] if number != "0"]


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Book]:
    """A small book; at the end of the test no process may be left that works in its folder."""
    yield Book(tmp_path, monkeypatch, capsys)
    try:
        wait_for(lambda: not processes_of(tmp_path), 20)
    finally:
        for process in processes_of(tmp_path):
            process.kill()


@contextmanager
def event_loops_collected() -> Iterator[None]:
    """Jupyter's client leaves the event loops of threads that ended to the garbage collector, which complains."""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        yield
        gc.collect()


def wait_for(condition: Callable[[], object], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def processes_of(folder: Path) -> list[psutil.Process]:
    """All other processes that work in ``folder``: sweeps, their fork servers and their kernels."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if ours and Path(process.cwd()) == folder:
                found.append(process)
        except psutil.Error:
            continue
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
