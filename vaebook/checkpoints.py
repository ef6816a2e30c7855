"""Checkpoints: one file with all that a run needs to go on, and with what tells it from every other run."""

import dis
import hashlib
import inspect
import json
import os
import pickle
import sys
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

Means = dict[str, list[float]]  # of each epoch, by name
Run = dict[str, str]  # what a run depends on, in words
# Functions and classes of these are known by their names; of all others the source counts too.
LIBRARIES = {"numpy", "torch", "torchvision", "vaebook", *sys.stdlib_module_names} - {"__main__"}
WRAPPERS = (property, classmethod, staticmethod, cached_property)


def load_weights(path: str | Path, model: nn.Module) -> None:
    """Copy the weights of a checkpoint into ``model``, from any device to any other, and nothing else.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a complete checkpoint, or its model has other parts or sizes.

    >>> import tempfile
    >>> from vaebook.models import mlp_vae
    >>> from vaebook.training import train
    >>> one, other, x = mlp_vae(64, 2), mlp_vae(64, 2, seed=1), torch.zeros(10, 64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = train(one, x, x, epochs=1, checkpoint=f"{folder}/run.safetensors")
    ...     load_weights(f"{folder}/run.safetensors", other)
    >>> all(map(torch.equal, one.parameters(), other.parameters()))
    True
    """
    put_weights(Path(path), model, read(Path(path))[2])


class Contents(pickle.Pickler):
    """Writes what a value consists of, where ``pickle`` writes a name.

    A function counts with its compiled form, its defaults, and the variables around it and the global ones that it
    reads; a class with all that it defines; a module with its source; what a library has, by its name. What cannot be
    compared, such as a lambda or an open file, is an error.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.fast = True  # equal values give equal bytes, whether or not they share parts
        self.seen: list[object] = []  # functions, classes and modules may name each other

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            plain = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            return list, ([str(value.dtype), tuple(value.shape), plain.numpy().tobytes()],)
        if isinstance(value, WRAPPERS):
            return list, ([getattr(value, name, None) for name in ("fget", "fset", "__func__", "func")],)
        if not isinstance(value, FunctionType | type | ModuleType) or value.__name__ in ("<lambda>", "list", "str"):
            return NotImplemented  # as pickle writes it
        name = value.__name__ if isinstance(value, ModuleType) else f"{value.__module__}.{value.__qualname__}"
        library = name.partition(".")[0] in LIBRARIES and not getattr(value, "__closure__", None)
        known = library or any(value is other for other in self.seen)
        self.seen.append(value)
        return (str, (name,)) if known else (list, ([name, *contents(value)],))


def contents(value: Any) -> list[object]:
    """What a function, a class or a module that is no library's consists of."""
    if isinstance(value, ModuleType):
        return [inspect.getsource(value)]
    if isinstance(value, type):
        members = vars(value).items()
        shown = {k: v for k, v in members if not (k.startswith(("__", "_abc_")) or inspect.ismemberdescriptor(v))}
        return [value.__bases__, shown, [v for _, v in members if isinstance(v, (FunctionType, *WRAPPERS))]]
    names = sorted(globals_read(value.__code__) & set(value.__globals__))
    around = [cell.cell_contents for cell in value.__closure__ or ()]
    defaults, read = [value.__defaults__, value.__kwdefaults__], [value.__globals__[name] for name in names]
    return [compiled(value.__code__), defaults, around, names, read]


