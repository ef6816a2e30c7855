"""A build executes what changed, renders what it executed and loses nothing; a refresh stores outputs beside the sources."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import psutil
import pytest
import sweeps
from small_book import TOC, myst, pretend, printed, write_project

from vaebook_runner import book, chapters
from vaebook_runner.files import Failed
from vaebook_runner.jobs import plan_book

PACKAGES = Path(book.__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(write_project(tmp_path / "book"))
    return Path.cwd()


def command(*words: str) -> list[str]:
    code = sweeps.LIGHT + "from vaebook_runner.cli import main\nsys.exit(main())"
    return [sys.executable, "-c", code, *words]


def environment(**variables: str) -> dict[str, str]:
    """That of a reader who has not activated the environment."""
    return {**os.environ, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **variables}


# --- which pages are rendered, without Sphinx ---


@pytest.fixture
def rendered(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The files that Sphinx would have read at each rendering; every page is rendered, and no Sphinx starts."""
    stages: list[list[str]] = []

    def run_sphinx(stage: Path, target: Path) -> Path:
        files = [path.relative_to(stage) for path in sorted(stage.rglob("*")) if path.is_file()]
        stages.append([path.as_posix() for path in files])
        html = target / "_build" / "html"
        shutil.rmtree(target, ignore_errors=True)
        (html / "_sources" / "notebooks").mkdir(parents=True)
        for path in [*files, Path("index.md")]:
            (html / path).parent.mkdir(parents=True, exist_ok=True)
            (html / path).with_suffix(".html").write_text("page")
        if "broken" in (stage / "pages" / "intro.md").read_text():
            raise Failed("a broken reference")
        return html

    monkeypatch.setattr(book, "run_sphinx", run_sphinx)
    return stages


def render() -> Path:
    found = chapters.read_book()
    jobs = plan_book(found, {})
    if not jobs[0].notebook.is_file():
        pretend(jobs)
    return book.render(found, jobs)


def test_sphinx_sees_executed_chapters_and_pages_alone(project: Path, rendered: list[list[str]]) -> None:
    (project / "pages" / "_static").mkdir()
    (project / "pages" / "_static" / "book.css").write_text("")
    (project / "pages" / "references.bib").write_text("")
    (project / "notebooks" / "01_first.ipynb").write_text("stored outputs")
    (project / "README.md").write_text("# no page\n")
    render()
    executed = ["notebooks/01_first.ipynb", "notebooks/02_second.ipynb"]
    pages = ["pages/_static/book.css", "pages/intro.md", "pages/references.bib"]
    assert rendered == [["_config.yml", "_toc.yml", "genindex.md", *executed, *pages]]
    staged = project / "_build" / "source" / executed[0]
    assert staged.read_bytes() == (project / "_build" / "executed" / "01_first.ipynb").read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "pages/intro.md",
        "_config.yml",
        "requirements.lock",
        "notebooks/01_first.md",  # its page offers it for download
        "_build/executed/01_first.ipynb",
        "_build/html/pages/intro.html",
    ],
)
def test_pages_are_rendered_when_they_or_a_source_of_theirs_changed(
    project: Path, rendered: list[list[str]], name: str
) -> None:
    page = render()
    assert page == project / "_build" / "html" / "index.html"
    render()
    assert len(rendered) == 1
    more = " " if name.endswith(".ipynb") else "\n# more\n"
    (project / name).write_text((project / name).read_text() + more)
    render()
    assert len(rendered) == 2


def test_a_deleted_page_comes_back(rendered: list[list[str]]) -> None:
    page = render().parent / "notebooks" / "02_second.html"
    page.unlink()
    render()
    assert page.is_file()
    assert len(rendered) == 2


@pytest.mark.usefixtures("rendered")
def test_the_page_of_a_removed_chapter_goes(project: Path) -> None:
    page = render().parent / "notebooks" / "02_second.html"
    assert page.is_file()
    (project / "_toc.yml").write_text(TOC.replace("      - file: notebooks/02_second.ipynb\n", ""))
    render()
    assert not page.exists()


@pytest.mark.usefixtures("rendered")
def test_a_failed_rendering_keeps_the_former_book_and_is_tried_again(project: Path) -> None:
    page = render()
    page.write_text("former")
    (project / "pages" / "intro.md").write_text("# broken\n")
    for _ in range(2):
        with pytest.raises(Failed, match="a broken reference"):
            render()
    assert page.read_text() == "former"


