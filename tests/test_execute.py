"""One notebook in a kernel of its own, which nothing of the user's other work disturbs, and which leaves nothing behind."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from small_book import myst, printed

from vaebook_runner.execute import cores, execute
from vaebook_runner.files import Failed

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
    """What a chapter sees from inside, run by the command in the surroundings of a user who configured much."""
    folder = tmp_path_factory.mktemp("probe")
    decoy = folder / "jupyter" / "kernels" / "python3"
    decoy.mkdir(parents=True)
    spec = {"argv": ["/bin/false"], "display_name": "Decoy", "language": "python"}
    (decoy / "kernel.json").write_text(json.dumps(spec))
    (folder / "probe.md").write_text(myst("Probe", 'rate: float = 0.5\nname: str = "a"', PROBE))
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("intruder = 1")
    (folder / "here").mkdir()
    (folder / "short").mkdir()
    variables = {
        "VAEBOOK_DATA": "../shared/data",
        "JUPYTER_PATH": str(folder / "jupyter"),
        "IPYTHONDIR": str(folder / "ipython"),
        "MPLBACKEND": "agg",
        "TMPDIR": str(folder / "short"),
        "PATH": "/usr/bin:/bin",  # no environment is activated
    }
    words = ["run", "../probe.md", "-p", "rate", "-1e-4", "-p", "name", NAME]
    done = subprocess.run(
        [sys.executable, "-m", "vaebook_runner", *words], cwd=folder / "here", env={**os.environ, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (folder / "here").iterdir()] == ["probe.out.ipynb"]
    return {"folder": folder, **json.loads(printed(folder / "here" / "probe.out.ipynb"))}


@pytest.mark.skipif(os.name != "posix", reason="elsewhere kernels listen to ports of this machine")
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
    assert [path.name for path in (probe["folder"] / "short").iterdir()] == []


# --- what a user configured for other work ---

LOOKS = """\
import datetime, getpass, locale, pathlib, sys, warnings
import matplotlib.pyplot as plt
plt.plot([0, 1.5], [0, 1])
plt.title(f"{'intruder' in globals()}")
plt.show()
getpass.getuser(), pathlib.Path.home()  # as libraries do
_ = pathlib.Path("forked").write_text(str("sklearn" in sys.modules))
with warnings.catch_warnings(record=True) as caught:
    warnings.warn("old", DeprecationWarning)
    print(len(caught), locale.getlocale(), datetime.datetime.fromtimestamp(0).astimezone())"""
GRID = "axes.grid: True\nfigure.facecolor: pink\ntimezone: Asia/Tokyo\n"
NAMELESS = """\
import os, pwd
def nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = nobody
"""


def looks(folder: Path, *words: str, unset: str = "", **variables: str) -> Any:
    """The outputs of a chapter that looks at its surroundings, run in ``folder`` by a command of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "looks.md").write_text(myst("Looks", "seed: int = 1", LOOKS))
    kept = {k: v for k, v in os.environ.items() if k not in ["LC_ALL", "TZ", "MPLBACKEND", *unset.split()]}
    done = subprocess.run(
        [sys.executable, "-m", "vaebook_runner", *(words or ["run"]), "looks.md"], cwd=folder,
        env={**kept, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = next(path for path in folder.rglob("*.ipynb"))
    return [output for cell in nbformat.read(written, as_version=4).cells for output in cell.get("outputs", [])]


@pytest.fixture(scope="module")
def unconfigured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    outputs = looks(tmp_path_factory.mktemp("unconfigured"))
    assert "image/png" in outputs[0].data
    return outputs


@pytest.mark.parametrize("words", [["run"], ["sweep"]])  # a plain kernel, a forked one
def test_what_a_user_configured_changes_no_output(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, unconfigured: Any, words: list[str]
) -> None:
    for name, text in {
        "here/matplotlibrc": GRID,
        "site/sitecustomize.py": NAMELESS,
        "startup.py": "intruder = 1\n",
        "jupyter/jupyter_config.py": "1 / 0\n",
        "ipython/profile_default/ipython_config.py": "c.InlineBackend.figure_formats = {'svg'}\n",
        "elsewhere/matplotlibrc": GRID,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    outputs = looks(
        tmp_path / "here", *words, unset="HOME USER LOGNAME USERNAME LNAME",
        LC_ALL="tr_TR.ISO-8859-9", TZ="Asia/Tokyo", MPLBACKEND="no_such_backend", MATPLOTLIBRC=str(tmp_path / "elsewhere"),
        PYTHONWARNINGS="error::DeprecationWarning", PYTHONSTARTUP=str(tmp_path / "startup.py"),
        PYTHONPATH=os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parents[1])]),
        JUPYTER_CONFIG_DIR=str(tmp_path / "jupyter"), IPYTHONDIR=str(tmp_path / "ipython"),
        TMPDIR=str(tmp_path_factory.mktemp("t t")),
    )  # fmt: skip
    assert outputs == unconfigured
    if sys.platform == "linux":
        assert (tmp_path / "here" / "forked").read_text() == str(words == ["sweep"])


@pytest.mark.parametrize("place", ["here", "home/.config/matplotlib", "elsewhere"])
def test_a_file_of_settings_of_matplotlib_changes_no_figure(tmp_path: Path, unconfigured: Any, place: str) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "matplotlibrc").write_text(GRID)
    variables = {"HOME": str(tmp_path / "home")} if "home" in place else {}
    variables |= {"MATPLOTLIBRC": str(tmp_path / place)} if place == "elsewhere" else {}
    assert looks(tmp_path / "here", unset="XDG_CONFIG_HOME", **variables) == unconfigured


