"""The parameters that a chapter declares, and the values that somebody gives them.

One cell of a chapter carries the tag ``parameters`` and declares them, one a line:
``name: type = value  # help``. Values come as text (``-p NAME VALUE``) or from a YAML or JSON file; pydantic
converts and checks them before anything runs.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaebook.runner.files import UsageError

Value = int | float | str | bool

# What each type is called in an error message.
TYPES = {
    "int": "a whole number such as 3",
    "float": "a finite number such as 0.2 or 1e-4",
    "str": "text",
    "bool": "true or false",
}
# A file of parameters is a page of text. What is larger is something else.
LARGEST_FILE = 20_000


@dataclass(frozen=True)
class Parameter:
    """One declared parameter; its text is the line that declares it.

    >>> print(Parameter("epochs", "int", "3", "passes over the training set"))
    epochs: int = 3  # passes over the training set
    """

    name: str
    type: str
    default: str
    help: str

    def __str__(self) -> str:
        line = f"{self.name}: {self.type} = {self.default}"
        return f"{line}  # {self.help}" if self.help else line

    def parse(self, given: object) -> Value:
        """The native value that a text, or a value from a file, stands for.

        Raises:
            UsageError: if it is not of the declared type.

        >>> Parameter("learning_rate", "float", "1e-3", "").parse("1e-4")
        0.0001
        """
        from pydantic import FiniteFloat, TypeAdapter, ValidationError

        types: dict[str, Any] = {"int": int, "float": FiniteFloat, "str": str, "bool": bool}
        try:
            if isinstance(given, bool) and self.type != "bool":
                raise ValueError  # pydantic takes true for 1
            value: Value = TypeAdapter(types[self.type]).validate_python(given)
            str(value).encode()  # half a character, which JSON can name, is no text
        except (ValidationError, ValueError):
            raise UsageError(
                f"parameter {self.name!r} is declared as {self.type}: "
                f"expected {TYPES[self.type]}, got {given!r}"
            ) from None
        return value


def declared_parameters(notebook: Any, where: str) -> dict[str, Parameter]:
    """The parameters that the cell tagged ``parameters`` declares, by name.

    Raises:
        UsageError: if a line of that cell is not ``name: type = value  # help``.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            return {p.name: p for p in _declarations(cell.source, where)}
    return {}


def _declarations(source: str, where: str) -> Iterator[Parameter]:
    lines = source.splitlines()
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise UsageError(f"{where}: the parameters cell is not Python: {error}") from None
    for statement in statements:
        line = lines[statement.lineno - 1]
        match statement:
            case ast.AnnAssign(
                target=ast.Name(name), annotation=ast.Name(kind), value=ast.expr() as value
            ) if kind in TYPES and statement.end_lineno == statement.lineno:
                # The syntax tree counts columns in bytes, and leaves comments out.
                rest = line.encode()[statement.end_col_offset :].decode()
                default = ast.get_source_segment(source, value) or ""
                yield Parameter(name, kind, default, rest.strip(" #"))
            case _:
                raise UsageError(
                    f"{where}: the parameters cell holds {line!r}; each line must read "
                    f"name: type = value  # help, with a type of {', '.join(TYPES)}"
                )


def default_values(declared: Mapping[str, Parameter]) -> dict[str, Value]:
    """What each parameter is where nothing is given.

    Raises:
        UsageError: if a default is not one plain value: nothing that a notebook holds is executed here.
    """
    return {name: default_value(parameter) for name, parameter in declared.items()}


def default_value(parameter: Parameter) -> Value:
    """
    >>> default_value(Parameter("rate", "float", "-1e-3", ""))
    -0.001
    """
    try:
        value = ast.literal_eval(parameter.default)
    except (ValueError, SyntaxError, TypeError, RecursionError):
        raise UsageError(f"the default of a parameter needs to be one plain value: {parameter}") from None
    return parameter.parse(value)


def parse_values(
    given: Mapping[str, object], declared: Mapping[str, Parameter], where: str
) -> dict[str, Value]:
    """Native values of the parameters given as text or read from a file.

    Raises:
        UsageError: if a name is not declared (the message lists those that are), or a value is
            not of the declared type.
    """
    for name in given:
        if name not in declared:
            known = "".join(f"\n  {parameter}" for parameter in declared.values())
            raise UsageError(f"{where} has no parameter {name!r}; it declares:{known or ' none'}")
    return {name: declared[name].parse(value) for name, value in given.items()}


def read_parameter_file(path: Path) -> dict[str, object]:
    """The names and values in a YAML or JSON file; nothing in it is executed.

    Raises:
        UsageError: if the file is not one flat mapping of names to values, each name once.
    """
    import yaml  # type: ignore[import-untyped]

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """YAML without Python objects, in which a name that stands twice is an error."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            pairs = [(key.value, self.construct_object(value, deep=True)) for key, value in node.value]
            return unique((key if isinstance(key, str) else repr(key), value) for key, value in pairs)

    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)  # of a device or a pipe, which has no size
        if len(content) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
        text = content.decode()
        is_json = path.suffix == ".json"
        values = json.loads(text, object_pairs_hook=unique) if is_json else yaml.load(text, Loader)
        if not isinstance(values, dict):
            raise ValueError("it is not a mapping of names to values, such as latent_dim: 5")
        if nested := [name for name, value in values.items() if not isinstance(value, Value)]:
            raise ValueError(f"{nested[0]!r} is not one number or text")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read as parameters: {error}") from None
    return values


def unique(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dictionary of pairs, each name once."""
    result: dict[Any, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"{name!r} stands there twice")
        result[name] = value
    return result


def table(declared: Mapping[str, Parameter]) -> str:
    """The declared parameters as aligned columns: name, type, default, help.

    >>> print(table({"epochs": Parameter("epochs", "int", "3", "passes")}))
    name    type  default  help
    epochs  int   3        passes
    """
    rows = [("name", "type", "default", "help")]
    rows += [(p.name, p.type, p.default, p.help) for p in declared.values()]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in rows
    )
