"""A checkpoint knows its run by contents: whatever else differs is refused, and what cannot be compared too."""

import importlib
import linecache
import math
import operator
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from vaebook.checkpoints import identity, load_weights
from vaebook.models import VAE, Encoder, GaussianDecoder, mlp, mlp_vae, seeded
from vaebook.objectives import Loss, binarised, negative_elbo, practical_loss
from vaebook.training import constant, cosine, train

X = torch.rand(20, 16, generator=torch.Generator().manual_seed(0))
FACTOR = 1.0
TABLE = torch.ones(2)


def vae(seed: int = 0, **options: Any) -> VAE:
    return mlp_vae(16, 2, hidden=(8,), seed=seed, **options)


def weighted(model: VAE, x: Tensor, n_samples: int, generator: torch.Generator | None, *, beta: float = 1.0) -> Loss:
    terms = practical_loss(model, x, n_samples, generator)
    return terms._replace(kl=beta * terms.kl)


def with_global(model: VAE, x: Tensor, n_samples: int, generator: torch.Generator | None) -> Loss:
    return weighted(model, x, n_samples, generator, beta=FACTOR)


def with_table(model: VAE, x: Tensor, n_samples: int, generator: torch.Generator | None) -> Loss:
    return weighted(model, x, n_samples, generator, beta=sum(float(TABLE.sum()) for _ in range(1)))


def with_lock(*arguments: Any, lock: Any) -> Loss:
    with lock:
        return practical_loss(*arguments)


def in_closure(beta: float) -> Callable[..., Loss]:
    def loss(model: VAE, x: Tensor, n_samples: int, generator: torch.Generator | None) -> Loss:
        return weighted(model, x, n_samples, generator, beta=beta)

    return loss


class Weighted:
    def __init__(self, beta: float) -> None:
        self.beta = beta

    def __call__(self, *arguments: Any) -> Loss:
        return weighted(*arguments, beta=self.beta)

    def method(self, *arguments: Any) -> Loss:
        return weighted(*arguments, beta=self.beta)


@dataclass(frozen=True)
class Settings:
    beta: float


class WithSettings(nn.Module):
    """A loss that is a module, with a buffer and an attribute."""

    def __init__(self, beta: float, scale: float = 1.0) -> None:
        super().__init__()
        self.settings = Settings(beta)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, *arguments: Any) -> Loss:
        return weighted(*arguments, beta=self.settings.beta * float(self.scale))


def warm_up(t: float, *, share: float = 0.1) -> float:
    return min(1.0, (t + 0.01) / share)


def changed(x: Tensor, at: int = 7) -> Tensor:
    x = x.clone()
    x.view(-1)[at] = torch.nextafter(x.view(-1)[at], torch.tensor(2.0))  # the last bit of one number
    return x


def sloped(slope: float) -> VAE:
    with seeded(0):
        network = nn.Sequential(nn.Linear(16, 8), nn.LeakyReLU(slope), nn.Linear(8, 4))
        return VAE(Encoder(network), GaussianDecoder(mlp(2, 8, 16), 0.2), 16, 2)


class Config:
    beta = 1.0

    @property
    def twice(self) -> float:
        return 2 * self.beta


def with_config(*arguments: Any) -> Loss:
    return weighted(*arguments, beta=Config.beta)


class Reads:
    """A loss whose method reads a global variable."""

    def __call__(self, *arguments: Any) -> Loss:
        return weighted(*arguments, beta=FACTOR)


class Power(nn.Module):
    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power  # which str(model) does not show

    def forward(self, x: Tensor) -> Tensor:
        return x.abs() ** self.power


def powered(power: float) -> VAE:
    with seeded(0):
        network = nn.Sequential(nn.Linear(16, 8), Power(power), nn.Linear(8, 4))
        return VAE(Encoder(network), GaussianDecoder(mlp(2, 8, 16), 0.2), 16, 2)