def test_a_home_that_cannot_be_written_is_not_needed(tmp_path: Path, unconfigured: Any) -> None:
    long = tmp_path / ("t" * 120)
    long.mkdir()
    assert looks(tmp_path, HOME="/dev/null/home", TMPDIR=str(long)) == unconfigured


# --- the function itself ---


def notebook(*cells: str) -> Any:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


ADDRESSES = """\
import ipykernel, json, os, psutil
folder = os.path.dirname(ipykernel.get_connection_file())
addresses = [c.laddr for c in psutil.Process().net_connections("unix") if folder in str(c.laddr)]
print(json.dumps([folder, os.stat(folder).st_mode & 0o777, max(map(len, addresses))]))"""
EXECUTES = """\
import sys
from pathlib import Path
from vaebook_runner.chapters import read_notebook
from vaebook_runner.execute import execute
execute(read_notebook(Path("chapter.ipynb")), Path("out.ipynb"), {}, name="chapter", fork=sys.argv[1] == "True")"""


@pytest.mark.skipif(os.name != "posix", reason="elsewhere kernels listen to ports of this machine")
@pytest.mark.parametrize("fork", [False, True])
def test_sockets_lie_in_a_private_folder_with_a_short_path(tmp_path: Path, fork: bool) -> None:
    base = tmp_path / ("t" * 200)
    base.mkdir()
    nbformat.write(notebook(ADDRESSES), tmp_path / "chapter.ipynb")
    command, environment = [sys.executable, "-c", EXECUTES, str(fork)], {**os.environ, "TMPDIR": str(base)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    folder, mode, longest = json.loads(printed(tmp_path / "out.ipynb"))
    assert mode == 0o700
    assert longest < 100
    assert not Path(folder).exists()


def test_threads_are_shared_out_and_a_user_may_ask_for_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os; print(os.environ.get('OMP_NUM_THREADS'))"
    for chosen, threads, expected in [("", 3, "3"), ("2", 3, "2"), ("8", 3, "3"), ("many", 3, "3"), ("5", 0, "5")]:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
        execute(notebook(code), tmp_path / "out.ipynb", {}, name="threads", threads=threads, fork=True)
        assert printed(tmp_path / "out.ipynb") == f"{expected}\n"


def test_there_is_at_least_one_core() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # nbclient closes no thread's event loop
def test_kernels_at_once_do_not_meet(tmp_path: Path) -> None:
    def run(k: int) -> str:
        out = tmp_path / f"{k}.ipynb"
        execute(notebook(f"x = {k}", "import time; time.sleep(0.5)", "print(x)"), out, {}, name=str(k), fork=True)
        return printed(out)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, range(3))) == ["0\n", "1\n", "2\n"]
    gc.collect()


def test_a_cell_that_should_raise_does_not_fail_and_hides_no_other(tmp_path: Path) -> None:
    wanted, out = notebook("print('a')", "1 / 0", "print('c')"), tmp_path / "out.ipynb"
    wanted.cells[1].metadata["tags"] = ["raises-exception"]
    execute(wanted, out, {}, name="08_x")
    assert "ZeroDivisionError" in out.read_text()
    wanted.cells.append(nbformat.v4.new_code_cell("int('x')"))
    with pytest.raises(Failed, match=r"code cell 4 of 4 failed\n\n    int\('x'\)\n\n(.|\n)*ValueError"):
        execute(wanted, out, {}, name="08_x")


@pytest.mark.parametrize("fork", [False, True])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('b')\n1 / 0", "ZeroDivisionError"),
        ("import os\nos._exit(3)", "died"),
        ("raise SystemExit", "SystemExit"),
    ],
)
def test_the_cell_that_failed_is_named_and_what_ran_is_kept(tmp_path: Path, code: str, said: str, fork: bool) -> None:
    out = tmp_path / "out.ipynb"
    source = "\n".join(f"    {line}" for line in code.splitlines())
    with pytest.raises(Failed) as failed:
        execute(notebook("print('a')", code, "print('c')"), out, {}, name="08_x", fork=fork)
    assert failed.value.message.startswith(f"08_x: code cell 2 of 3 failed\n\n{source}\n\n")
    assert said in failed.value.message
    assert printed(out).startswith("a\n")
    assert "c\n" not in printed(out)


@pytest.mark.parametrize("fork", [False, True])
def test_a_reason_to_stop_ends_the_kernel_and_its_children(tmp_path: Path, fork: bool) -> None:
    pids, out = tmp_path / "pids", tmp_path / "out.ipynb"
    code = f"""\
import os, pathlib, subprocess, time
child = subprocess.Popen(["sleep", "600"])
pathlib.Path({str(pids)!r}).write_text(f"{{os.getpid()}} {{child.pid}} .")
time.sleep(600)"""

    def reason() -> str:
        return "enough" if pids.is_file() and pids.read_text().endswith(".") else ""

    assert execute(notebook("print('a')", code), out, {}, name="stopped", fork=fork, stop=reason) == "enough"
    assert printed(out) == "a\n"
    end = time.monotonic() + 10
    for pid in map(int, pids.read_text().split()[:2]):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_without_a_reason_to_stop_nothing_is_returned(tmp_path: Path) -> None:
    assert not execute(notebook("1"), tmp_path / "out.ipynb", {}, name="one", fork=True, stop=str)
