"""A module imports only from floors below its own, never from its own floor; and both packages stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the bottom. The mathematics:
FLOORS = [
    {"gaussians", "bernoulli", "checkpoints", "estimates", "own_images", "quadrature", "ranges", "faster"},
    {"data", "divergences", "linear", "models", "ledger"},
    {"objectives"},
    {"evaluation"},
    {"training", "figures"},
    {"explorer"},
]
# What runs notebooks and makes the book of them:
RUNNER_FLOORS = [
    {"files"},
    {"parameters", "records", "chapters"},
    {"pairs", "warm", "plain"},
    {"forked", "html_page"},
    {"execute"},
    {"jobs"},
    {"sweep"},
    {"results"},
    {"book"},
    {"pdf"},
    {"cli"},
    {"__main__"},
]
FLOOR = {
    f"{package}.{name}": level
    for package, floors in (("vaebook", FLOORS), ("vaebook_runner", RUNNER_FLOORS))
    for level, names in enumerate(floors)
    for name in names
}
TESTED_ELSEWHERE = {"vaebook_runner.__main__": "cli", "vaebook_runner.warm": "forked"}
MOST_LINES = {"vaebook": 2700, "vaebook_runner": 1800}  # with blank lines and docstrings
MOST_LINES_OF_A_FILE = 250  # of vaebook_runner


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def path_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


def imported(source: str) -> set[str]:
    """What a file imports of the two packages, wherever in the file it does: modules, and the packages themselves."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    ours = {tuple(name.split(".")[:2]) for name in names if name.split(".")[0] in ("vaebook", "vaebook_runner")}
    # A name that a package defines itself, such as its version, is the package.
    return {package if rest in ([], ["__version__"]) else f"{package}.{rest[0]}" for package, *rest in ours}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from vaebook.models import Decoder", {"vaebook.models"}),
        ("import torch, vaebook.models as m", {"vaebook.models"}),
        ("from vaebook_runner import book as books, sweep", {"vaebook_runner.book", "vaebook_runner.sweep"}),
        ("def f():\n    if 1:\n        from vaebook import models", {"vaebook.models"}),
        ("import vaebook\nfrom vaebook import __version__", {"vaebook"}),
        ("import torch\nfrom pathlib import Path", set()),
    ],
)
def test_an_import_is_found_in_every_form(source: str, found: set[str]) -> None:
    assert imported(source) == found


def test_every_module_has_a_floor() -> None:
    modules = {f"{package}.{path.stem}" for package in MOST_LINES for path in files(package)}
    assert modules - {f"{package}.__init__" for package in MOST_LINES} == set(FLOOR)


@pytest.mark.parametrize("module", sorted(FLOOR))
def test_imports_point_downwards(module: str) -> None:
    package = module.split(".")[0]
    # The runner asks the mathematics for its folder and its version, and computes nothing.
    allowed = {name for name, level in FLOOR.items() if name.startswith(f"{package}.") and level < FLOOR[module]}
    assert imported(path_of(module).read_text(encoding="utf-8")) <= allowed | {"vaebook"}


def test_the_packages_themselves_import_nothing() -> None:
    for package in MOST_LINES:
        assert imported(path_of(f"{package}.__init__").read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("module", sorted(FLOOR))
def test_every_module_has_a_file_of_tests(module: str) -> None:
    name = TESTED_ELSEWHERE.get(module, module.split(".")[1])
    assert Path(__file__).with_name(f"test_{name}.py").is_file()


@pytest.mark.parametrize("package", MOST_LINES)
def test_a_package_is_small_enough_to_be_read(package: str) -> None:
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in files(package)}
    assert sum(lines.values()) <= MOST_LINES[package]
    if package == "vaebook_runner":
        assert not {name: n for name, n in lines.items() if n > MOST_LINES_OF_A_FILE}