# What a run has, and what another run has in its place; the part of the message that says what differs.
OTHERS: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[], dict[str, Any]], str]] = {
    "data, in the last bit of one pixel": (dict, lambda: {"x": changed(X)}, "x_train"),
    "data, in order": (dict, lambda: {"x": X.flip(0)}, "x_train"),
    "validation data": (dict, lambda: {"v": changed(X[:5])}, "x_validation"),
    "number of validation data": (dict, lambda: {"v": X[:4]}, "x_validation"),
    "initial weights": (dict, lambda: {"model": vae(seed=1)}, "initial weights"),
    "width": (dict, lambda: {"model": mlp_vae(16, 2, hidden=(9,))}, "model"),
    "sigma_dec": (dict, lambda: {"model": vae(sigma_dec=0.3)}, "model"),
    "slope": (lambda: {"model": sloped(0.1)}, lambda: {"model": sloped(0.2)}, "model"),
    "attribute": (lambda: {"model": powered(1.0)}, lambda: {"model": powered(2.0)}, "model"),
    "type": (dict, lambda: {"model": vae().double(), "x": X.double(), "v": X[:5].double()}, "dtype"),
    "learning rate": (dict, lambda: {"learning_rate": 2e-3}, "learning_rate"),
    "batch size": (dict, lambda: {"batch_size": 5}, "batch_size"),
    "seed": (dict, lambda: {"seed": 1}, "seed"),
    "n_samples": (dict, lambda: {"n_samples": 2}, "n_samples"),
    "schedule": (dict, lambda: {"schedule": cosine}, "schedule"),
    "setting of a schedule": (
        lambda: {"schedule": partial(warm_up, share=0.1)}, lambda: {"schedule": partial(warm_up, share=0.2)}, "schedule"
    ),
    "epochs of a schedule": (lambda: {"schedule": cosine}, lambda: {"schedule": cosine, "epochs": 3}, "epochs_of_sched"),
    "loss": (dict, lambda: {"loss": negative_elbo}, "loss"),
    "binarised loss": (lambda: {"loss": binarised(negative_elbo)}, lambda: {"loss": negative_elbo}, "loss"),
    "beta of a partial function": (
        lambda: {"loss": partial(weighted, beta=1.0)}, lambda: {"loss": partial(weighted, beta=4.0)}, "loss"
    ),
    "beta of a closure": (lambda: {"loss": in_closure(1.0)}, lambda: {"loss": in_closure(4.0)}, "loss"),
    "beta of an object": (lambda: {"loss": Weighted(1.0)}, lambda: {"loss": Weighted(4.0)}, "loss"),
    "beta of a method": (lambda: {"loss": Weighted(1.0).method}, lambda: {"loss": Weighted(4.0).method}, "loss"),
    "beta of a module": (lambda: {"loss": WithSettings(1.0)}, lambda: {"loss": WithSettings(4.0)}, "loss"),
    "buffer of a module": (lambda: {"loss": WithSettings(1.0)}, lambda: {"loss": WithSettings(1.0, 2.0)}, "loss"),
}  # fmt: skip


def run(file: Path | None, **options: Any) -> tuple[VAE, int]:
    chosen = {"model": vae(), "x": X, "v": X[:5], "epochs": 2, "batch_size": 8, **options}
    model, x, v = chosen.pop("model"), chosen.pop("x"), chosen.pop("v")
    history = train(model, x, v, checkpoint=file, device="cpu", **chosen)
    return model, len(history)


@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_of_another_run_is_refused_in_two_lines(tmp_path: Path, what: str) -> None:
    first, second, name = OTHERS[what]
    file = tmp_path / "run.safetensors"
    run(file, **first())
    before = file.read_bytes()
    with pytest.raises(ValueError, match=f"comes from a run with another {name}.*: .* there, .* here") as error:
        run(file, **second())
    assert len(str(error.value).splitlines()) == 2
    assert file.read_bytes() == before
    assert run(file, **first())[1] == 2  # and the run itself goes on


def test_the_message_about_two_models_shows_the_line_in_which_they_differ(tmp_path: Path) -> None:
    run(tmp_path / "run.safetensors", model=sloped(0.1))
    with pytest.raises(ValueError, match=r"negative_slope=0\.1\) there, \(1\): LeakyReLU\(negative_slope=0\.2\) here"):
        run(tmp_path / "run.safetensors", model=sloped(0.2))


@pytest.mark.parametrize(("name", "value"), [("FACTOR", 2.0), ("TABLE", torch.zeros(2))])
def test_a_global_variable_that_a_loss_reads_is_a_part_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    loss = with_global if name == "FACTOR" else with_table
    run(tmp_path / "run.safetensors", loss=loss)
    run(tmp_path / "run.safetensors", loss=loss)
    monkeypatch.setitem(globals(), name, value)
    with pytest.raises(ValueError, match="comes from a run with another loss"):
        run(tmp_path / "run.safetensors", loss=loss)


