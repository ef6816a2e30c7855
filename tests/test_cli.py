"""The command's promises: exit codes, messages, and nothing touched by wrong usage."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from sources import HEADER

from vaebook import cli

CHAPTER = (
    HEADER
    + """\
# Training

```{code-cell} ipython3
:tags: [parameters]

epochs: int = 3  # passes over the data
learning_rate: float = 1e-3  # of Adam
```

```{code-cell} ipython3
print("started")
```

```{code-cell} ipython3
LAST
```

```{code-cell} ipython3
print("after")
```
"""
)


@pytest.fixture(autouse=True)
def _signal_handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: notebooks/08_training.ipynb\n")
    (tmp_path / "notebooks" / "08_training.md").write_text(CHAPTER.replace("LAST", "print(epochs)"))
    (tmp_path / "notebooks" / "08_training.ipynb").write_text("stored outputs")
    (tmp_path / "notebooks" / "broken.ipynb").write_text("{")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


RUN = ["run", "08_training"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*RUN, "-p", "epoch", "3"], "no parameter 'epoch'; it declares:\n  epochs: int = 3  # passes"),
        ([*RUN, "-p", "epochs", "2.5"], "'epochs' is declared as int: expected a whole number"),
        ([*RUN, "-p", "epochs", "banana"], "got 'banana'"),
        ([*RUN, "-p", "learning_rate", "nan"], "expected a finite number"),
        ([*RUN, "-p", "epochs", "1", "-p", "epochs", "2"], "'epochs' is given more than once"),
        ([*RUN, "-o", "missing/out.ipynb"], "folder of OUT does not exist: missing"),
        ([*RUN, "-o", "out.txt"], "must end in .ipynb"),
        ([*RUN, "-o", "notebooks/08_training.ipynb"], "a notebook of its own"),
        (["run", "notebooks/broken.ipynb", "-o", "notebooks/broken.ipynb"], "a notebook of its own"),
        (["run", "notebooks/broken.ipynb"], "cannot be read as a notebook"),
        (["run", "09_missing"], "the chapters are: 08_training"),
        (["run", "notebooks/09_missing.md"], "the chapters are: 08_training"),
        (["build", "-p", "epoch", "3"], "declares the parameter 'epoch'; declared are:\n  08_training\n"),
        (["build", "-p", "epochs", "x"], "'epochs' is declared as int"),
        (["refresh", "09_missing"], "the chapters are: 08_training"),
    ],
)
def test_wrong_usage_touches_nothing(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was executed")

    monkeypatch.setattr(cli, "execute", never)
    monkeypatch.setattr("vaebook.runner.book._Child", never)
    monkeypatch.setattr("vaebook.runner.book.render", never)
    before = tree(project)
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err
    assert tree(project) == before


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["walk"],
        ["run"],
        ["run", "08_training", "-p", "epochs"],
        ["run", "08_training", "--par", "epochs", "3"],
        ["build", "--jobs", "0"],
        ["build", "--jobs", "many"],
    ],
)
def test_a_command_line_that_is_none_exits_with_two(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2


def test_without_a_project_the_message_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (RUN, ["build"], ["refresh"]):
        assert cli.main(words) == 2
        assert "_toc.yml and notebooks/" in capsys.readouterr().err


def outputs(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [output.get("text", "") for cell in cells for output in cell.get("outputs", [])]


def test_a_run_from_a_folder_below_keeps_the_executed_copy(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project / "notebooks")
    before = tree(project)
    words = ["run", "08_training", "-p", "epochs", "5", "-o", "../{out}.ipynb"]
    assert cli.main(words) == 0, capsys.readouterr().err
    assert outputs(project / "{out}.ipynb") == ["started\n", "5\n", "after\n"]
    assert tree(project).keys() - before.keys() == {str(project / "{out}.ipynb")}


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ("epochs / 0", "ZeroDivisionError"),
        ("import os; os._exit(3)", "Kernel died"),
        ("import sys; sys.exit(0)", "SystemExit"),
    ],
)
def test_a_failed_cell_is_shown_and_what_ran_is_kept(
    project: Path, capsys: pytest.CaptureFixture[str], last: str, reason: str
) -> None:
    (project / "notebooks" / "08_training.md").write_text(CHAPTER.replace("LAST", last))
    assert cli.main(["run", "08_training", "-p", "epochs", "4"]) == 1
    message = capsys.readouterr().err
    assert f"08_training: code cell 3 of 4 failed\n\n    {last}\n" in message
    assert reason in message
    assert "the part that ran is kept in 08_training.out.ipynb" in message
    kept = outputs(project / "08_training.out.ipynb")
    assert kept[0] == "started\n"
    assert "after\n" not in kept


def test_plain_papermill_runs_the_stored_pair(project: Path) -> None:
    import papermill

    assert cli.main(["refresh"]) == 0
    stored = project / "notebooks" / "08_training.ipynb"
    out = project / "out.ipynb"
    papermill.execute_notebook(stored, out, {"epochs": 2}, progress_bar=False)
    assert outputs(out) == ["started\n", "2\n", "after\n"]


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, vaebook.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "finally: print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begun
    assert done.stdout.startswith("usage: vaebook")
    heavy = {"torch", "numpy", "papermill", "jupytext", "nbformat", "nbclient", "zmq", "yaml", "matplotlib"}
    assert not {name for name in heavy if f"'{name}'" in done.stderr}
    assert seconds < 2  # 0.1 s on a quiet machine; a loaded one gets a margin.
