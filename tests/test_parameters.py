"""Parameters: declared once, given as text or in a file that is data alone, checked before anything runs."""

import json
import tempfile
from pathlib import Path

import pytest
import sweeps
from hypothesis import given, strategies as st
from sources import HEADER
from sweeps import CHAPTER, Book, tree

from vaebook_runner import cli
from vaebook_runner.parameters import read_parameter_file

book = sweeps.book


@pytest.fixture
def run_values(book: Book, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The values of each run that would have been executed."""
    values: list[dict[str, object]] = []
    monkeypatch.setattr(cli, "execute", lambda *arguments, **_: values.append(arguments[2]))
    return values


def test_params_prints_what_the_chapter_declares(book: Book) -> None:
    code, out, _ = book.vaebook("params", "tiny")
    assert code == 0
    assert out == (
        "seed: int = 0  # of the generator\n"
        "rate: float = 0.5  # step σ, above 0\n"
        'mode: str = "well"  # what happens\n'
        "flag: bool = False  # on or off\n"
    )


@pytest.mark.parametrize(
    "line",
    [
        "rate = 0.5",
        "rate: complex = 0.5",
        "rate: float",
        "rate: float = (",
        "import os",
        "rate: float = 0.5; print(1)",
        "rate: list[int] = []",
        "x.rate: float = 0.5",
    ],
)
@pytest.mark.parametrize("command", ["run", "sweep", "params"])
def test_a_cell_of_parameters_holds_nothing_but_declarations(
    book: Book, run_values: list[dict[str, object]], command: str, line: str
) -> None:
    book.chapter.write_text(f"{HEADER}```{{code-cell}}\n:tags: [parameters]\nseed: int = 0  # a\n{line}\n```\n")
    before = tree(book.root)
    code, _, error = book.vaebook(command, "tiny")
    assert code == 2
    assert "tiny: the parameters cell holds" in error
    assert "each line must read name: type = value  # help" in error
    assert not run_values
    assert tree(book.root) == before


NASTY = 'it\'s a "name" \\ {braces}\n$(touch executed) \x1b[2J \u202e µ \0'
GIVEN = {"seed": 3, "rate": 1e-4, "mode": "it's {new}\nand 1e-4", "flag": True}
YAML = """\
# a comment
seed: 3
rate: 1e-4
mode: "it's {new}\\nand 1e-4"
flag: true
"""


@pytest.mark.parametrize("text", ["010", "1:30", "0x1F", "0b11", "-017"])
def test_a_number_that_yaml_reads_otherwise_than_people_is_refused(book: Book, text: str) -> None:
    (book.root / "p.yaml").write_text(f"seed: {text}\n")
    code, _, error = book.vaebook("run", "tiny", "--params", "p.yaml")
    assert code == 2
    assert f"YAML takes {text} for" in error


@pytest.mark.parametrize(("name", "text"), [("p.yaml", YAML), ("p.yml", YAML), ("p.json", json.dumps(GIVEN))])
def test_a_file_gives_native_values(book: Book, run_values: list[dict[str, object]], name: str, text: str) -> None:
    (book.root / name).write_text(text)
    assert book.vaebook("run", "tiny", "--params", name)[0] == 0
    assert run_values == [GIVEN]
    assert [type(value) for value in run_values[0].values()] == [int, float, str, bool]


def test_the_command_line_goes_before_the_file(book: Book, run_values: list[dict[str, object]]) -> None:
    (book.root / "p.yaml").write_text("seed: 3\nrate: 2\n")
    assert book.vaebook("run", "tiny", "--params", "p.yaml", "-p", "rate", "-1e-3")[0] == 0
    assert run_values == [{"seed": 3, "rate": -1e-3}]


REFUSED = {
    "unknown name": ("sed: 3", "no parameter 'sed'; it declares:\nseed: int = 0"),
    "twice": ("seed: 3\nseed: 4", "'seed' is given twice"),
    "nested": ("seed: {value: 3}", "not a mapping of names to numbers or texts"),
    "list": ("seed: [1, 2]", "not a mapping of names to numbers or texts"),
    "nothing": ("seed:", "not a mapping of names to numbers or texts"),
    "date": ("mode: 2020-01-01", "not a mapping of names to numbers or texts"),
    "not a mapping of names to numbers or texts": ("- seed", "not a mapping of names to numbers or texts"),
    "empty": ("", "not a mapping of names to numbers or texts"),
    "object": ("seed: !!python/object/apply:os.system ['touch executed']", "constructor"),
    "module": ("!!python/module:os", "constructor"),
    "tag": ("seed: !new 3", "constructor"),
    "two documents": ("seed: 3\n---\nseed: 4", "single document"),
    "key of a list": ("? [seed]\n: 3", "no parameter"),
    "key of a mapping": ("? {seed: 1}\n: 3", "no parameter"),
    "number as a name": ("3: 3", "no parameter '3'"),
    "merge": ("base: &b {seed: 3}\n<<: *b", "not a mapping of names to numbers or texts"),
    "circle": ("seed: &a [*a]", "recursive"),
    "circle of mappings": ("seed: &a {x: *a}", "recursive"),
    "unknown alias": ("seed: *a", "undefined alias"),
    "not YAML": ("seed: [", "parsing"),
    "deep": ("seed: " + "[" * 5_000, "recursion"),
    "large": ("mode: " + "x" * 30_000, "more than 20,000 bytes"),
    "many aliases": (
        "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "not a mapping of names to numbers or texts",
    ),
    "whole number": ("seed: 2.5", "parameter 'seed' of tiny needs a whole number"),
    "true for a number": ("seed: true", "parameter 'seed' of tiny needs a whole number"),
    "number for text": ("mode: 3", "parameter 'mode' of tiny needs text"),
    "not finite": ("rate: .nan", "parameter 'rate' of tiny needs a finite number"),
    "infinite": ("rate: 1e999", "needs a finite number"),
    "neither true nor false": ("flag: perhaps", "parameter 'flag' of tiny needs true or false"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_file_that_holds_something_else_is_refused(
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
        ('{"seed": 3, "seed": 4}', "'seed' is given twice"),
        ('{"rate": NaN}', "needs a finite number"),
        ('{"seed": null}', "not a mapping of names to numbers or texts"),
        ('{"seed": {"seed": 3}}', "not a mapping of names to numbers or texts"),
        ("[1]", "not a mapping of names to numbers or texts"),
        ('{"seed": 3', "cannot be read"),
        ('{"seed": ' + "9" * 5000 + "}", "cannot be read"),
        ("[" * 15_000, "recursion"),
        ('{"mode": "\\ud800"}', "needs text"),
    ],
)
def test_a_json_file_is_held_to_the_same(book: Book, text: str, said: str) -> None:
    (book.root / "p.json").write_text(text)
    code, _, error = book.vaebook("run", "tiny", "--params", "p.json")
    assert code == 2
    assert said in error


def test_a_file_that_is_not_text_is_refused(book: Book) -> None:
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
def test_a_json_file_is_read_as_it_was_written(values: dict[str, int | float | str | bool]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(values, file)
        file.flush()
        read = read_parameter_file(Path(file.name))
    assert read == values
    assert {name: type(value) for name, value in read.items()} == {n: type(v) for n, v in values.items()}


@pytest.mark.parametrize(
    ("given_values", "wanted"),
    [
        (
            {"seed": "-3", "rate": "1e-4", "mode": "3", "flag": "false"},
            {"seed": -3, "rate": 1e-4, "mode": "3", "flag": False},
        ),
        (
            {"seed": 10**30, "rate": 2, "mode": "", "flag": True},
            {"seed": 10**30, "rate": 2.0, "mode": "", "flag": True},
        ),
        ({"rate": -0.1, "mode": NASTY}, {"rate": -0.1, "mode": NASTY}),
    ],
)
def test_values_have_the_declared_types(
    book: Book, run_values: list[dict[str, object]], given_values: dict[str, object], wanted: dict[str, object]
) -> None:
    (book.root / "p.json").write_text(json.dumps(given_values))
    assert book.vaebook("run", "tiny", "--params", "p.json")[0] == 0
    assert run_values == [wanted]
    assert [type(value) for value in run_values[0].values()] == [type(value) for value in wanted.values()]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("seed", "2.5", "a whole number"),
        ("seed", "", "a whole number"),
        ("seed", "3 4", "a whole number"),
        ("seed", "0x10", "a whole number"),
        ("seed", "1e3", "a whole number"),
        ("seed", "9" * 5000, "a whole number"),
        ("rate", "banana", "a finite number"),
        ("rate", "inf", "a finite number"),
        ("rate", "nan", "a finite number"),
        ("rate", "1e999", "a finite number"),
        ("rate", "0,5", "a finite number"),
        ("flag", "perhaps", "true or false"),
        ("flag", "2", "true or false"),
        ("rates", "1", "no parameter 'rates'; it declares:\nseed: int = 0"),
    ],
)
def test_a_value_of_another_type_is_refused(
    book: Book, run_values: list[dict[str, object]], name: str, text: str, said: str
) -> None:
    before = tree(book.root)
    for command in ("run", "sweep", "build"):
        words = [command] if command == "build" else [command, "tiny"]
        code, _, error = book.vaebook(*words, "-p", name, text)
        assert code == 2
        assert f"'{name}'" in error
        if command != "build" or name != "rates":
            assert said in error
    assert not run_values
    assert tree(book.root) == before


@pytest.mark.parametrize("default", ["2 ** 10", "__import__('os').getpid()", "[1]", "None", "seed", "f'{1}'", "1 +"])
def test_a_default_is_one_plain_value_and_is_never_executed(book: Book, default: str) -> None:
    book.chapter.write_text(CHAPTER.replace("rate: float = 0.5", f"rate: float = {default}"))
    for command in ("run", "sweep"):
        code, out, error = book.vaebook(command, "tiny")
        assert (code, out) == (2, "")
        assert "'rate'" in error or default in error


@pytest.mark.parametrize("name", ["copy", "json", "schema", "model_name", "model_config", "_hidden", "self", "x"])
def test_a_parameter_may_have_any_name(book: Book, run_values: list[dict[str, object]], name: str) -> None:
    book.chapter.write_text(CHAPTER.replace("rate: float = 0.5", f"{name}: float = 0.5"))
    assert f"{name}: float = 0.5" in book.vaebook("params", "tiny")[1]
    assert book.vaebook("run", "tiny", "-p", name, "2")[0] == 0
    assert run_values == [{name: 2.0}]
    code, out, error = book.sweep("--dry-run", "-g", name, "1,2")
    assert code == 0, error
    assert [line.split()[-1] for line in out.splitlines()[:-1]] == [f"{name}=1.0", f"{name}=2.0"]
