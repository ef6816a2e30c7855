"""What surrounds the code: one list of dependencies, a lock without addresses, a wheel that installs."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# Only `make bench` wants it, and has a lock of its own.
EXTRAS = {name: group for name, group in PROJECT["optional-dependencies"].items() if name != "bench"}


def locked(file: str = "requirements.lock") -> dict[str, str]:
    """Package name to the first locked version."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.M)[::-1])


def names(requirements: Iterable[str]) -> set[str]:
    return {re.split(r"[<>=!~ \[;]", p)[0].lower() for p in requirements}


def test_environment_yml_is_held_to_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, rest = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}"
    assert pip == "pip"
    assert rest == {"pip": [f"-e .[{','.join(sorted(EXTRAS))}]"]}  # all of its packages, and no others


def test_binder_gets_what_the_chapters_and_the_command_need_and_a_torch_for_cpus() -> None:
    environment = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text(encoding="utf-8"))
    there = {package.partition("=")[0] for package in environment["dependencies"]}
    conda = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base", "jupyter-client": "jupyter_client"}
    needed = names([*PROJECT["dependencies"], *EXTRAS["run"]])
    assert there == {conda.get(name, name) for name in needed} | {"python", "pip", "jupyterlab"}
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK)


def test_the_lock_holds_every_dependency_with_hashes_and_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert names([*PROJECT["dependencies"], *(p for group in EXTRAS.values() for p in group)]) <= set(locked())
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text[text.index("\n", text.rindex("# ")) + 1 :].strip())
    assert len(entries) > 100
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_benchmarks_lock_adds_what_they_compare_with() -> None:
    theirs = locked("benchmarks/requirements.lock")
    assert names(PROJECT["optional-dependencies"]["bench"]) <= set(theirs)
    assert not set(theirs) & set(locked())


def test_torch_and_torchvision_are_a_pair() -> None:
    torch, torchvision = (tuple(int(n) for n in locked()[p].split(".")) for p in ("torch", "torchvision"))
    assert torchvision[0] == 0
    assert torchvision[1] == torch[1] + 15  # 2.12 goes with 0.27, and so on since 2.0 with 0.15


def test_the_citation_and_changelog_name_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert f"## {PROJECT['version']} — {citation['date-released']}" in (ROOT / "CHANGELOG.md").read_text(
        encoding="utf-8"
    )


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree in an environment that holds nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: setuptools leaves its own folders beside what it builds
    for package in ("vaebook", "vaebook_runner"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("vaebook-*.whl")
    venv.create(folder / "env", with_pip=False)
    bin_ = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [
        sys.executable,
        "-m",
        "pip",
        f"--python={bin_ / 'python'}",
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
    ]
    subprocess.run([*pip, str(wheel)], check=True)
    return bin_


def test_the_wheel_imports_in_an_empty_environment(empty_environment: Path) -> None:
    names = {
        "vaebook": ("py.typed", "book.mplstyle", "explorer.css", "explorer.js"),
        "vaebook_runner": ("py.typed", "print.js"),
    }
    code = f"""import vaebook, vaebook_runner, importlib.resources as r
print(vaebook.__version__, *(r.files(p) / name for p, names in {names}.items() for name in names), sep="\\n")"""
    command = [empty_environment / "python", "-I", "-W", "error", "-c", code]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    version, *paths = shown.splitlines()
    assert version == PROJECT["version"]
    assert len(paths) == 6
    assert all(Path(path).is_file() and "site-packages" in path for path in paths)


def test_without_its_extra_the_command_says_what_to_install(empty_environment: Path) -> None:
    for words in ([empty_environment / "vaebook", "--help"], [empty_environment / "python", "-m", "vaebook_runner"]):
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("vaebook: ")
        assert "click" in line
        assert "pip install '.[run]'" in line


def test_with_the_extra_run_the_installed_command_lists_all_that_it_can_do(empty_environment: Path) -> None:
    # The packages of the environment that runs the tests, without those of this project.
    code = f"import sys; sys.path += {[p for p in sys.path if p.endswith('site-packages')]!r}\n"
    code += "from importlib.metadata import distribution\n"
    code += "found = distribution('vaebook').entry_points.select(group='console_scripts', name='vaebook')\n"
    code += "(command,) = found; sys.argv = ['vaebook', '--help']; sys.exit(command.load()())"
    done = subprocess.run([empty_environment / "python", "-I", "-c", code], check=True, capture_output=True, text=True)
    listed = [line.split()[0] for line in done.stdout.split("Commands:\n")[1].splitlines()]
    assert listed == ["build", "compare", "params", "refresh", "results", "run", "sweep"]


def test_every_package_that_the_runner_imports_is_in_the_extra_run_or_in_the_core() -> None:
    """Those that it imports in one function alone may be of another extra, which a message there names."""
    declared = names([*PROJECT["dependencies"], *EXTRAS["run"]])
    distributions = importlib.metadata.packages_distributions()
    for path in (ROOT / "vaebook_runner").glob("*.py"):
        if path.stem == "pages":  # Sphinx loads it, which comes with the extra book
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for top in {module.split(".")[0] for module in modules} - sys.stdlib_module_names:
                found = {name.lower().replace("_", "-") for name in distributions[top]}
                assert found & (declared | {"vaebook"}), f"{path.name} imports {top}"


def test_the_code_of_the_readme_runs_and_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Its number is that of one seed on one machine: another processor may move it by some tenths."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    said = re.search(r"# tensor\(([\d.]+)…\)", blocks[0])
    space: dict[str, Any] = {}
    exec("\n".join(blocks), space)
    assert said
    assert space["z"].shape == (5, 180, 2)
    printed = re.search(r"tensor\((-?[\d.]+)", capsys.readouterr().out)
    assert printed
    assert float(printed[1]) == pytest.approx(float(said[1]), abs=0.5)