@pytest.mark.parametrize("loss", [with_config, Reads()])
def test_what_a_class_holds_and_its_methods_read_is_a_part_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: Any
) -> None:
    run(tmp_path / "run.safetensors", loss=loss)
    run(tmp_path / "run.safetensors", loss=loss)
    monkeypatch.setattr(Config, "beta", 8.0)
    monkeypatch.setitem(globals(), "FACTOR", 8.0)
    with pytest.raises(ValueError, match="comes from a run with another loss"):
        run(tmp_path / "run.safetensors", loss=loss)


def test_a_property_and_the_source_of_a_module_of_ones_own_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identity("loss", Config)
    monkeypatch.setattr(Config, "twice", property(lambda self: 3 * self.beta))
    with pytest.raises(ValueError, match="lambda"):
        identity("loss", Config)
    monkeypatch.setattr(Config, "twice", property(with_config))
    assert identity("loss", Config) != before
    monkeypatch.syspath_prepend(tmp_path)
    seen = set()
    for factor in (1.0, 8.0):
        (tmp_path / "mymod.py").write_text(f"def scale(x):\n    return {factor} * x\n")
        linecache.clearcache()
        module = importlib.import_module("mymod")
        seen.add(identity("loss", partial(weighted, beta=module)))
        del sys.modules["mymod"]
    assert len(seen) == 2


class Counts:
    """A loss whose weight of the KL grows with its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *arguments: Any) -> Loss:
        self.calls += 1
        return weighted(*arguments, beta=min(1.0, self.calls / 10))


class CountingPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * min(1.0, self.calls / 10)


def test_what_changes_as_it_trains_and_no_checkpoint_holds_is_refused(tmp_path: Path) -> None:
    def model() -> VAE:
        return VAE(Encoder(nn.Sequential(CountingPart(), mlp(16, 8, 4))), GaussianDecoder(mlp(2, 8, 16), 0.2), 16, 2)

    run(None, loss=Counts())
    run(None, model=model())
    for options, name in (({"loss": Counts()}, "loss"), ({"model": model()}, "model")):
        with pytest.raises(
            ValueError, match=f"with a checkpoint, {name} needs to stay the same while it trains, apart"
        ):
            run(tmp_path / "run.safetensors", **options)
    assert not list(tmp_path.iterdir())


def test_a_count_in_a_buffer_is_kept(tmp_path: Path) -> None:
    """The remedy: resumed equals unbroken."""

    class Buffered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.steps += 1  # type: ignore[operator]
            return x * (1 + self.steps / 100)  # type: ignore[operator]

    def model() -> VAE:
        with seeded(0):
            return VAE(Encoder(nn.Sequential(Buffered(), mlp(16, 8, 4))), GaussianDecoder(mlp(2, 8, 16), 0.2), 16, 2)

    whole, halves = model(), model()
    train(whole, X, X[:5], epochs=4, batch_size=8, device="cpu")
    for epochs in (2, 4):
        train(halves, X, X[:5], epochs=epochs, batch_size=8, device="cpu", checkpoint=tmp_path / "run.safetensors")
    assert all(map(torch.equal, whole.state_dict().values(), halves.state_dict().values()))


def test_a_module_with_parametrised_weights_keeps_a_checkpoint(tmp_path: Path) -> None:
    def model() -> VAE:
        built = vae()
        nn.utils.parametrizations.weight_norm(built.encoder.network[0])
        return built

    for epochs in (1, 2):
        assert run(tmp_path / "run.safetensors", model=model(), epochs=epochs)[1] == epochs


def test_a_state_that_holds_more_than_tensors_is_refused_before_the_first_step(tmp_path: Path) -> None:
    class Extra(nn.Identity):
        def get_extra_state(self) -> dict[str, int]:
            return {"n": 1}

    model = VAE(Encoder(nn.Sequential(Extra(), mlp(16, 8, 4))), GaussianDecoder(mlp(2, 8, 16), 0.2), 16, 2)
    with pytest.raises(ValueError, match="the model's state needs tensors alone, got encoder.network.0._extra_state"):
        run(tmp_path / "run.safetensors", model=model)


def test_numbers_may_come_from_any_library(tmp_path: Path) -> None:
    plain = {"learning_rate": 1e-3, "batch_size": 8, "seed": 1, "epochs": 1}
    other = {"learning_rate": np.float64(1e-3), "batch_size": np.int64(8), "seed": np.int64(1), "epochs": np.int32(2)}
    run(tmp_path / "run.safetensors", **plain)
    assert run(tmp_path / "run.safetensors", **other)[1] == 2


def test_a_checkpoint_may_be_a_link_and_have_a_long_name(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link.safetensors", tmp_path / "elsewhere" / "run.safetensors"
    link.symlink_to(target)
    for epochs in (1, 2):
        run(link, epochs=epochs)
    assert link.is_symlink()
    assert target.is_file()
    run(tmp_path / f"{'x' * 240}.safetensors"[-250:])


def defined(tmp_path: Path, name: str, text: str) -> Any:
    """A function from a file of its own, as a notebook's cell or a script defines it."""
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, str(path), "exec"), space)
    return space["f"]


