"""Whatever a user can cause is one line and an exit code, at every command; tracebacks are for faults of ours."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from small_book import pretend, write_project

from vaebook_runner.jobs import plan_sweep

VAEBOOK = [sys.executable, "-m", "vaebook_runner"]
LOOKS = [
    "--help", "--version", "params 01_first", "sweep 01_first --seeds 3 --dry-run", "results runs", "compare {0} {1}",
    "build --dry-run", "sweep 01_first --seeds 2 -o runs",
]  # fmt: skip
WRITES = [
    "run 01_first", "run 01_first -o sub/out.ipynb", "sweep 01_first --seeds 3 -o runs", "sweep 02_second",
    "results runs --csv table.csv", "build", "refresh",
]  # fmt: skip
# A namespace in which this user has a number without a name, and owns the files, but may not overrule their modes.
NAMELESS = ["unshare", "--user", "--map-user=12345"]
BARE = {
    name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
}
BARE |= {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book with a folder of two runs."""
    root = write_project(tmp_path_factory.mktemp("errors"))
    pretend(plan_sweep(root / "notebooks" / "01_first.md", root / "runs", {}, {}, 2))
    (root / "sub").mkdir()
    return root


def command(book: Path, text: str, wrapped: Sequence[str] = ()) -> list[str]:
    records = [str(path) for path in sorted((book / "runs").glob("*.json"))]
    return [*wrapped, *VAEBOOK, *text.format(*records).split()]


def refused(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """The last line says what is wrong; what stands above it is progress."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert [part for part in said if part not in last] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("text", LOOKS)
def test_an_output_that_is_full(book: Path, text: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command(book, text), cwd=book, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    refused(done, 1, "No space left on device")


@pytest.mark.parametrize("text", LOOKS)
def test_a_pipe_that_nobody_reads(book: Path, text: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command(book, text), cwd=book, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(os.name != "posix", reason="a shell closes streams in this way only here")
@pytest.mark.parametrize("text", LOOKS)
def test_streams_that_are_closed(book: Path, text: str) -> None:
    shell = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command(book, text)]
    assert subprocess.run(shell, cwd=book, check=False).returncode == 0


@pytest.fixture
def nameless() -> list[str]:
    """What starts a command as a user without a name and without power over others' files."""
    if not shutil.which("unshare") or subprocess.run([*NAMELESS, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system makes no user namespaces")
    return NAMELESS


@pytest.mark.parametrize("text", WRITES)
def test_folders_that_cannot_be_written(book: Path, nameless: list[str], text: str) -> None:
    folders = [book, *(path for path in book.rglob("*") if path.is_dir())]
    before = sorted(book.rglob("*"))
    for folder in folders:
        folder.chmod(0o555)
    try:
        done = subprocess.run(
            command(book, text, nameless), cwd=book, env=BARE, capture_output=True, text=True, check=False
        )
    finally:
        for folder in folders:
            folder.chmod(0o755)
    refused(done, 2, "cannot be written")
    assert sorted(book.rglob("*")) == before


@pytest.mark.parametrize("text", ["params 01_first", "run 01_first", "sweep 01_first", "build", "refresh"])
def test_a_source_that_cannot_be_read(book: Path, nameless: list[str], text: str) -> None:
    source = book / "notebooks" / "01_first.md"
    source.chmod(0o000)
    try:
        done = subprocess.run(
            command(book, text, nameless), cwd=book, env=BARE, capture_output=True, text=True, check=False
        )
    finally:
        source.chmod(0o644)
    refused(done, done.returncode or 1, "Permission denied", "01_first.md")


@pytest.mark.parametrize("home", [None, "/nowhere", "/proc"])
def test_a_user_without_a_name_or_a_home_runs_a_chapter(
    book: Path, nameless: list[str], tmp_path: Path, home: str | None
) -> None:
    """As in a container that is started with a user's number; kernels start plainly and forked."""
    root = write_project(tmp_path / "own")
    environment = BARE | ({"HOME": home} if home else {}) | {"TMPDIR": str(tmp_path)}
    for text in ["run 01_first"] if home else ["run 01_first", "sweep 02_second"]:
        done = subprocess.run(
            [*nameless, *VAEBOOK, *text.split()], cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("vaebook-*"))  # no home stays behind


MISSING = {
    "run nothing": "no notebook 'nothing'",
    "run notebooks/nothing.md": "no notebook",
    "run 01_first -o nowhere/out.ipynb": "OUT cannot be written",
    "run 01_first --params nothing.yml": "nothing.yml",
    "params nothing": "no notebook",
    "sweep nothing": "no notebook",
    "sweep 01_first --params nothing.yml": "nothing.yml",
    "sweep 01_first -o _toc.yml": "_toc.yml",
    "results nothing": "nothing",
    "results _toc.yml": "_toc.yml",
    "results runs --csv nowhere/x.csv": "FILE cannot be written",
    "compare nothing {0}": "nothing",
    "compare {0} sub": "sub",
    "refresh nothing": "no chapter 'nothing'",
}


@pytest.mark.parametrize("text", MISSING)
def test_what_is_missing(book: Path, text: str) -> None:
    before = sorted(book.rglob("*"))
    done = subprocess.run(command(book, text), cwd=book, capture_output=True, text=True, check=False)
    refused(done, 2, MISSING[text])
    assert sorted(book.rglob("*")) == before


def test_a_folder_that_has_gone(tmp_path: Path) -> None:
    """A shell may still stand in a folder that somebody removed."""
    gone = tmp_path / "gone"
    gone.mkdir()
    shell = f'rmdir "{gone}"; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *VAEBOOK, "build", "--dry-run"], cwd=gone, capture_output=True, text=True, check=False
    )
    refused(done, done.returncode or 1)
