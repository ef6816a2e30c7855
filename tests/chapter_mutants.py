"""Small mistakes put into the chapters' own code, one at a time, to see whether a check, a claim or an assertion notices:
`python tests/chapter_mutants.py [--each N] [STEM…]` tries N of each chapter, by default 5, drawn with a fixed seed.

A mistake is one that somebody could make: a sign, a factor, an index, swapped arguments, a dropped term. It goes into
a cell that computes, never into one that draws. A chapter is executed once; at the cell of a mistake the process forks,
and the child executes the changed cell and the rest of the chapter. A mistake that changes nothing of what the
chapter prints is no mistake and does not count.
"""

import argparse
import ast
import contextlib
import copy
import io
import os
import random
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from evidence import COMPUTING, ROOT, cells_of, store

SECONDS = 300  # after which a changed chapter is given up, and counts as noticed: its author would ask why
# Calls that show, set up, or check a range: what stands in them is no mathematics of a chapter, but for both sides of a check.
SPARED = {"print", "record", "claim", "show", "at_least", "above", "use_style", "load", "Generator", "manual_seed", "range",
          "zip", "enumerate", "len"}  # fmt: skip
SPARED_KEYWORDS = {"tolerance", "relation", "kind", "figsize", "label", "seed", "dtype", "generator", "device",
                   "progress"}  # fmt: skip
DRAWS = ("plt.", "ax.", "fig", "image_grid(", "latent_map(", "import ")
OUTCOMES = ("noticed", "crashed", "no effect", "not noticed")


class Mutant(NamedTuple):
    cell: int
    line: str  # as the changed cell has it
    source: str


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a slip could make of a piece of code."""
    match node:
        case ast.BinOp(left, op, right):
            other = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}.get(type(op))
            if other:
                yield ast.BinOp(left, other(), right)
            if isinstance(op, ast.Add | ast.Sub):
                yield left
            for part in (left, right):
                if isinstance(part, ast.Constant) and type(part.value) in (int, float) and part.value:
                    changed = ast.Constant(part.value + 1 if isinstance(part.value, int) else 2 * part.value)
                    yield ast.BinOp(changed, op, right) if part is left else ast.BinOp(left, op, changed)
        case ast.UnaryOp(ast.USub(), operand) if not isinstance(operand, ast.Constant):
            yield operand
        case ast.Subscript(value, ast.Constant(int(k)), ctx) if isinstance(ctx, ast.Load):
            yield ast.Subscript(value, ast.Constant(k + 1), ctx)
        case ast.Call(func, [first, second, *rest], keywords) if ast.dump(first) != ast.dump(second):
            yield ast.Call(func, [second, first, *rest], keywords)


def places(node: ast.AST) -> Iterator[ast.AST]:
    """Every piece of code in which a slip would be one of the mathematics."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.JoinedStr) or (isinstance(child, ast.keyword) and child.arg in SPARED_KEYWORDS):
                continue
            if isinstance(child, ast.Call) and ast.unparse(child.func).rpartition(".")[2] in SPARED:
                continue
            if isinstance(child, ast.AST):
                yield child
                yield from places(child)


def mutants(cell: int, source: str) -> Iterator[Mutant]:
    """Every changed form of a cell."""
    tree = ast.parse(source)
    for k, node in enumerate(places(tree)):
        spared = isinstance(node, ast.Call) and ast.unparse(node.func) == "check"  # its sides may be swapped
        for n in range(0 if spared else sum(1 for _ in changes(node))):
            changed = copy.deepcopy(tree)
            target = list(places(changed))[k]
            new = list(changes(target))[n]

            class Swap(ast.NodeTransformer):
                def visit(self, here: ast.AST, target: ast.AST = target, new: ast.AST = new) -> Any:
                    return new if here is target else self.generic_visit(here)

            text = ast.unparse(ast.fix_missing_locations(Swap().visit(changed)))
            before = ast.unparse(tree).splitlines()
            lines = [line.strip() for line in text.splitlines() if line not in before]
            yield Mutant(cell, (lines or [text])[0], text)


def run_on(cells: list[str], space: dict[str, Any]) -> None:
    for source in cells:
        exec(compile(source, "chapter", "exec"), space)


def outcome(cells: list[str], space: dict[str, Any], said: io.StringIO, full: str) -> int:
    """How the rest of a chapter ends whose first cell was changed: an index of ``OUTCOMES``."""
    signal.alarm(SECONDS)
    try:
        run_on(cells, space)
    except AssertionError:
        return 0
    except BaseException:
        return 1
    return 2 if said.getvalue() == full else 3


def try_chapter(stem: str, each: int) -> None:
    """Print a line for each mistake of one chapter; this process is for that alone."""
    import matplotlib
    import torch

    matplotlib.use("agg")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cells = cells_of(stem)
    computing = [k for k, source in enumerate(cells) if not any(word in source for word in DRAWS)]
    every = [mutant for k in computing for mutant in mutants(k, cells[k])]
    chosen = random.Random(0).sample(every, min(each, len(every)))
    start: dict[str, Any] = {"__name__": "__main__", "display": print}
    out, said = sys.stdout, io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()) as whole:
        run_on(cells, dict(start))
    for k, source in enumerate(cells):
        for mutant in (m for m in chosen if m.cell == k):
            if not (child := os.fork()):
                with contextlib.redirect_stdout(said):
                    os._exit(outcome([mutant.source, *cells[k + 1 :]], start, said, whole.getvalue()))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print(f"{OUTCOMES[code] if code >= 0 else 'crashed':12s} {stem} {mutant.line:.90}", file=out, flush=True)
        with contextlib.redirect_stdout(said):
            run_on([source], start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stems", nargs="*", help="names of chapters such as 01_kl; none is all")
    parser.add_argument("--each", type=int, default=5, help="how many mistakes in each chapter")
    words = parser.parse_args()
    stems, each = words.stems, words.each
    if os.environ.get("CHAPTER_MUTANTS"):
        try_chapter(stems[0], each)
        return 0
    import subprocess

    stems = stems or COMPUTING
    environment = {**os.environ, "CHAPTER_MUTANTS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def lines(stem: str) -> list[str]:
        command = [sys.executable, __file__, "--each", str(each), stem]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
        if done.returncode:
            raise SystemExit(f"{stem} does not run to its end:\n{done.stderr[-2000:]}")
        print(done.stdout, end="", flush=True)
        return done.stdout.splitlines()

    found = Counter[str]()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for stem, part in zip(stems, pool.map(lines, stems), strict=True):
            of_chapter = Counter(line[:12].strip() for line in part)
            found += of_chapter
            store("mutants", stem, {
                "mistakes": sum(of_chapter.values()) - of_chapter["no effect"],
                "noticed": of_chapter["noticed"], "crashed": of_chapter["crashed"],
                "not noticed": [line[13:] for line in part if line.startswith("not noticed")],
            })  # fmt: skip
    counted = sum(found.values()) - found["no effect"]
    caught = found["noticed"] + found["crashed"]
    share = f"{100 * caught / max(1, counted):.0f} %"
    print(f"noticed: {caught} of {counted} ({share}), {found['noticed']} of them by a check, a claim or an assertion")
    return 0


if __name__ == "__main__":
    sys.exit(main())