def test_the_same_name_with_another_text_is_another_function(tmp_path: Path) -> None:
    one = defined(tmp_path, "one", "def f(t):\n    return 1.0\n")
    two = defined(tmp_path, "two", "def f(t):\n    return 0.5\n")
    same = defined(tmp_path, "same", "def f(t):\n    return 1.0\n")
    assert identity("schedule", one) == identity("schedule", same) != identity("schedule", two)
    helper = "def g(t):\n    return {}\ndef f(t):\n    return g(t) if t else f(1)\n"
    three, four = (defined(tmp_path, f"h{n}", helper.format(n)) for n in (1, 2))
    assert identity("schedule", three) != identity("schedule", four)


def test_a_function_is_its_code_wherever_that_came_from() -> None:
    def made(text: str) -> Any:
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(text, space)
        return space["f"]

    one, same = made("def f(t):\n    return 1.0\n"), made("def f(t):\n    # the whole rate\n    return 1.0\n")
    inner = [made(f"def f(t):\n    def g():\n        return {n}\n    return g()\n") for n in (1, 2)]
    assert identity("schedule", one) == identity("schedule", same)
    assert len({identity("schedule", f) for f in [one, made("def f(t):\n    return 0.5\n"), *inner]}) == 4


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"schedule": lambda t: 1.0}, "schedule"),
        ({"loss": lambda *a: practical_loss(*a)}, "loss"),
        ({"loss": partial(with_lock, lock=threading.Lock())}, "loss"),
        ({"schedule": partial(operator.call, lambda t: 1.0)}, "schedule"),
        ({"loss": partial(lambda *a, file: practical_loss(*a), file=sys.stderr)}, "loss"),
    ],
)
def test_what_cannot_be_compared_is_refused_when_a_checkpoint_is_asked_for(
    tmp_path: Path, options: dict[str, Any], name: str
) -> None:
    run(None, **options)  # without one it trains
    with pytest.raises(
        ValueError, match=f"with a checkpoint, {name} needs .*; use functions made with def, and functools"
    ):
        run(tmp_path / "run.safetensors", **options)
    assert not list(tmp_path.iterdir())


def test_the_remedy_for_a_lambda_works(tmp_path: Path) -> None:
    for epochs in (1, 2):
        loss = partial(weighted, beta=4.0)
        assert run(tmp_path / "run.safetensors", loss=loss, schedule=constant, epochs=epochs)[1] == epochs


def test_the_model_of_the_checkpoint_may_go_on(tmp_path: Path) -> None:
    """As when a cell is executed again with more epochs: the model is trained already."""
    model, whole = vae(), vae()
    for epochs in (1, 2, 4):
        train(model, X, X[:5], epochs=epochs, checkpoint=tmp_path / "run.safetensors", device="cpu")
    train(whole, X, X[:5], epochs=4, device="cpu")
    assert all(map(torch.equal, model.parameters(), whole.parameters()))
    again = vae()  # nor is the model as it was at first refused
    train(again, X, X[:5], epochs=4, checkpoint=tmp_path / "run.safetensors", device="cpu")
    assert all(map(torch.equal, again.parameters(), whole.parameters()))


# Contents

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def kind(value: object) -> object:
    """A value with its types, since 1 == 1.0 == True."""
    if isinstance(value, list | tuple):
        return type(value), [kind(item) for item in value]
    if isinstance(value, dict):
        return dict, [(key, kind(item)) for key, item in value.items()]
    return type(value), value, math.copysign(1, value) if isinstance(value, float) else 1


