"""The parameters of a chapter, one ``name: type = value  # help`` on a line of its cell tagged ``parameters``."""

import ast
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml  # type: ignore[import-untyped]
from pydantic import AfterValidator, BeforeValidator, FiniteFloat, TypeAdapter, ValidationError

from vaebook_runner.files import UsageError

Value = bool | int | float | str

LARGEST_FILE = 20_000  # bytes; a file of parameters is a page of text
Number = BeforeValidator(lambda value: "" if isinstance(value, bool) else value)  # pydantic takes true for 1
Text = AfterValidator(lambda text: text.encode().decode())  # JSON can name half of a character, which no file holds
# What each type is, and what it is called in an error message.
TYPES: dict[str, tuple[Any, str]] = {
    "int": (Annotated[int, Number], "a whole number such as 3"),
    "float": (Annotated[FiniteFloat, Number], "a finite number such as 0.2 or 1e-4"),
    "str": (Annotated[str, Text], "text"),
    "bool": (bool, "true or false"),
}


class Parameters(NamedTuple):
    where: str
    text: str  # of the cell that declares them
    types: dict[str, str]
    defaults: dict[str, Value]


def parameters_of(notebook: Any, where: str) -> Parameters:
    """The parameters that a notebook declares, of which nothing is executed; UsageError if a line declares none."""
    import papermill

    cells = [c for c in notebook.cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])]
    found, declared = papermill.inspect_notebook(notebook), Parameters(where, cells[0].source if cells else "", {}, {})
    for line in (line for line in declared.text.splitlines() if line.strip() and not line.startswith("#")):
        try:
            name, kind, default, _ = found.pop(line.partition(":")[0]).values()
            value = TypeAdapter(TYPES[kind][0]).validate_python(ast.literal_eval(default))
            declared.types[name], declared.defaults[name] = kind, value
        except (KeyError, ValueError, SyntaxError, TypeError, RecursionError):
            wanted = f"name: type = value  # help, with one plain value and a type of {', '.join(TYPES)}"
            raise UsageError(f"{where}: the parameters cell holds {line!r}; each line must read {wanted}") from None
    return declared


def values_of(parameters: Parameters, given: Mapping[str, object], defaults: bool = True) -> dict[str, Value]:
    """Native values of parameters given as text or read from a file; UsageError for an unknown name or another type."""
    values = dict(parameters.defaults) if defaults else {}
    for name, value in given.items():
        if name not in parameters.types:
            raise UsageError(f"{parameters.where} has no parameter {name!r}; it declares:\n{parameters.text or 'none'}")
        type_, wanted = TYPES[parameters.types[name]]
        try:
            values[name] = TypeAdapter(type_).validate_python(value)
        except ValidationError:
            raise UsageError(f"parameter {name!r} of {parameters.where} needs {wanted}, got {value!r}") from None
    return values


def read_parameter_file(path: Path) -> dict[str, object]:
    """The names and values in a YAML or JSON file; UsageError unless it is one flat mapping, with each name once."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            return once_each((str(k.value), self.as_written(v)) for k, v in node.value)

        def as_written(self, node: Any) -> Any:
            value = self.construct_object(node, deep=True)
            if isinstance(value, int | float) and not isinstance(value, bool) and not same(node.value, value):
                raise ValueError(f"YAML takes {node.value} for {value}; write the number plainly")
            return value

    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)  # a device or a pipe has no size to ask for
        if len(content) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
        read = (
            json.loads(content, object_pairs_hook=once_each) if path.suffix == ".json" else yaml.load(content, Loader)
        )
        if not isinstance(read, dict) or not all(isinstance(value, Value) for value in read.values()):
            raise ValueError("it is not a mapping of names to numbers or texts, such as latent_dim: 5")
        return read
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read as parameters: {error}") from None


def same(text: str, value: float) -> bool:
    """Whether a number is what its text says to a reader: YAML 1.1 takes 010 for 8, and 1:30 for 90."""
    with suppress(ValueError):
        return float(text) == value
    return not math.isfinite(value)  # .inf and .nan, which no parameter takes


def once_each(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dictionary of pairs, in which no name may be repeated."""
    result: dict[Any, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"{name!r} is given twice")
        result[name] = value
    return result
