"""The runner executes what changed, refuses what it cannot do, and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from sources import HEADER

from vaebook.runner import book, chapters, execute, parameters
from vaebook.runner.files import UsageError, write_atomically
from vaebook.runner.parameters import Parameter

CONFIG = """\
title: Sample
only_build_toc_files: true
execute:
  execute_notebooks: "off"
"""
TOC = """\
format: jb-book
root: intro
parts:
  - caption: Chapters
    numbered: 1
    chapters:
      - file: notebooks/01_first.ipynb
      - file: notebooks/02_second.ipynb
"""


def myst(title: str, *cells: str) -> str:
    """A MyST notebook whose first cell declares parameters."""
    blocks = [f"```{{code-cell}} ipython3\n:tags: [parameters]\n\n{cells[0]}\n```"]
    blocks += [f"```{{code-cell}} ipython3\n{cell}\n```" for cell in cells[1:]]
    return HEADER + "\n\n".join([f"# {title}", *blocks]) + "\n"


def write_project(root: Path) -> Path:
    (root / "notebooks").mkdir(parents=True)
    (root / "_toc.yml").write_text(TOC)
    (root / "_config.yml").write_text(CONFIG)
    (root / "intro.md").write_text("# Welcome\n")
    (root / "requirements.lock").write_text("torch==2\n")
    first = myst("First", "seed: int = 1  # of the generator", "print('seed', seed)", "print('seed', seed)")
    second = myst("Second", "seed: int = 2\nrate: float = 0.5  # step", "print(seed, rate)")
    (root / "notebooks" / "01_first.md").write_text(first)
    (root / "notebooks" / "02_second.md").write_text(second)
    return root


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(write_project(tmp_path / "book"))
    return Path.cwd()


def vaebook(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a reader runs it, by a full path and without an activated environment."""
    return subprocess.run(
        [sys.executable, "-m", "vaebook.cli", *words],
        cwd=cwd,
        env={**os.environ, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def printed(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


# What a chapter declares


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "3", 3),
        ("int", "-3", -3),
        ("float", "1e-4", 1e-4),
        ("float", "0.2", 0.2),
        ("float", "3", 3.0),
        ("bool", "true", True),
        ("bool", "False", False),
        ("str", "1e-4", "1e-4"),
    ],
)
def test_a_value_becomes_native(kind: str, text: str, value: object) -> None:
    parsed = Parameter("x", kind, "", "").parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int", "2.5"),
        ("int", "banana"),
        ("int", "1e3"),
        ("int", ""),
        ("float", "banana"),
        ("float", "nan"),
        ("float", "inf"),
        ("float", "1e999"),
        ("bool", "2"),
        ("bool", "perhaps"),
    ],
)
def test_a_value_of_another_type_is_refused(kind: str, text: str) -> None:
    with pytest.raises(UsageError, match=rf"'epochs' is declared as {kind}: expected .*, got '{text}'"):
        Parameter("epochs", kind, "", "").parse(text)


def declared(source: str) -> dict[str, Parameter]:
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    return parameters.declared_parameters(nbformat.v4.new_notebook(cells=[cell]), "04_x")


def test_declarations_are_read_as_papermill_reads_them() -> None:
    from papermill.translators import PythonTranslator

    source = (
        "# what the reader may change\n"
        'dataset: str = "digits"  # σ, μ: a "name"\n'
        "learning_rate: float = 1e-3  # of Adam, > 0\n"
        "epochs: int = 3\n"
    )
    ours = [(p.name, p.type, p.default, p.help) for p in declared(source).values()]
    assert ours == [tuple(p) for p in PythonTranslator.inspect({"source": source})]
    assert len(ours) == 3


@pytest.mark.parametrize(
    "line", ["epochs = 3", "epochs: list = [3]", "print(3)", "epochs: int", "x: int = ("]
)
def test_a_parameters_cell_that_declares_otherwise_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="04_x: the parameters cell"):
        declared(f"seed: int = 1\n{line}")


