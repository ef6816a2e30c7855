"""Settings every test shares: notebooks, unit tests and doctests alike.

This file stands at the project's root because pytest applies a conftest to what lies below it, and
nbval must compare the outputs of `notebooks/` by the rules of `tests/outputs.py` wherever it is
started from. (`pytest_plugins` is also allowed nowhere else.)
"""

import importlib
import os
import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import matplotlib
import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from vaebook_runner.execute import cores

if sys.platform == "linux":
    # Here, before a test can change the environment: it notes what the process that forks kernels starts with.
    from vaebook_runner import forked

# `pytest notebooks --nbval` collects nothing in tests/, so nothing else would put it on the path.
sys.path.insert(0, str(Path(__file__).parent / "tests"))
pytest_plugins = ["pytester", "outputs"]


# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples at every run, and no limit on their time: a busy machine is no failure.
hypothesis.settings.register_profile("book", derandomize=True, deadline=None)
hypothesis.settings.load_profile("book")
# For tests/mutants.py, which asks whether a test fails, not for the simplest example on which it does.
phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
hypothesis.settings.register_profile("quick", derandomize=True, deadline=None, phases=phases, max_examples=20)


def pytest_addoption(parser: pytest.Parser) -> None:
    words = (
        "with --nbval: do not execute a chapter again of which `vaebook build` left an executed copy that is up to date"
    )
    parser.addoption("--built", action="store_true", help=words)


def pytest_configure(config: pytest.Config) -> None:
    # nbval starts each kernel in the notebook's folder, where a relative path means another place.
    if data := os.environ.get("VAEBOOK_DATA"):
        os.environ["VAEBOOK_DATA"] = str(Path(data).expanduser().absolute())
    # Figures: no window here, and in the kernels the inline backend, which a kernel chooses only
    # where the environment names no other.
    matplotlib.use("agg")
    os.environ.pop("MPLBACKEND", None)
    # Tests that run side by side, and the kernels that they start, share the cores.
    if workers := config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // workers)))
    if config.getoption("nbval", False):
        # Builds the font cache of a fresh machine here: in a kernel it may take over five seconds,
        # and matplotlib then says so on stderr, which is an output that the chapter does not have.
        importlib.import_module("matplotlib.font_manager")
        # All kernels of nbval are forked from one process, unless the user chose otherwise.
        if sys.platform == "linux":
            os.environ.setdefault("JUPYTER_DEFAULT_PROVISIONER_NAME", forked.NAME)


# --- the kernels of nbval, and what takes the place of one ---

counted: Counter[str] = Counter()  # chapters: compared, executed; kernels: forked, plain


class Replay:
    """In place of nbval's kernel: answers each cell with the outputs that the build's kernel gave to it.

    nbval receives them as it would from a kernel, so that it compares them with the stored ones in the same way.
    """

    def __init__(self, cells: list[Any]) -> None:
        self.cells, self.messages = iter(cells), iter(list[Any]())

    def is_alive(self) -> bool:
        return True

    def stop(self) -> None: ...

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None: ...

    def await_idle(self, parent_id: str, timeout: float) -> None: ...

    def execute_cell_input(self, source: str, allow_stdin: bool | None = None) -> str:
        cell = next(cell for cell in self.cells if cell.source == source)  # a selection may leave cells out
        answers = [*((output.output_type, output) for output in cell.outputs), ("status", {"execution_state": "idle"})]
        header = {"msg_id": cell.id}
        self.messages = iter([{"msg_type": kind, "content": c, "parent_header": header} for kind, c in answers])
        return str(cell.id)

    def get_message(self, stream: str, timeout: float | None = None) -> dict[str, Any]:
        return next(self.messages)


def built(chapter: IPyNbFile) -> list[Any] | None:
    """The code cells as the build executed them; None if they are not those that a kernel would execute now.

    They have to be up to date, from this machine with these packages, and newer than the stored notebook: what was
    stored from a run agrees with that run whatever it printed.
    """
    from vaebook_runner import chapters, jobs, records

    source, root = chapter.path.with_suffix(".md"), chapters.find_root(chapter.path.parent)
    if root is None or not source.is_file():
        return None
    (job,) = jobs.plan_book(chapters.Book(root, [source]), {})
    if not job.is_done() or job.notebook.stat().st_mtime <= chapter.path.stat().st_mtime:
        return None
    record = records.read(job.record)
    cells, stored = (
        [cell for cell in notebook.cells if cell.cell_type == "code"]
        for notebook in (nbformat.read(job.notebook, as_version=4), chapter.nb)
    )
    same_machine = (record.versions, record.device) == (records.versions(), records.device())
    return cells if same_machine and [c.source for c in cells] == [c.source for c in stored] else None


def set_up(chapter: IPyNbFile) -> None:
    """Start a chapter's kernel, or take what the build executed; count which."""
    if chapter.config.getoption("built") and (cells := built(chapter)):
        chapter.kernel = Replay(cells)
        chapter.setup_sanitize_files()
        counted["compared"] += 1
        return
    kernels = forked.counts if sys.platform == "linux" else {}
    before = Counter(kernels)
    IPyNbFile.setup(chapter)
    counted.update(Counter(kernels) - before)
    counted["executed"] += 1


def pytest_itemcollected(item: pytest.Item) -> None:
    if isinstance(item, IPyNbCell):
        item.parent.setup = partial(set_up, item.parent)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # of a process that runs tests for another
        session.config.workeroutput["counted"] = dict(counted)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    counted.update(getattr(node, "workeroutput", {}).get("counted", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if counted:
        compared, executed = counted["compared"], counted["executed"]
        line = f"{compared} chapters compared with what the build executed, {executed} executed"
        terminalreporter.write_line(line)
        if sys.platform == "linux":
            terminalreporter.write_line(f"kernels: {counted['forked']} forked, {counted['plain']} plain")