# --- what is stored beside a source ---


def test_a_stored_notebook_is_written_once_and_not_over_an_edit_unless_told_to(project: Path) -> None:
    source, executed = project / "notebooks" / "02_second.md", project / "executed.ipynb"
    nbformat.write(chapters.read_notebook(source), executed)
    assert book.store(source, executed)
    assert not book.store(source, executed)
    stored = source.with_suffix(".ipynb")
    good = stored.read_text()
    stored.write_text(good.replace("print(seed, rate)", "print(rate, seed)"))  # while the chapter was executed, say
    with pytest.raises(Failed, match=r"only 02_second.ipynb has: print\(rate, seed\)"):
        book.store(source, executed)
    assert book.store(source, executed, over=True)
    assert stored.read_text() == good


# --- the book as a whole ---


@dataclass
class Sample:
    """A book built once, with a copy of the two packages that nobody edits while the tests run."""

    root: Path
    module: Path

    def vaebook(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*words), cwd=self.root / "notebooks", env=environment(PYTHONPATH=str(self.module)),
            capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("built")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGES / "vaebook_runner", folder / "module" / "vaebook_runner", ignore=ignore)
    (folder / "module" / "vaebook").mkdir()
    shutil.copy(PACKAGES / "vaebook" / "__init__.py", folder / "module" / "vaebook")
    sample = Sample(write_project(folder / "book"), folder / "module")
    done = sample.vaebook("build", "-p", "rate", "1e-4")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{sample.root / '_build' / 'html' / 'index.html'}\n"
    assert "[2/2]" in done.stderr
    return sample


def test_build_renders_the_book(built: Sample) -> None:
    assert "2 0.0001" in (built.root / "_build" / "html" / "notebooks" / "02_second.html").read_text()


def test_a_page_offers_its_chapter_as_plain_notebook_and_as_source(built: Sample) -> None:
    folder = built.root / "_build" / "html" / "_sources" / "notebooks"
    assert printed(folder / "01_first.ipynb") == "seed 1\nseed 1\n"
    assert (folder / "01_first.md").read_bytes() == (built.root / "notebooks" / "01_first.md").read_bytes()
    assert not json.loads((folder / "01_first.ipynb").read_text())["metadata"].get("papermill")


def test_a_second_build_executes_and_renders_nothing(built: Sample) -> None:
    page = built.root / "_build" / "html" / "index.html"
    before = page.stat().st_mtime_ns
    done = built.vaebook("build", "-p", "rate", "1e-4")
    assert done.returncode == 0
    assert "[1/" not in done.stderr
    assert "the pages are up to date" in done.stderr
    assert page.stat().st_mtime_ns == before


def test_a_dry_run_shows_what_would_be_executed_and_does_nothing(built: Sample) -> None:
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (built.root / "_build").rglob("*")}

    before = state()
    done = built.vaebook("build", "--dry-run", "-p", "rate", "2e-4")
    assert (done.returncode, done.stderr) == (0, "")
    first, second, last = done.stdout.splitlines()
    assert (first, second) == ("done  01_first", "to do 02_second")
    assert last.startswith("2 runs, 1 done")
    assert state() == before


def test_a_failed_chapter_is_reported_and_the_others_go_on(built: Sample) -> None:
    page, executed = built.root / "_build" / "html" / "index.html", built.root / "_build" / "executed"
    before = page.stat().st_mtime_ns
    source = built.root / "notebooks" / "01_first.md"
    good = source.read_text()
    source.write_text(good.replace("print('seed', seed)", "seed / 0", 1))
    done = built.vaebook("build")
    source.write_text(good)
    assert done.returncode == 1
    assert "1 of 2 runs did not end well" in done.stderr
    assert "01_first: failed: 01_first: code cell 2 of 3 failed\n\n    seed / 0\n" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    # The part that ran is where the whole would be, and no later build takes it for the whole.
    assert (executed / "01_first.ipynb").is_file()
    assert '"failed"' in (executed / "01_first.json").read_text()
    assert printed(executed / "02_second.ipynb") == "2 0.5\n"
    assert page.stat().st_mtime_ns == before
    done = built.vaebook("refresh", "01_first")
    assert "[1/1] 01_first: done" in done.stderr
    assert done.returncode == 0