def compiled(code: CodeType) -> list[object]:
    """A function's code with its constants and those of the functions inside it."""
    return [code.co_code, code.co_names, [compiled(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]]


def globals_read(code: CodeType) -> set[str]:
    """The names of the global variables that a function, and the functions inside it, read."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(globals_read(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def identity(name: str, value: object) -> str:
    """A short text that is the same for the same contents, in every process.

    Raises:
        ValueError: the value is, or holds, what cannot be compared.

    >>> identity("x_train", torch.zeros(300, 64)) == identity("x_train", torch.zeros(300, 64))
    True
    """
    if isinstance(value, int | float | str):
        return repr(value)
    digest = hashlib.sha256()
    try:
        Contents(SimpleNamespace(write=digest.update)).dump(value)
    except Exception as error:  # pickle raises many kinds
        remedy = "use functions made with def, and functools.partial for their settings"
        raise ValueError(f"with a checkpoint, {name} needs contents that can be compared ({error}); {remedy}") from None
    what = str(tuple(value.shape)) if isinstance(value, Tensor) else getattr(value, "__name__", type(value).__name__)
    return f"{what} with digest {digest.hexdigest()[:16]}"


def describe_run(model: nn.Module, **settings: object) -> Run:
    """What makes a run the run that it is, in words."""
    first = sorted(set(first_names(model).values()))
    return {
        "dtype": str(next(model.parameters()).dtype),
        "device": next(model.parameters()).device.type,
        **describe(model, **settings),
        "initial weights": identity("model", {name: model.state_dict()[name] for name in first}),
    }


def describe(model: nn.Module, **settings: object) -> Run:
    """A model without its weights, and settings; a part that torch compiled is another's shell."""
    parts = [part for part in model.modules() if not hasattr(part, "_orig_mod")]
    held = [(type(p), {k: v for k, v in vars(p).items() if k[0] != "_" and k != "training"}) for p in parts]
    about = f"{getattr(model, '_orig_mod', model)}\n{identity('model', held)}"
    return {"model": about, **{name: identity(name, value) for name, value in settings.items()}}


def check_unchanged(run: Run, now: Run) -> None:
    """Raise ``ValueError`` if training has changed what a checkpoint does not hold, such as a count of calls."""
    for name in (name for name in now if now[name] != run[name]):
        kept = "apart from weights and buffers; hold a count in a buffer of the model, or let the schedule depend on t"
        raise ValueError(f"with a checkpoint, {name} needs to stay the same while it trains, {kept}")


def first_names(model: nn.Module) -> dict[str, str]:
    """For each tensor of a model's state, the first name that it has there: tied weights have several."""
    first, state = dict[int, str](), model.state_dict(keep_vars=True)
    if other := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"with a checkpoint, the model's state needs tensors alone, got {other[0]}; use buffers")
    return {name: first.setdefault(id(value), name) for name, value in state.items()}


def put_weights(path: Path, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    first = first_names(model)
    try:
        model.load_state_dict({name: tensors[f"model.{first[name]}"] for name in first})
    except (KeyError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{path} holds the weights of another model ({reason}); make the model as it was") from None


def save_checkpoint(
    path: Path, model: nn.Module, optimiser: Optimizer, generator: Generator, run: Run, history: tuple[Means, Means]
) -> None:
    """Write weights, Adam's state, the generator's state and the history.

    A safetensors file holds tensors and text, and reading it runs no code. The new file replaces the old
    one only when it is complete, so a run that is killed at any moment leaves a complete checkpoint.
    """
    state = model.state_dict()
    tensors = {f"model.{name}": state[name] for name in first_names(model).values()}
    for index, values in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": tensor for name, tensor in values.items()}
    tensors["generator"] = generator.get_state()
    # Copies: the format has no place for two tensors that share their memory.
    copies = {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
    path = path.resolve()  # a link stays one
    part = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(save(copies, {"run": json.dumps(run), "history": json.dumps(history)}))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> tuple[Run, tuple[Means, Means], dict[str, Tensor]]:
    """The run, the history and the tensors of a checkpoint, read and not mapped: Windows replaces no mapped file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        train, validation = json.loads(metadata["history"])
        return json.loads(metadata["run"]), (train, validation), load(path.read_bytes())
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a complete checkpoint of this module ({error}); move it away") from None


def load_checkpoint(
    path: Path, model: nn.Module, optimiser: Optimizer, generator: Generator, run: Run, epochs: int
) -> tuple[Means, Means]:
    """Load a checkpoint into model, optimiser and generator, and return its history.

    The weights of ``model`` have to be the initial ones of that run, or those of the checkpoint itself.

    Raises:
        ValueError: the file is no complete checkpoint, or another run's, or has over ``epochs``; nothing is changed.
    """
    stored, history, tensors = read(path)
    weights = {name[6:]: tensors[name] for name in sorted(tensors) if name.startswith("model.")}
    if run["initial weights"] == identity("model", weights):
        run["initial weights"] = stored.get("initial weights", "")
    for name, wanted in run.items():
        if (found := stored.get(name, "")) != wanted:
            lines = zip_longest(found.splitlines(), wanted.splitlines(), fillvalue="")
            there, here = next((a.strip() or "nothing", b.strip() or "nothing") for a, b in lines if a != b)
            remedy = "Give another file, or move this one away to start again; load_weights takes its weights alone."
            raise ValueError(f"{path} comes from a run with another {name}: {there} there, {here} here.\n{remedy}")
    if (done := len(history[0]["J"])) > epochs:
        raise ValueError(f"epochs needs to be at least {done}, the number done in {path}, got {epochs}")
    put_weights(path, model, tensors)
    state: dict[int, dict[str, Tensor]] = {}
    for name in (name for name in tensors if name.startswith("adam.")):
        _, index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensors[name]
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    generator.set_state(tensors["generator"])
    return history