def test_a_table_of_contents_that_names_a_missing_chapter_is_refused(project: Path) -> None:
    (project / "notebooks" / "02_second.md").unlink()
    with pytest.raises(UsageError, match=r"lists notebooks/02_second.ipynb, but there is no"):
        chapters.read_book()


def test_cell_ids_depend_on_sources_alone(project: Path) -> None:
    path = project / "notebooks" / "01_first.md"
    ids = [cell.id for cell in chapters.read_notebook(path).cells]
    assert ids == [cell.id for cell in chapters.read_notebook(path).cells]
    assert len(set(ids)) == len(ids) == 4
    assert ids[3] == f"{ids[2]}-2"  # The two equal cells.


# What is executed again


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the chapters that a build would have executed; no kernel starts."""
    names: list[str] = []

    def pretend(runs: list[book.Run], jobs: int) -> list[str]:
        for run in runs:
            names.append(run.source.stem)
            run.partial.write_text(f"{len(names)}")
            book.keep(run, run.fingerprint())
        return []

    monkeypatch.setattr(book, "_execute_all", pretend)
    monkeypatch.setattr(book, "render", lambda found: found.root)
    return names


def test_nothing_changed_executes_nothing(project: Path, executed: list[str]) -> None:
    book.build({})
    assert executed == ["01_first", "02_second"]
    book.build({})
    assert len(executed) == 2
    book.build({}, fresh=True)
    assert len(executed) == 4


def edit_source(project: Path) -> dict[str, str]:
    path = project / "notebooks" / "02_second.md"
    path.write_text(path.read_text() + "\nOne more sentence.\n")
    return {}


def edit_lock(project: Path) -> dict[str, str]:
    (project / "requirements.lock").write_text("torch==3\n")
    return {}


def edit_module(project: Path) -> dict[str, str]:
    (project / "module" / "gaussians.py").write_text("new = 1\n")
    return {}


def damage_copy(project: Path) -> dict[str, str]:
    (project / "_build" / "executed" / "01_first.ipynb").write_text("half of")
    return {}


def damage_record(project: Path) -> dict[str, str]:
    (project / "_build" / "executed" / "01_first.json").write_text("{")
    return {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (edit_source, ["02_second"]),
        (edit_lock, ["01_first", "02_second"]),
        (edit_module, ["01_first", "02_second"]),
        (lambda project: {"rate": "0.1"}, ["02_second"]),
        (lambda project: {"seed": "7"}, ["01_first", "02_second"]),
        (damage_copy, ["01_first"]),
        (damage_record, ["01_first"]),
    ],
)
def test_exactly_what_changed_is_executed(
    project: Path,
    executed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], dict[str, str]],
    expected: list[str],
) -> None:
    (project / "module").mkdir()
    (project / "module" / "gaussians.py").write_text("old = 1\n")
    monkeypatch.setattr(chapters.vaebook, "__file__", str(project / "module" / "__init__.py"))
    book.build({})
    executed.clear()
    texts = change(project)
    book.build(texts)
    assert executed == expected
    book.build(texts)
    assert executed == expected


def test_what_runs_chapters_counts_for_the_chapters_that_use_it_alone(
    project: Path, executed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    side = project / "module" / "runner"
    side.mkdir(parents=True)
    (side / "results.py").write_text("old = 1\n")
    monkeypatch.setattr(chapters.vaebook, "__file__", str(project / "module" / "__init__.py"))
    path = project / "notebooks" / "02_second.md"
    path.write_text(path.read_text().replace("print(seed, rate)", "from vaebook.runner import results"))
    book.build({})
    executed.clear()
    (side / "results.py").write_text("new = 1\n")
    book.build({})
    assert executed == ["02_second"]


def test_a_changed_image_file_of_the_reader_is_noticed(project: Path, executed: list[str]) -> None:
    path = project / "notebooks" / "01_first.md"
    path.write_text(path.read_text().replace("seed: int", 'dataset: str = "digits"\nseed: int'))
    for content in ("one", "three"):
        (project / "images.npy").write_text(content)
        executed.clear()
        book.build({"dataset": "images.npy"})
        assert "01_first" in executed


def test_refresh_reuses_what_a_build_executed(
    project: Path, executed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[str] = []
    monkeypatch.setattr(book, "store", lambda source, copy: bool(stored.append(source.stem)))
    book.build({})
    book.refresh(["02_second", "notebooks/01_first.md"])
    assert executed == ["01_first", "02_second"]
    assert stored == ["02_second", "01_first"]
    with pytest.raises(UsageError, match="no chapter '03_third'; the chapters are: 01_first, 02_second"):
        book.refresh(["03_third"])


# Pages


@pytest.fixture
def rendered(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The staged files of each rendering; every page is rendered, and no Sphinx starts."""
    stages: list[list[str]] = []

    def pretend(stage: Path, target: Path) -> Path:
        files = [path.relative_to(stage) for path in sorted(stage.rglob("*")) if path.is_file()]
        stages.append([path.as_posix() for path in files])
        html = target / "_build" / "html"
        for path in [*files, Path("index.md")]:
            (html / path).parent.mkdir(parents=True, exist_ok=True)
            (html / path).with_suffix(".html").write_text("page")
        if "broken" in (stage / "intro.md").read_text():
            raise book.RunFailed("a broken reference")
        return html

    monkeypatch.setattr(book, "_run_sphinx", pretend)
    executed = project / "_build" / "executed"
    executed.mkdir(parents=True)
    for name in ("01_first", "02_second"):
        (executed / f"{name}.ipynb").write_text("executed")
    return stages


