"""Parameters: declared once, given as text or in a file that is data alone, checked before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeps import Book, tree

from vaebook import cli
from vaebook.runner.files import UsageError
from vaebook.runner.parameters import Parameter, default_values, read_parameter_file


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Book:
    return Book(tmp_path, monkeypatch, capsys)


@pytest.fixture
def run_values(book: Book, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The values of each run that would have been executed."""
    values: list[dict[str, object]] = []
    monkeypatch.setattr(cli, "execute", lambda *arguments, **_: values.append(arguments[3]))
    return values


def test_params_prints_what_the_chapter_declares(book: Book) -> None:
    code, out, _ = book.vaebook("params", "tiny")
    assert code == 0
    assert out == (
        "name  type   default  help\n"
        "seed  int    0        of the generator\n"
        "rate  float  0.5      step, above 0\n"
        'mode  str    "well"   what happens\n'
        "flag  bool   False    on or off\n"
    )


GIVEN = {"seed": 3, "rate": 1e-4, "mode": "it's {new}\nand 1e-4", "flag": True}
YAML = """\
# a comment
seed: 3
rate: 1e-4
mode: "it's {new}\\nand 1e-4"
flag: true
"""


@pytest.mark.parametrize(("name", "text"), [("p.yaml", YAML), ("p.yml", YAML), ("p.json", json.dumps(GIVEN))])
def test_a_file_gives_native_values(
    book: Book, run_values: list[dict[str, object]], name: str, text: str
) -> None:
    (book.root / name).write_text(text)
    assert book.vaebook("run", "tiny", "--params", name)[0] == 0
    assert run_values == [GIVEN]
    assert [type(value) for value in run_values[0].values()] == [int, float, str, bool]


def test_the_command_line_goes_before_the_file(book: Book, run_values: list[dict[str, object]]) -> None:
    (book.root / "p.yaml").write_text("seed: 3\nrate: 2\n")
    assert book.vaebook("run", "tiny", "--params", "p.yaml", "-p", "rate", "-1e-3")[0] == 0
    assert run_values == [{"seed": 3, "rate": -1e-3}]


REFUSED = {
    "unknown name": ("sed: 3", "no parameter 'sed'; it declares:\n  seed: int = 0"),
    "twice": ("seed: 3\nseed: 4", "'seed' stands there twice"),
    "nested": ("seed: {value: 3}", "'seed' is not one number or text"),
    "list": ("seed: [1, 2]", "'seed' is not one number or text"),
    "nothing": ("seed:", "'seed' is not one number or text"),
    "date": ("mode: 2020-01-01", "'mode' is not one number or text"),
    "no mapping": ("- seed", "not a mapping"),
    "empty": ("", "not a mapping"),
    "object": ("seed: !!python/object/apply:os.system ['touch executed']", "constructor"),
    "module": ("!!python/module:os", "constructor"),
    "tag": ("seed: !new 3", "constructor"),
    "two documents": ("seed: 3\n---\nseed: 4", "single document"),
    "key of a list": ("? [seed]\n: 3", "no parameter"),
    "key of a mapping": ("? {seed: 1}\n: 3", "no parameter"),
    "number as a name": ("3: 3", "no parameter '3'"),
    "merge": ("base: &b {seed: 3}\n<<: *b", "is not one number or text"),
    "circle": ("seed: &a [*a]", "recursive"),
    "circle of mappings": ("seed: &a {x: *a}", "recursive"),
    "no such alias": ("seed: *a", "undefined alias"),
    "not YAML": ("seed: [", "parsing"),
    "deep": ("seed: " + "[" * 5_000, "recursion"),
    "large": ("mode: " + "x" * 30_000, "more than 20,000 bytes"),
    "many aliases": (
        "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "is not one",
    ),
    "whole number": ("seed: 2.5", "'seed' is declared as int: expected a whole number"),
    "true for a number": ("seed: true", "'seed' is declared as int"),
    "number for text": ("mode: 3", "'mode' is declared as str: expected text"),
    "not finite": ("rate: .nan", "'rate' is declared as float: expected a finite number"),
    "infinite": ("rate: 1e999", "expected a finite number"),
    "neither true nor false": ("flag: perhaps", "'flag' is declared as bool: expected true or false"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_file_that_is_no_list_of_parameters_is_refused(
    book: Book, run_values: list[dict[str, object]], command: str, text: str, said: str
) -> None:
    (book.root / "p.yaml").write_text(text)
    before = tree(book.root)
    code, _, error = book.vaebook(command, "tiny", "--params", "p.yaml")
    assert code == 2
    assert said in error
    assert not run_values
    assert tree(book.root) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"seed": 3, "seed": 4}', "'seed' stands there twice"),
        ('{"rate": NaN}', "expected a finite number"),
        ('{"seed": null}', "is not one"),
        ('{"seed": {"seed": 3}}', "is not one"),
        ("[1]", "not a mapping"),
        ('{"seed": 3', "cannot be read"),
        ('{"seed": ' + "9" * 5000 + "}", "cannot be read"),
        ("[" * 15_000, "recursion"),
        ('{"mode": "\\ud800"}', "expected text"),
    ],
)
def test_a_json_file_is_held_to_the_same(book: Book, text: str, said: str) -> None:
    (book.root / "p.json").write_text(text)
    code, _, error = book.vaebook("run", "tiny", "--params", "p.json")
    assert code == 2
    assert said in error


def test_what_is_no_file_of_text_is_refused(book: Book) -> None:
    (book.root / "folder.yaml").mkdir()
    (book.root / "binary.yaml").write_bytes(b"seed: \xff")
    for name in ("missing.yaml", "folder.yaml", "binary.yaml", "/dev/zero"):
        code, _, error = book.vaebook("run", "tiny", "--params", name)
        assert code == 2
        assert f"{name} cannot be read as parameters" in error


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(),
            "rate": st.floats(allow_nan=False, allow_infinity=False),
            "mode": st.text(st.characters(blacklist_categories=["Cs"])),
            "flag": st.booleans(),
        },
    )
)
def test_values_come_through_a_file_unchanged(values: dict[str, int | float | str | bool]) -> None:
    kinds = {"seed": "int", "rate": "float", "mode": "str", "flag": "bool"}
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(values, file)
        file.flush()
        read = read_parameter_file(Path(file.name))
    parsed = {name: Parameter(name, kinds[name], "", "").parse(value) for name, value in read.items()}
    assert parsed == values
    assert {name: type(value) for name, value in parsed.items()} == {n: type(v) for n, v in values.items()}


@pytest.mark.parametrize("default", ["2 ** 10", "__import__('os').getpid()", "[1]", "None", "seed", "f'{1}'"])
def test_a_default_that_would_have_to_be_executed_is_refused(default: str) -> None:
    with pytest.raises(UsageError, match="default of a parameter|declared as int"):
        default_values({"x": Parameter("x", "int", default, "")})
