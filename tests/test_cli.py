"""The command's promises: exit codes, messages, and nothing touched by wrong usage."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
from sources import HEADER

from vaebook import __version__
from vaebook_runner import cli
from vaebook_runner.execute import cores

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
COMMANDS = ["build", "compare", "params", "refresh", "results", "run", "sweep"]


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
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


RUN = ["run", "08_training"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*RUN, "-p", "epoch", "3"], "no parameter 'epoch'; it declares:\nepochs: int = 3  # passes"),
        ([*RUN, "-p", "epochs", "2.5"], "needs a whole number such as 3, got '2.5'"),
        ([*RUN, "-p", "epochs", "banana"], "got 'banana'"),
        ([*RUN, "-p", "learning_rate", "nan"], "needs a finite number"),
        ([*RUN, "-p", "epochs", "1", "-p", "epochs", "2"], "'epochs' is given more than once"),
        ([*RUN, "--params", "missing.yml"], "missing.yml cannot be read as parameters"),
        ([*RUN, "-o", "missing/out.ipynb"], "OUT cannot be written: missing/out.ipynb"),
        ([*RUN, "-o", "file/out.ipynb"], "OUT cannot be written: file/out.ipynb"),
        ([*RUN, "-o", "notebooks"], "notebooks"),
        ([*RUN, "-o", "out.txt"], "to end in .ipynb"),
        ([*RUN, "-o", "notebooks/08_training.ipynb"], "not to be a notebook with a source of its own"),
        (["run", "notebooks/broken.ipynb", "-o", "notebooks/broken.ipynb"], "of its own"),
        (["run", "notebooks/broken.ipynb"], "cannot be read as a notebook"),
        (["run", "09_missing"], "the chapters are: 08_training"),
        (["run", "notebooks/09_missing.md"], "the chapters are: 08_training"),
        (["params", "09_missing"], "the chapters are: 08_training"),
        (["build", "-p", "epoch", "3"], "declares the parameter 'epoch'; declared are: epochs, learning_rate"),
        (["build", "-p", "epochs", "x"], "needs a whole number"),
        (["refresh", "09_missing"], "the chapters are: 08_training"),
        (["refresh"], "08_training.ipynb cannot be read as a notebook"),
        (["refresh", "08_training", "--take", "ipynb"], "08_training.ipynb cannot be read as a notebook"),
        (["refresh", "--take", "md"], "--take md overwrites: name the chapters"),
        (["refresh", "--check", "--take", "md", "08_training"], "leave --check away"),
        (["refresh", "--take", "py", "08_training"], "'--take'"),
        (["sweep", "08_training", "-g", "epoch", "1,2"], "no parameter 'epoch'"),
        (["sweep", "08_training", "-g", "epochs", "1,x"], "needs a whole number such as 3, got 'x'"),
        (["sweep", "08_training", "-o", "file"], "file"),
        (["results", "notebooks"], "DIR needs to be a folder with records of runs"),
        (["compare", "missing.json", "missing.ipynb"], "missing.json cannot be read as a record"),
        # What click finds.
        ([], "Commands:"),
        (["walk"], "No such command 'walk'"),
        (["run"], "Missing argument 'NOTEBOOK'"),
        ([*RUN, "-p", "epochs"], "requires 2 arguments"),
        ([*RUN, "--par", "epochs", "3"], "No such option"),
        (["build", "--jobs", "0"], "'--jobs'"),
        (["build", "--jobs", str(cores() + 1)], "'--jobs'"),
        (["build", "--jobs", "many"], "'--jobs'"),
        (["sweep", "08_training", "--seeds", "0"], "'--seeds'"),
        (["sweep", "08_training", "--timeout", "0"], "'--timeout'"),
    ],
)
def test_wrong_usage_touches_nothing(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was executed")

    for name in ("cli.execute", "sweep.execute", "book.run_sphinx"):
        monkeypatch.setattr(f"vaebook_runner.{name}", never)
    before = tree(project)
    assert cli.main(words) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert said in error
    assert tree(project) == before


def test_without_a_project_the_message_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["build"], ["refresh"]):
        assert cli.main(words) == 2
        assert "_toc.yml and notebooks/" in capsys.readouterr().err
    assert cli.main(RUN) == 2
    assert "those of a folder with _toc.yml" in capsys.readouterr().err


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
    assert capsys.readouterr().out == "../{out}.ipynb\n"
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


def test_a_run_can_be_a_page_and_a_failed_one_keeps_the_former_page(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "letter.html").write_text("by hand")
    before = tree(project)
    assert cli.main([*RUN, "-o", "letter.html"]) == 2
    assert "OUT would overwrite letter.html, which no run has made" in capsys.readouterr().err
    assert cli.main([*RUN, "-p", "epochs", "5", "-o", "run.html"]) == 0, capsys.readouterr().err
    assert tree(project).keys() - before.keys() == {str(project / "run.html")}
    page = (project / "run.html").read_text(encoding="utf-8")
    assert "<title>08_training</title>" in page
    assert "after\n" in page
    (project / "notebooks" / "08_training.md").write_text(CHAPTER.replace("LAST", "epochs / 0"))
    assert cli.main([*RUN, "-o", "run.html"]) == 1
    assert "the part that ran is kept in run.part.ipynb" in capsys.readouterr().err
    assert (project / "run.html").read_text(encoding="utf-8") == page
    assert outputs(project / "run.part.ipynb")[0] == "started\n"


@pytest.mark.skipif(os.name != "posix", reason="signals are those of Linux and macOS")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_interrupted_stops_its_kernel_and_keeps_what_ran(project: Path, number: signal.Signals) -> None:
    last = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)"
    (project / "notebooks" / "08_training.md").write_text(CHAPTER.replace("LAST", last))
    command, pid = [sys.executable, "-m", "vaebook_runner", *RUN], project / "pid"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 60
            while not (pid.is_file() and pid.read_text()) and time.monotonic() < end:
                time.sleep(0.05)
            for _ in range(3 if number != signal.SIGINT else 1):  # impatience must not cut the cleaning up short
                process.send_signal(number)
                time.sleep(0.02)
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130, error
    assert "interrupted" in error
    assert "Traceback" not in error
    assert not psutil.pid_exists(int(pid.read_text()))
    assert outputs(project / "08_training.out.ipynb")[0] == "started\n"


def test_plain_papermill_runs_the_stored_pair(project: Path) -> None:
    import papermill

    assert cli.main(["refresh", "08_training", "--take", "md"]) == 0
    stored = project / "notebooks" / "08_training.ipynb"
    out = project / "out.ipynb"
    papermill.execute_notebook(stored, out, {"epochs": 2}, progress_bar=False)
    assert outputs(out) == ["started\n", "2\n", "after\n"]


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_every_command_says_what_it_does(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: vaebook {'' if len(words) == 1 else words[0] + ' '}[OPTIONS]")
    if len(words) == 1:
        listed = shown.split("Commands:\n")[1].splitlines()
        assert [line.split()[0] for line in listed] == COMMANDS


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from vaebook_runner.__main__ import main; sys.argv = ['vaebook', '--help']\n"
        "code = main(); print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
        "sys.exit(code)"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = time.monotonic() - begun
    assert done.stdout.startswith("Usage: vaebook")
    heavy = {"torch", "numpy", "pandas", "papermill", "jupytext", "nbformat", "nbclient", "zmq", "matplotlib"}
    assert not {name for name in heavy if f"'{name}'" in done.stderr}
    assert seconds < 2  # 0.2 s on a quiet machine; a loaded one gets a margin.


@pytest.mark.parametrize("missing", ["click", "pydantic", "filelock", "yaml"])
def test_without_the_extra_run_the_command_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from vaebook_runner.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("vaebook: ")
    assert missing in done.stderr
    assert "'run'" in done.stderr
    assert "'.[run]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_chapter_that_needs_the_project_says_so_outside_of_it(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parent.parent / "notebooks" / "16_running.ipynb", tmp_path)
    command = [sys.executable, "-m", "vaebook_runner", "run", "16_running.ipynb", "-o", "out.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "this chapter runs commands on the book itself; open it inside the project's folder" in done.stderr