def test_sphinx_sees_executed_chapters_and_pages_alone(project: Path, rendered: list[list[str]]) -> None:
    (project / "_static").mkdir()
    (project / "_static" / "book.css").write_text("")
    (project / "references.bib").write_text("")
    book.render(chapters.read_book())
    chapter_copies = ["notebooks/01_first.ipynb", "notebooks/02_second.ipynb"]
    expected = ["_config.yml", "_static/book.css", "_toc.yml", "intro.md", *chapter_copies, "references.bib"]
    assert rendered == [expected]


@pytest.mark.parametrize(
    "name",
    [
        "intro.md",
        "_config.yml",
        "notebooks/01_first.md",  # its page offers it for download
        "_build/executed/01_first.ipynb",
        "_build/html/intro.html",
    ],
)
def test_pages_are_rendered_when_they_or_a_source_of_theirs_changed(
    project: Path, rendered: list[list[str]], name: str
) -> None:
    page = book.render(chapters.read_book())
    assert page == project / "_build" / "html" / "index.html"
    book.render(chapters.read_book())
    assert len(rendered) == 1
    (project / name).write_text((project / name).read_text() + "\n# more\n")
    book.render(chapters.read_book())
    assert len(rendered) == 2


def test_a_deleted_page_comes_back(project: Path, rendered: list[list[str]]) -> None:
    page = book.render(chapters.read_book()).parent / "notebooks" / "02_second.html"
    page.unlink()
    book.render(chapters.read_book())
    assert page.is_file()
    assert len(rendered) == 2


def test_the_page_of_a_removed_chapter_goes(project: Path, rendered: list[list[str]]) -> None:
    page = book.render(chapters.read_book()).parent / "notebooks" / "02_second.html"
    assert page.is_file()
    (project / "_toc.yml").write_text(TOC.replace("      - file: notebooks/02_second.ipynb\n", ""))
    book.render(chapters.read_book())
    assert not page.exists()


@pytest.mark.usefixtures("rendered")
def test_a_failed_rendering_keeps_the_former_book_and_is_tried_again(project: Path) -> None:
    page = book.render(chapters.read_book())
    page.write_text("former")
    (project / "intro.md").write_text("# broken\n")
    for _ in range(2):
        with pytest.raises(book.RunFailed, match="a broken reference"):
            book.render(chapters.read_book())
    assert page.read_text() == "former"


# Kernels