# Of a date or a time, of this machine's folders, or of this user's.
MOMENT_OR_PLACE = re.compile(r"\d{4}-\d\d-\d\d|\d\d:\d\d|/home/|/root/|/tmp/|papermill|iopub|duration|ipykernel_\d")


def test_refresh_stores_what_depends_on_the_sources_alone(built: Sample) -> None:
    stored, executed = (built.root / folder / "01_first.ipynb" for folder in ("notebooks", "_build/executed"))
    stored.unlink(missing_ok=True)
    files, said = [], []
    for _ in range(2):
        for path in executed.parent.glob("01_first.*"):
            path.unlink()
        done = built.vaebook("refresh", "01_first")
        assert done.returncode == 0, done.stderr
        assert "[1/1] 01_first: done" in done.stderr
        said.append(done.stdout)
        files.append(stored.read_bytes())
    assert said == [f"{stored}\n", ""]
    assert files[0] == files[1]
    assert printed(stored) == "seed 1\nseed 1\n"
    assert not MOMENT_OR_PLACE.findall(files[0].decode())
    # The executed copy holds what is searched for.
    today = datetime.now(UTC).date().isoformat()
    assert {"papermill", "duration", today} < set(MOMENT_OR_PLACE.findall(executed.read_text()))


def test_refresh_stores_what_is_executed_already(built: Sample) -> None:
    stored = built.root / "notebooks" / "02_second.ipynb"
    assert built.vaebook("refresh", "02_second").returncode == 0
    stored.unlink()
    done = built.vaebook("refresh", "notebooks/02_second.md")
    assert (done.returncode, done.stdout) == (0, f"{stored}\n")
    assert "[1/1]" not in done.stderr
    assert printed(stored) == "2 0.5\n"


def test_jupytext_sees_the_pair_in_step(built: Sample) -> None:
    from jupytext.cli import jupytext

    source = built.root / "notebooks" / "02_second.md"
    assert built.vaebook("refresh", "02_second").returncode == 0
    stored = source.with_suffix(".ipynb").read_bytes()
    assert jupytext(["--quiet", "--sync", str(source)]) == 0
    assert source.with_suffix(".ipynb").read_bytes() == stored
    assert built.vaebook("refresh", "--check", "02_second").returncode == 0
    source.write_text(source.read_text().replace("print(seed, rate)", "print(rate, seed)"))
    done = built.vaebook("refresh", "--check", "02_second")
    assert done.returncode == 1
    assert "02_second.ipynb" in done.stderr


def test_a_broken_reference_stops_the_build_with_sphinxs_own_words(built: Sample) -> None:
    page = built.root / "pages" / "intro.md"
    good = page.read_text()
    page.write_text(good + "\nSee {ref}`nowhere-at-all`.\n")
    done = built.vaebook("build")
    page.write_text(good)
    assert done.returncode == 1
    assert "nowhere-at-all" in done.stderr
    assert "the whole log is in " in done.stderr


# --- a build that is stopped ---


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.05)
    return condition()


@pytest.fixture
def slow_build(project: Path) -> Iterator[subprocess.Popen[str]]:
    for name in ("01_first", "02_second"):
        pid = f"import os, pathlib, time\npathlib.Path('{name}.pid').write_text(str(os.getpid()))"
        source = myst(name, "seed: int = 1", pid, "time.sleep(600)")
        (project / "notebooks" / f"{name}.md").write_text(source)
    words = command("build", "--jobs", "2")
    with subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_an_interrupted_build_stops_its_kernels(project: Path, slow_build: subprocess.Popen[str]) -> None:
    pids = [project / f"{name}.pid" for name in ("01_first", "02_second")]
    assert wait_for(lambda: all(path.is_file() and path.read_text() for path in pids), 60)
    slow_build.send_signal(signal.SIGINT)
    _, errors = slow_build.communicate(timeout=30)
    assert slow_build.returncode == 130, errors
    assert "interrupted: 0 of 2 runs are done" in errors
    assert not any(psutil.pid_exists(int(path.read_text())) for path in pids)
    assert not (project / "_build" / "html").exists()
    # Nothing is left that a later build could take for a finished chapter.
    assert list((project / "_build" / "executed").iterdir()) == []
