"""Files are written whole or not at all; a digest tells whether one of them changed. All of it on Windows too."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_book import printed, write_project

from vaebook_runner.files import digest, files_below, printable, write_atomically


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, "old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_is_written_the_same_on_every_system(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "σ\nb\n")
    assert (tmp_path / "a").read_bytes() == "σ\nb\n".encode()


def test_a_digest_changes_with_a_name_a_content_and_the_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    two.write_text("b")
    digests = {digest(paths) for paths in ([one, two], [two, one], [one], [two], [], [one, tmp_path / "missing"])}
    one.write_text("c")
    assert len(digests | {digest([one, two])}) == 7
    one.write_text("a")
    assert digest([one, two]) == digest([str(one), str(two)]) in digests


def test_the_same_files_in_another_folder_have_the_same_digest(tmp_path: Path) -> None:
    digests = set()
    for folder in ("a", "b"):
        (tmp_path / folder / "module").mkdir(parents=True)
        (tmp_path / folder / "module" / "x.py").write_text("1")
        digests.add(digest(files_below(tmp_path / folder)))
    assert len(digests) == 1


def test_files_below_leaves_compiled_copies_out(tmp_path: Path) -> None:
    for name in ("b/c.py", "a.py", "b/__pycache__/c.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert files_below(tmp_path) == [tmp_path / "a.py", tmp_path / "b" / "c.py"]
    assert files_below(tmp_path / "missing") == []


def test_what_is_shown_holds_no_control_characters() -> None:
    assert printable("σ = 1\n\x1b[31mred") == "σ = 1\\n\\x1b[31mred"


# Runs the command in a process that has only what Windows has, as far as its libraries bear it: no fork, no signals but
# those of C, no locks of files, no sockets but TCP's, files of text in another encoding, locks that cannot be removed.
WINDOWS = """\
import asyncio, multiprocessing.util, os, pathlib, signal, subprocess, sys, types, warnings, zmq
sys.modules["fcntl"] = None
for name in ("O_NOFOLLOW", "O_NONBLOCK", "fork", "forkpty", "killpg", "getpgid", "sched_getaffinity", "mkfifo"):
    delattr(os, name)
for name in ("SIGHUP", "pthread_sigmask"):
    delattr(signal, name)
zmq.has = lambda name: False
unlink = pathlib.Path.unlink
def unlink_what_is_not_open(path, **options):
    if path.suffix == ".lock":
        raise PermissionError(13, "in use by another process", str(path))
    return unlink(path, **options)
pathlib.Path.unlink = unlink_what_is_not_open
warnings.filterwarnings("ignore", "only soft file lock")
import vaebook_runner.execute
vaebook_runner.execute.sys = types.SimpleNamespace(executable=sys.executable, platform="win32", warnoptions=[])
from vaebook_runner.cli import main
code = main()
assert "vaebook_runner.forked" not in sys.modules
sys.exit(code)
"""


@pytest.fixture
def on_windows(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in a small book as if on Windows; returns its exit code and what it wrote."""
    project = write_project(tmp_path / "book")
    text = (project / "notebooks" / "02_second.md").read_text().replace("# step", "# step σ, above 0")
    (project / "notebooks" / "02_second.md").write_text(text + "\nσ − 1\n", encoding="utf-8")
    ascii_files = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    environment = {**os.environ, **ascii_files, "PYTHONIOENCODING": "cp1252", "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-c", WINDOWS, *words]
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, encoding="cp1252", timeout=120
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_command_works_with_what_windows_has(
    tmp_path: Path, on_windows: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, error = on_windows("params", "02_second")
    assert code == 0, error
    assert out == "seed: int = 2\nrate: float = 0.5  # step ?, above 0\n"

    code, out, error = on_windows("run", "02_second", "-p", "rate", "0.25")
    assert (code, out) == (0, "02_second.out.ipynb\n"), error
    assert printed(tmp_path / "book" / "02_second.out.ipynb") == "2 0.25\n"

    folder = tmp_path / "book" / "runs"
    words = ["sweep", "02_second", "--seeds", "2", "-o", "runs"]
    for _ in range(2):
        code, out, error = on_windows(*words)
        assert (code, out) == (0, f"all 2 runs are done, in {folder.resolve()}\n"), error
    records = sorted(folder.glob("*.json"))
    assert [json.loads(path.read_text())["status"] for path in records] == ["done", "done"]
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".ipynb", ".lock"}

    code, out, error = on_windows("results", "runs", "--csv", "t.csv")
    assert (code, error) == (0, "")
    assert len(out.splitlines()) == 3
    code, out, error = on_windows("compare", *map(str, records))
    assert (code, error) == (0, "")
    assert "b ? a" in out
    assert "differs" in out
    code, out, error = on_windows("build", "--dry-run")
    assert code == 0, error
    assert out.splitlines()[-1].startswith("2 runs, 0 done")


def test_a_failure_and_a_timeout_are_recorded_with_what_windows_has(
    tmp_path: Path, on_windows: Callable[..., tuple[int, str, str]]
) -> None:
    second = tmp_path / "book" / "notebooks" / "02_second.md"
    cell = "while rate == 1: pass\nassert rate < 2, 'above 2'\nprint(seed, rate)"
    second.write_text(second.read_text(encoding="utf-8").replace("print(seed, rate)", cell), encoding="utf-8")
    code, _, error = on_windows("sweep", "02_second", "-g", "rate", "1,3", "--timeout", "8", "-o", "runs")
    assert code == 1
    assert "AssertionError: above 2" in error
    assert "timeout: stopped after 8 s" in error
    records = [json.loads(path.read_text()) for path in (tmp_path / "book" / "runs").glob("*.json")]
    assert sorted(record["status"] for record in records) == ["failed", "timeout"]