@given(values, values)
@settings(max_examples=150)
def test_two_values_have_one_identity_exactly_if_they_are_equal(a: object, b: object) -> None:
    assert (identity("x", [a]) == identity("x", [b])) == (kind(a) == kind(b))
    shared = [a, b]
    assert identity("x", [shared, shared]) == identity("x", [[a, b], [a, b]])  # whatever shares its parts


def test_a_function_that_a_library_made_counts_with_what_it_holds() -> None:
    def made(beta: float) -> Any:
        loss = in_closure(beta)
        loss.__module__ = "torch.losses"
        return loss

    assert identity("loss", made(1.0)) == identity("loss", made(1.0)) != identity("loss", made(2.0))
    assert identity("loss", torch.nn.functional.max_pool2d)  # of which torch makes such a function


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_tensors_count_with_type_shape_and_every_number(dtype: torch.dtype) -> None:
    x = (torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) > 0.5).to(dtype)
    y = x.clone()
    y[2, 3] = 1 - int(y[2, 3])
    views = [x, x.T.contiguous().T, nn.Parameter(x, requires_grad=False), torch.stack([x, x])[1]]
    assert len({identity("x", view) for view in views}) == 1
    others = [x, y, x.reshape(4, 3), x.reshape(12), x.T, x[:2], x.to(torch.float16), x[:0], x[0, 0]]
    assert len({identity("x", other) for other in others}) == len(others)


def test_arrays_of_numpy_are_contents_too() -> None:
    x = np.arange(6.0).reshape(2, 3)
    assert identity("x", x) == identity("x", x.copy()) != identity("x", x + 1)


def test_another_process_gives_the_same_identity(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_checkpoints as t; print(t.mixture())"
    seen = {
        subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert seen == {mixture() + "\n"}


def mixture() -> str:
    held = [binarised(weighted), in_closure(2.0), Weighted(1.0), WithSettings(2.0), torch.relu, math.sin, X, with_table]
    return identity("x", {"held": held, "types": [VAE, Settings]})


# Weights alone


def test_the_weights_alone_can_be_had_whatever_made_them(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    trained, _ = run(file, loss=binarised(practical_loss), seed=3)
    other = vae(seed=9)
    load_weights(str(file), other)
    assert all(map(torch.equal, trained.state_dict().values(), other.state_dict().values()))


def test_weights_of_a_gpu_come_to_a_cpu(tmp_path: Path) -> None:
    """The device stands in the text alone: the file holds no tensor that belongs to one."""
    file = tmp_path / "run.safetensors"
    trained, _ = run(file)
    data = file.read_bytes()
    assert data.count(b'\\"device\\": \\"cpu\\"') == 1
    file.write_bytes(data.replace(b'\\"device\\": \\"cpu\\"', b'\\"device\\": \\"gpu\\"'))
    with pytest.raises(
        ValueError, match="another device: gpu there, cpu here.\n.*load_weights takes its weights alone"
    ):
        run(file)
    other = vae(seed=9)
    load_weights(file, other)
    assert all(map(torch.equal, trained.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize(
    ("model", "reason"),
    [(mlp_vae(16, 2, hidden=(9,)), "size mismatch"), (mlp_vae(16, 2, hidden=(8, 8)), r"KeyError: 'model\.encoder")],
)
def test_weights_of_another_model_are_refused(tmp_path: Path, model: VAE, reason: str) -> None:
    run(tmp_path / "run.safetensors")
    with pytest.raises(ValueError, match=f"holds the weights of another model .*{reason}"):
        load_weights(tmp_path / "run.safetensors", model)


def test_a_file_that_is_missing_or_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        load_weights(tmp_path / "nothing.safetensors", vae())
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ValueError, match="is not a complete checkpoint of this module"):
        load_weights(tmp_path / "text.safetensors", vae())


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    def tied(seed: int) -> VAE:
        model = mlp_vae(16, 8, hidden=(16,), seed=seed)
        model.decoder.network[2].weight = model.encoder.network[2].weight
        return model

    file = tmp_path / "run.safetensors"
    trained, _ = run(file, model=tied(0))
    with safe_open(file, framework="pt") as stored:
        assert len([name for name in stored.keys() if name.endswith("network.2.weight")]) == 1  # noqa: SIM118
    other = tied(1)
    load_weights(file, other)
    assert other.decoder.network[2].weight is other.encoder.network[2].weight
    assert torch.equal(other.encoder.network[2].weight, trained.decoder.network[2].weight)