PROBE = """\
import json, os, psutil, sys
own, parent = psutil.Process(), psutil.Process().parent()
report = dict(
    python=sys.executable,
    data=os.environ["VAEBOOK_DATA"],
    cwd=os.getcwd(),
    tcp=[c.laddr.port for p in (own, parent) for c in p.net_connections("tcp")],
    # ipykernel's own, for what forked children print; the kernel's channels do not use it.
    forked=sys.stdout.pub_thread._pipe_port,
    sockets=[c.laddr for c in own.net_connections("unix") if "vaebook-" in str(c.laddr)],
    intruder="intruder" in globals(),
    backend=os.environ["MPLBACKEND"],
    rate=repr(rate),
    name=name,
)
print(json.dumps(report))"""
NAME = 'it\'s a "name" with \\ and {braces} of 1e-4'


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a chapter sees from inside, run in the surroundings of a user who configured much."""
    folder = tmp_path_factory.mktemp("probe")
    decoy = folder / "jupyter" / "kernels" / "python3"
    decoy.mkdir(parents=True)
    spec = {"argv": ["/bin/false"], "display_name": "Decoy", "language": "python"}
    (decoy / "kernel.json").write_text(json.dumps(spec))
    source = folder / "probe.md"
    source.write_text(myst("Probe", 'rate: float = 0.5\nname: str = "a"', PROBE))
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("intruder = 1")
    (folder / "here").mkdir()
    (folder / "short").mkdir()
    done = vaebook(
        *("run", "../probe.md", "-p", "rate", "-1e-4", "-p", "name", NAME),
        cwd=folder / "here",
        VAEBOOK_DATA="../shared/data",
        JUPYTER_PATH=str(folder / "jupyter"),
        IPYTHONDIR=str(folder / "ipython"),
        MPLBACKEND="agg",
        TMPDIR=str(folder / "short"),
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (folder / "here").iterdir()] == ["probe.out.ipynb"]
    return {"folder": folder, **json.loads(printed(folder / "here" / "probe.out.ipynb"))}


def test_a_kernel_is_reached_through_sockets_and_no_tcp_port(probe: dict[str, Any]) -> None:
    assert probe["tcp"] == [probe["forked"]]
    assert len(probe["sockets"]) >= 5


def test_the_kernel_is_the_interpreter_that_runs(probe: dict[str, Any]) -> None:
    assert probe["python"] == sys.executable


def test_the_settings_of_the_user_change_no_output(probe: dict[str, Any]) -> None:
    assert not probe["intruder"]
    assert "inline" in probe["backend"]


def test_relative_data_folder_holds_in_the_kernel(probe: dict[str, Any]) -> None:
    assert Path(probe["data"]).is_absolute()
    assert Path(probe["data"]).resolve() == probe["folder"] / "shared" / "data"
    assert probe["cwd"] == str(probe["folder"] / "here")


def test_values_reach_the_kernel_as_given(probe: dict[str, Any]) -> None:
    assert probe["rate"] == "-0.0001"
    assert probe["name"] == NAME


def test_nothing_stays_in_the_temporary_folder(probe: dict[str, Any]) -> None:
    assert list((probe["folder"] / "short").iterdir()) == []


# The book as a whole


@dataclass
class Sample:
    """A book built once, with a copy of the runner that nobody edits while the tests run."""

    root: Path
    module: Path

    def vaebook(self, *words: str) -> subprocess.CompletedProcess[str]:
        return vaebook(*words, cwd=self.root / "notebooks", PYTHONPATH=str(self.module))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("built")
    package = Path(chapters.__file__).parents[1]
    shutil.copytree(package / "runner", folder / "module" / "vaebook" / "runner")
    for name in ("__init__.py", "cli.py"):
        shutil.copy(package / name, folder / "module" / "vaebook")
    sample = Sample(write_project(folder / "book"), folder / "module")
    done = sample.vaebook("build", "-p", "rate", "1e-4")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{sample.root / '_build' / 'html' / 'index.html'}\n"
    assert "[2/2]" in done.stderr
    return sample


def test_build_renders_the_book(built: Sample) -> None:
    assert "2 0.0001" in (built.root / "_build" / "html" / "notebooks" / "02_second.html").read_text()


def test_a_second_build_executes_and_renders_nothing(
    built: Sample,
) -> None:
    root = built.root
    page = root / "_build" / "html" / "index.html"
    before = page.stat().st_mtime_ns
    done = built.vaebook("build", "-p", "rate", "1e-4")
    assert done.returncode == 0
    assert "started" not in done.stderr
    assert "rendering" not in done.stderr
    assert page.stat().st_mtime_ns == before


def test_a_failed_chapter_is_reported_and_the_others_go_on(
    built: Sample,
) -> None:
    root = built.root
    page = root / "_build" / "html" / "index.html"
    before = page.stat().st_mtime_ns
    source = root / "notebooks" / "01_first.md"
    good = source.read_text()
    source.write_text(good.replace("print('seed', seed)", "seed / 0", 1))
    done = built.vaebook("build")
    source.write_text(good)
    assert done.returncode == 1
    assert "01_first: code cell 2 of 3 failed\n\n    seed / 0\n" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "01_first.partial.ipynb" in done.stderr
    assert (root / "_build" / "executed" / "01_first.partial.ipynb").is_file()
    assert "02_second: FAILED" not in done.stderr
    assert printed(root / "_build" / "executed" / "02_second.ipynb") == "2 0.5\n"
    assert page.stat().st_mtime_ns == before


def test_refresh_stores_what_depends_on_the_sources_alone(
    built: Sample,
) -> None:
    root = built.root
    stored = root / "notebooks" / "01_first.ipynb"
    assert built.vaebook("refresh", "01_first").returncode == 0
    first = stored.read_bytes()
    for path in (root / "_build" / "executed").glob("01_first*"):
        path.unlink()
    assert built.vaebook("refresh", "01_first").stdout == ""  # Executed again, the same.
    assert stored.read_bytes() == first
    assert printed(stored) == "seed 1\nseed 1\n"
    for noise in (b"papermill", b"iopub", b"version", b"-2026"):
        assert noise not in first.replace(b"text_version", b"").replace(b"nbformat", b"")


def test_jupytext_sees_the_pair_in_step(built: Sample) -> None:
    from jupytext.cli import jupytext

    root = built.root
    source = root / "notebooks" / "02_second.md"
    assert built.vaebook("refresh", "02_second").returncode == 0
    stored = source.with_suffix(".ipynb").read_bytes()
    assert jupytext(["--quiet", "--sync", str(source)]) == 0
    assert source.with_suffix(".ipynb").read_bytes() == stored
    assert built.vaebook("refresh", "--check", "02_second").returncode == 0
    source.write_text(source.read_text().replace("print(seed, rate)", "print(rate, seed)"))
    done = built.vaebook("refresh", "--check", "02_second")
    assert done.returncode == 1
    assert "02_second.ipynb" in done.stderr


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
    command = [sys.executable, "-m", "vaebook.cli", "build", "--jobs", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_an_interrupted_build_stops_its_kernels(project: Path, slow_build: subprocess.Popen[str]) -> None:
    import psutil

    pids = [project / f"{name}.pid" for name in ("01_first", "02_second")]
    assert wait_for(lambda: all(path.is_file() and path.read_text() for path in pids), 60)
    slow_build.send_signal(signal.SIGINT)
    _, errors = slow_build.communicate(timeout=30)
    assert slow_build.returncode == 130, errors
    assert not any(psutil.pid_exists(int(path.read_text())) for path in pids)
    assert not (project / "_build" / "html").exists()
    # What ran is kept, under a name that no later build takes for a finished chapter.
    kept = sorted(path.name for path in (project / "_build" / "executed").iterdir())
    assert kept == ["01_first.partial.ipynb", "02_second.partial.ipynb"]


def test_sockets_lie_in_a_private_folder_with_a_short_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / ("t" * 200)
    base.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    with execute._private_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(f"{folder}/kernel-5") < 100
        manager = execute._connection(folder)["KernelManager"]
        assert manager["transport"] == "ipc"
        assert manager["ip"] == f"{folder}/kernel"
    assert not folder.exists()


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
