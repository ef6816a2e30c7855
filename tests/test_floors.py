"""The house stands on its floors: a module imports from floors below its own, never from a sibling."""

import ast
from pathlib import Path

import pytest

FLOORS = [
    {"gaussians", "bernoulli", "estimates", "own_images", "quadrature", "ranges"},
    {"data", "divergences", "linear", "models", "ledger"},
    {"objectives"},
    {"training", "evaluation"},
    {"figures"},
    {"explorer"},
]
SIDE = {"cli", "runner"}  # runs chapters from outside, and imports nothing of the above
PACKAGE = Path(__file__).parent.parent / "vaebook"
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}


def imported(path: Path) -> set[str]:
    """The modules of vaebook that a file imports, wherever in the file it does."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 and parts[0] == "vaebook" else set()
            names |= {a.name for a in node.names if parts == ["vaebook"]}
        elif isinstance(node, ast.ImportFrom) and node.level:
            names.add("a relative import")
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("vaebook.")}
    return names - {"__version__"}


def modules() -> list[str]:
    return sorted(p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists())


def test_every_module_has_a_floor() -> None:
    assert set(modules()) - {"__init__"} == set(FLOOR) | SIDE


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_imports_point_downwards(name: str) -> None:
    for other in imported(PACKAGE / f"{name}.py"):
        assert FLOOR.get(other, 99) < FLOOR[name], f"{name} imports {other}, which is not below it"


def test_the_side_house_stands_alone() -> None:
    for path in [PACKAGE / "cli.py", *(PACKAGE / "runner").rglob("*.py")]:
        assert imported(path) <= SIDE, path


def test_the_test_files_mirror_the_modules() -> None:
    for name in FLOOR:
        assert (Path(__file__).parent / f"test_{name}.py").exists()
