"""The training loop against a plain one, its optimum, resuming, and errors."""

import fcntl
import functools
import os
import struct
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from vaebook.checkpoints import load_weights
from vaebook.data import load
from vaebook.models import (
    VAE,
    AutoEncoder,
    BernoulliDecoder,
    Encoder,
    GaussianDecoder,
    mlp,
    mlp_vae,
    seeded,
)  # fmt: skip
from vaebook.objectives import (
    Loss,
    binarised,
    elbo_from_loss,
    negative_elbo,
    practical_loss,
    reconstruction_loss,
)  # fmt: skip
from vaebook.training import History, constant, cosine, train, validate


def vae(seed: int = 0, hidden: int = 16) -> VAE:
    return mlp_vae(64, 2, hidden=(hidden,), seed=seed)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    images = load("digits")
    return images.train[:300], images.validation


def run(model: VAE, data: tuple[Tensor, Tensor], epochs: int, **options: object) -> History:
    return train(model, *data, epochs=epochs, batch_size=64, **options)  # type: ignore[arg-type]


def weights(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_loop_equals_plain_adam_on_j(digits: tuple[Tensor, Tensor]) -> None:
    ours, naive = vae(), vae()
    history = run(ours, digits, epochs=2, seed=5, device="cpu")
    generator, x = torch.Generator().manual_seed(5), digits[0]
    optimiser = torch.optim.Adam(naive.parameters(), lr=1e-3)
    means = []
    for _ in range(2):
        total = 0.0
        for batch in torch.randperm(len(x), generator=generator).split(64):
            mu, log_sigma = naive.encoder.network(x[batch]).chunk(2, -1)
            z = mu + log_sigma.exp() * torch.randn(1, *mu.shape, generator=generator)
            reconstruction = ((x[batch] - naive.decoder.network(z)) ** 2).sum()
            kl = 0.2**2 * (mu**2 + (2 * log_sigma).exp() - 2 * log_sigma).sum()
            loss = (reconstruction + kl) / len(batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
        means.append(total / len(x))
    torch.testing.assert_close(weights(ours), weights(naive), rtol=1e-4, atol=1e-5)
    assert history.train["J"] == pytest.approx(means, rel=1e-4)


def test_the_loop_equals_plain_adam_on_the_bound_of_black_and_white_pixels(digits: tuple[Tensor, Tensor]) -> None:
    def model() -> VAE:
        with seeded(0):
            return VAE(Encoder(mlp(64, 16, 4)), BernoulliDecoder(mlp(2, 16, 64)), 64, 2)

    ours, naive, x = model(), model(), (digits[0] > 0.5).float()
    run(ours, (x, x[:10]), epochs=2, seed=5, loss=negative_elbo, device="cpu")
    generator = torch.Generator().manual_seed(5)
    optimiser = torch.optim.Adam(naive.parameters(), lr=1e-3)
    for _ in range(2):
        for batch in torch.randperm(len(x), generator=generator).split(64):
            mu, log_sigma = naive.encoder.network(x[batch]).chunk(2, -1)
            z = mu + log_sigma.exp() * torch.randn(1, *mu.shape, generator=generator)
            p = naive.decoder.network(z)[0].sigmoid()
            cross_entropy = -(x[batch] * p.log() + (1 - x[batch]) * (1 - p).log()).sum()
            kl = 0.5 * (mu**2 + (2 * log_sigma).exp() - 2 * log_sigma - 1).sum()
            optimiser.zero_grad()
            ((cross_entropy + kl) / len(batch)).backward()
            optimiser.step()
    torch.testing.assert_close(weights(ours), weights(naive), rtol=1e-4, atol=1e-5)


def test_a_schedule_sets_the_rate_of_each_epoch(digits: tuple[Tensor, Tensor]) -> None:
    """An epoch at rate 0 changes nothing, and the epochs before it equal those at a constant rate."""
    two, three = vae(), vae()
    run(two, digits, epochs=2, seed=5)
    run(three, digits, epochs=3, seed=5, schedule=lambda t: 1.0 if t < 0.5 else 0.0)
    torch.testing.assert_close(weights(two), weights(three), rtol=0, atol=0)
    halved, half = vae(), vae()
    run(halved, digits, epochs=2, seed=5, learning_rate=2e-3, schedule=lambda t: 0.5)
    run(half, digits, epochs=2, seed=5, learning_rate=1e-3, schedule=constant)
    torch.testing.assert_close(weights(halved), weights(half), rtol=0, atol=0)
    assert [round(cosine(t / 4), 4) for t in range(5)] == [1.0, 0.8536, 0.5, 0.1464, 0.0]


def test_a_loss_and_a_schedule_may_be_partial_functions(digits: tuple[Tensor, Tensor]) -> None:
    plain, partial = vae(), vae()
    run(plain, digits, epochs=1)
    run(
        partial,
        digits,
        epochs=1,
        loss=functools.partial(practical_loss),
        schedule=functools.partial(constant),
    )
    torch.testing.assert_close(weights(plain), weights(partial), rtol=0, atol=0)


def test_history_keeps_the_exact_relations(digits: tuple[Tensor, Tensor]) -> None:
    history = run(vae(), digits, epochs=3)
    assert len(history) == 3
    for means in (history.train, history.validation):
        j, recon, kl, bound = (torch.tensor(means[name]) for name in ("J", "J_recon", "J_KL", "elbo"))
        torch.testing.assert_close(j, recon + kl)
        torch.testing.assert_close(bound, elbo_from_loss(j, 0.2, 64, 2), rtol=1e-4, atol=1e-3)


def test_training_lowers_j_on_held_out_digits(digits: tuple[Tensor, Tensor]) -> None:
    history = run(vae(), digits, epochs=30, learning_rate=5e-3)
    assert history.validation["J"][-1] < 0.7 * history.validation["J"][0]


def test_the_seed_determines_the_numbers(digits: tuple[Tensor, Tensor]) -> None:
    one, same, other = (run(vae(), digits, epochs=2, seed=s) for s in (0, 0, 1))
    assert one == same
    assert one.train["J"] != other.train["J"]


def test_validation_has_its_own_noise_which_the_seed_determines(digits: tuple[Tensor, Tensor]) -> None:
    model, (_, x) = vae(), digits
    at_7 = validate(model, x, 3, 7, practical_loss)
    torch.testing.assert_close(validate(model, x, 3, 7, practical_loss), at_7, rtol=0, atol=0)
    assert not torch.equal(validate(model, x, 3, 8, practical_loss), at_7)


def test_validation_is_measured_after_each_epoch_and_training_during_it(digits: tuple[Tensor, Tensor]) -> None:
    model = vae()
    history = run(model, digits, epochs=2, n_samples=3, seed=4, learning_rate=0.01)
    reconstruction, kl, bound = validate(model, digits[1], 3, 4, practical_loss).tolist()
    last = {name: means[-1] for name, means in history.validation.items()}
    assert last == {"J": reconstruction + kl, "J_recon": reconstruction, "J_KL": kl, "elbo": bound}
    after = validate(model, digits[0], 3, 4, practical_loss)
    assert history.train["J_recon"][-1] > 1.02 * float(after[0])  # the first batches saw earlier weights


def test_the_global_generator_is_not_used(digits: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(1)
    one = run(vae(), digits, epochs=1)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert run(vae(), digits, epochs=1) == one
    assert torch.equal(before, torch.get_rng_state())


def test_zero_epochs_change_nothing(digits: tuple[Tensor, Tensor]) -> None:
    model = vae()
    before = weights(model)
    assert len(run(model, digits, epochs=0)) == 0
    assert torch.equal(before, weights(model))


def test_an_auto_encoder_trains_too(digits: tuple[Tensor, Tensor]) -> None:
    history = train(AutoEncoder(64, 2), *digits, epochs=2, loss=reconstruction_loss)
    assert history.train["J"] == history.train["J_recon"]


def test_a_resumed_run_gives_the_same_numbers(digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    whole, halves = vae(), vae()
    file = tmp_path / "run.safetensors"
    history = run(whole, digits, epochs=4)
    assert len(run(halves, digits, epochs=2, checkpoint=file)) == 2
    fresh = vae()
    resumed = run(fresh, digits, epochs=4, checkpoint=file)
    assert resumed == history
    assert torch.equal(weights(fresh), weights(whole))
    again = run(vae(), digits, epochs=4, checkpoint=file)  # all epochs are done
    assert again == history


def test_a_checkpoint_is_one_file_without_code(digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    run(vae(), digits, epochs=1, checkpoint=tmp_path / "run.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]
    header = (tmp_path / "run.safetensors").read_bytes()[8:9]
    assert header == b"{"  # the JSON header of a safetensors file; a pickle starts differently


KILLED = textwrap.dedent("""
    import sys, torch
    from vaebook.data import load
    from vaebook.models import mlp_vae
    from vaebook.training import train
    x = load("digits")
    train(mlp_vae(64, 2, hidden=(16,)), x.train[:300], x.validation, epochs=10**6, batch_size=64, checkpoint=sys.argv[1])
""")


def test_a_killed_run_leaves_a_complete_checkpoint(digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(file)])
    try:
        while not file.exists():
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()  # SIGKILL: the process cannot clean up
        process.wait()
    history = resume_and_count(file, digits)
    assert history.train["J"] == run(vae(), digits, epochs=len(history)).train["J"]


def resume_and_count(file: Path, data: tuple[Tensor, Tensor]) -> History:
    """Resume from a checkpoint with an unknown number of epochs, for at most one more epoch."""
    for epochs in range(1, 10_000):
        try:
            return run(vae(), data, epochs=epochs, checkpoint=file)
        except ValueError as error:
            if "epochs needs to be at least" not in str(error):
                raise
    raise AssertionError


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_checkpoint_cut_short_is_refused_and_kept(digits: tuple[Tensor, Tensor], tmp_path: Path, keep: int) -> None:
    file = tmp_path / "run.safetensors"
    run(vae(), digits, epochs=1, checkpoint=file)
    cut = file.read_bytes()[:keep]
    file.write_bytes(cut)
    model = vae()
    before = weights(model)
    with pytest.raises(ValueError, match="is not a complete checkpoint of this module"):
        run(model, digits, epochs=2, checkpoint=file)
    assert file.read_bytes() == cut  # the file is not overwritten
    assert torch.equal(before, weights(model))


def test_a_checkpoint_with_more_epochs_is_refused(digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    run(vae(), digits, epochs=3, checkpoint=tmp_path / "run.safetensors")
    with pytest.raises(ValueError, match="epochs needs to be at least 3, the number done in .*, got 2"):
        run(vae(), digits, epochs=2, checkpoint=tmp_path / "run.safetensors")


def test_a_missing_folder_of_the_checkpoint_raises_before_training(
    digits: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="needs a folder that exists, got .*; create .* first"):
        run(vae(), digits, epochs=10**9, checkpoint=tmp_path / "missing" / "run.safetensors")


def explode(t: float) -> float:
    return 1.0 if t < 0.5 else 1e30


def test_nan_ends_the_training_and_keeps_the_last_good_checkpoint(
    digits: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    file, options = tmp_path / "run.safetensors", {"epochs": 2, "schedule": explode}
    model = vae()
    with pytest.raises(FloatingPointError, match="J became .* in epoch 2; try a smaller learning_rate"):
        run(model, digits, checkpoint=file, **options)  # type: ignore[arg-type]
    good, kept = file.read_bytes(), vae()
    load_weights(file, kept)
    once = vae()
    run(once, digits, epochs=1)
    assert torch.equal(weights(kept), weights(once))
    with pytest.raises(FloatingPointError, match="in epoch 2"):  # it goes on from there
        run(vae(), digits, checkpoint=file, **options)  # type: ignore[arg-type]
    assert file.read_bytes() == good


# Any module


class Noisy(nn.Module):
    """A layer that draws from torch's global generator in both modes."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.randn_like(x)


def with_parts(*parts: nn.Module, seed: int = 0) -> VAE:
    with seeded(seed):
        network = nn.Sequential(nn.Linear(64, 16), *parts, nn.Tanh(), nn.Linear(16, 4))
        return VAE(Encoder(network), GaussianDecoder(mlp(2, 16, 64), 0.2), 64, 2)


def modes(model: nn.Module) -> list[bool]:
    return [part.training for part in model.modules()]


PARTS: dict[str, Callable[[], list[nn.Module]]] = {
    "dropout": lambda: [nn.Dropout(0.5)],
    "batch normalisation": lambda: [nn.BatchNorm1d(16)],
    "noise": lambda: [Noisy()],
    "all": lambda: [nn.BatchNorm1d(16), nn.Dropout(0.2), Noisy()],
}


@pytest.mark.parametrize("parts", PARTS)
def test_a_model_with_noise_and_modes_keeps_every_promise(
    digits: tuple[Tensor, Tensor], tmp_path: Path, parts: str
) -> None:
    """The seed determines the numbers, a resumed run equals an unbroken one, and the global generator stays as it is."""
    torch.manual_seed(1)
    whole = with_parts(*PARTS[parts]())
    before = torch.get_rng_state()
    history = run(whole, digits, epochs=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = with_parts(*PARTS[parts]())
    for epochs in (1, 3):
        resumed = run(again, digits, epochs=epochs, checkpoint=tmp_path / "run.safetensors")
    assert resumed == history
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    other = run(with_parts(*PARTS[parts]()), digits, epochs=3, seed=1)
    assert other != history


def test_validation_changes_no_running_mean_and_drops_nothing(digits: tuple[Tensor, Tensor]) -> None:
    model = with_parts(nn.BatchNorm1d(16), nn.Dropout(0.5))
    run(model, digits, epochs=1)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    found = validate(model, digits[1], 3, 7, practical_loss)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())
    model.eval()
    terms = practical_loss(model, digits[1], 3, torch.Generator().manual_seed(8))
    torch.testing.assert_close(found, torch.stack(terms).mean(-1).double(), rtol=1e-5, atol=1e-5)


def test_the_modes_of_all_parts_come_back_also_after_an_error(digits: tuple[Tensor, Tensor]) -> None:
    model = with_parts(nn.BatchNorm1d(16), nn.Dropout(0.5))
    model.eval()
    model.encoder.train()
    before, seen = modes(model), []

    def loss(*arguments: Any) -> Loss:
        seen.append(set(modes(model)))
        if len(seen) == 4:
            raise KeyError
        return practical_loss(*arguments)

    with pytest.raises(KeyError):
        run(model, digits, epochs=1, loss=loss)
    assert seen == [{False}, {False}, {True}, {True}]  # the two looks at shapes, two steps
    assert modes(model) == before


def test_tied_weights_are_stored_once_and_stay_tied(digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    def tied() -> VAE:
        model = mlp_vae(64, 4, hidden=(64, 64))
        model.decoder.network[2].weight = model.encoder.network[2].weight
        return model

    whole, halves, file = tied(), tied(), tmp_path / "run.safetensors"
    history = run(whole, digits, epochs=2)
    for epochs in (1, 2):
        resumed = run(halves, digits, epochs=epochs, checkpoint=file)
    assert resumed == history
    with safe_open(file, framework="pt") as stored:
        assert [name for name in stored.keys() if "network.2.weight" in name] == ["model.encoder.network.2.weight"]  # noqa: SIM118
    fresh = tied()
    load_weights(file, fresh)
    assert fresh.decoder.network[2].weight is fresh.encoder.network[2].weight
    assert torch.equal(weights(fresh), weights(whole))


@pytest.mark.parametrize("width", [1, 63, 65])
@pytest.mark.parametrize("decoder", [partial(GaussianDecoder, sigma_dec=0.2), BernoulliDecoder])
def test_a_decoder_of_another_width_is_refused(
    digits: tuple[Tensor, Tensor], width: int, decoder: Callable[[nn.Module], nn.Module]
) -> None:
    model = VAE(Encoder(mlp(64, 16, 4)), decoder(mlp(2, 16, width)), 64, 2)
    before = weights(model)
    with pytest.raises(
        ValueError, match=f"the decoder.s output needs 64 features on its last axis, got shape .*{width}"
    ):
        run(model, digits, epochs=1, loss=negative_elbo)
    assert torch.equal(weights(model), before)


def mean_over_images(model: VAE, x: Tensor, n_samples: int, generator: torch.Generator | None) -> Loss:
    return Loss(*(term.mean() for term in practical_loss(model, x, n_samples, generator)))


def test_a_loss_that_averages_over_images_is_refused(digits: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="loss needs one reconstruction for each image, shape .2,. for 2 images, got"):
        run(vae(), digits, epochs=1, loss=mean_over_images)


@pytest.mark.parametrize(
    ("n", "n_validation", "batch_size", "parts", "message"),
    [
        (0, 5, 2, [], r"x_train needs the shape \(N, d\) with at least one image, got \(0, 64\)"),
        (5, 0, 2, [], r"x_validation needs the shape \(N, d\) with at least one image, got \(0, 64\)"),
        (
            5,
            5,
            4,
            [nn.BatchNorm1d(16)],
            "batch_size needs no rest of one image.*got 4 for 5 images; try 5",
        ),
        (5, 5, 1, [nn.BatchNorm1d(16)], "batch_size needs .*got 1 for 5 images; try 3"),
        (1, 5, 8, [nn.BatchNorm1d(16)], "batch_size needs .*got 8 for 1 images; add an image"),
    ],
)
def test_sets_that_are_too_small_are_refused_by_name(
    digits: tuple[Tensor, Tensor], n: int, n_validation: int, batch_size: int, parts: list[nn.Module], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(with_parts(*parts), digits[0][:n], digits[1][:n_validation], epochs=1, batch_size=batch_size)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_sets_of_a_few_images_train(digits: tuple[Tensor, Tensor], n: int) -> None:
    assert len(train(vae(), digits[0][:n], digits[1][:1], epochs=2, batch_size=2)) == 2


@pytest.mark.parametrize("decoder", [partial(GaussianDecoder, sigma_dec=0.2), BernoulliDecoder])
def test_training_under_autocast_stays_near_full_precision(
    digits: tuple[Tensor, Tensor], decoder: Callable[[nn.Module], nn.Module]
) -> None:
    def model() -> VAE:
        with seeded(0):
            return VAE(Encoder(mlp(64, 16, 4)), decoder(mlp(2, 16, 64)), 64, 2)

    data = (digits[0].round(), digits[1].round())
    full = run(model(), data, epochs=2, loss=negative_elbo, device="cpu")
    with torch.autocast("cpu", torch.bfloat16):
        half = run(model(), data, epochs=2, loss=negative_elbo, device="cpu")
    assert half.validation["J"] != full.validation["J"]  # it was in use
    assert half.validation["J"] == pytest.approx(full.validation["J"], rel=0.01)  # bfloat16 has 3 digits


def test_device_0_is_the_first_gpu_and_not_the_default(digits: tuple[Tensor, Tensor]) -> None:
    if torch.cuda.is_available():
        run(vae(), digits, epochs=1, device=0)
    else:
        with pytest.raises((RuntimeError, AssertionError), match="(?i)cuda|nvidia"):
            run(vae(), digits, epochs=0, device=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs needs to be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size needs to be at least 1, got 0"),
        ({"n_samples": 0}, "n_samples needs to be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate needs to be a finite number above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate needs to be a finite number above 0, got nan"),
    ],
)
def test_settings_out_of_range(digits: tuple[Tensor, Tensor], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(vae(), *digits, **{"epochs": 1, **options})  # type: ignore[arg-type]


def test_the_model_returns_to_its_device(digits: tuple[Tensor, Tensor]) -> None:
    model = vae()
    run(model, digits, epochs=1)
    assert next(model.parameters()).device.type == "cpu"
    with torch.no_grad():
        assert practical_loss(model, digits[1]).elbo.isfinite().all()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")


@needs_gpu
def test_a_gpu_is_used_by_default(digits: tuple[Tensor, Tensor]) -> None:
    torch.cuda.reset_peak_memory_stats()
    run(vae(), digits, epochs=1)
    assert torch.cuda.max_memory_allocated() > 0


@needs_gpu
def test_on_a_gpu_the_seed_determines_dropout_too_and_generators_stay(
    digits: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    before = torch.cuda.get_rng_state(), torch.get_rng_state()
    whole, again = with_parts(*PARTS["all"]()), with_parts(*PARTS["all"]())
    history = run(whole, digits, epochs=3)
    torch.rand(5, device="cuda")
    for epochs in (1, 3):
        resumed = run(again, digits, epochs=epochs, checkpoint=tmp_path / "run.safetensors")
    assert resumed.train["J"] == pytest.approx(history.train["J"], rel=1e-5)
    torch.cuda.set_rng_state(before[0])
    seeded_one = with_parts(*PARTS["all"]())
    assert torch.equal(torch.cuda.get_rng_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.equal(weights(seeded_one), weights(with_parts(*PARTS["all"]())))


@needs_gpu
def test_a_checkpoint_of_a_gpu_gives_its_weights_to_a_cpu(digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    file, trained, other = tmp_path / "run.safetensors", vae(), vae(seed=9)
    run(trained, digits, epochs=1, checkpoint=file)
    load_weights(file, other)
    assert torch.equal(weights(other), weights(trained))
    with pytest.raises(ValueError, match="another device: cuda there, cpu here"):
        run(vae(), digits, epochs=2, checkpoint=file, device="cpu")
    run(vae(), digits, epochs=2, checkpoint=file, device=0)


@needs_gpu
def test_under_autocast_on_a_gpu(digits: tuple[Tensor, Tensor]) -> None:
    full = run(vae(), digits, epochs=2)
    with torch.autocast("cuda", torch.bfloat16):
        half = run(vae(), digits, epochs=2)
    assert half.validation["J"] != full.validation["J"]
    assert half.validation["J"] == pytest.approx(full.validation["J"], rel=0.01)


def test_progress_is_quiet_in_a_pipe_and_a_bar_in_a_terminal() -> None:
    code = textwrap.dedent("""
        from vaebook.data import load
        from vaebook.models import mlp_vae
        from vaebook.training import train
        x = load("digits")
        train(mlp_vae(64, 2), x.train, x.validation, epochs=3)
    """)
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert piped.stdout == piped.stderr == ""
    terminal, ours = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    subprocess.run([sys.executable, "-c", code], stderr=ours, check=True)
    os.close(ours)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert "3/3" in shown
    assert "validation J" in shown


def test_without_progress_neither_a_notebook_nor_a_terminal_shows_any(
    digits: tuple[Tensor, Tensor], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaebook.training.in_notebook", lambda: True)
    run(vae(), digits, epochs=1)
    assert "epoch 1/1" in capfd.readouterr().out
    run(vae(), digits, epochs=1, progress=False)
    monkeypatch.setattr("vaebook.training.in_notebook", lambda: False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run(vae(), digits, epochs=1, progress=False)
    assert capfd.readouterr() == ("", "")


class Learned(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(0.5))

    def forward(self, *arguments: Any) -> Loss:
        terms = practical_loss(*arguments)
        return terms._replace(kl=self.beta * terms.kl)


def test_a_loss_with_weights_that_would_stay_as_they_are_is_refused(digits: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="loss holds weights that would not be trained; make them a part of the model"):
        run(vae(), digits, epochs=1, loss=Learned())
    run(vae(), digits, epochs=1, loss=Learned().requires_grad_(False))


def bernoulli_vae() -> VAE:
    with seeded(0):
        return VAE(Encoder(mlp(64, 16, 4)), BernoulliDecoder(mlp(2, 16, 64)), 64, 2).to(torch.get_default_dtype())


def test_data_are_checked_before_a_compiled_loss_sees_them(digits: tuple[Tensor, Tensor]) -> None:
    black_and_white = tuple(x.round() for x in digits)
    black_and_white[0][-1, -1] = 0.5  # in the last image, beyond what the check of shapes sees
    with pytest.raises(ValueError, match="pixels that are 0 or 1"):
        train(bernoulli_vae(), *black_and_white, epochs=1, loss=negative_elbo, compile=True)
    too_bright = tuple(3 * x for x in digits)
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        train(bernoulli_vae(), *too_bright, epochs=1, loss=binarised(negative_elbo), compile=True)


def test_a_checkpoint_knows_its_arithmetic(
    digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A processor without units emulates them."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    settings: dict[str, Any] = {"device": "cpu", "precision": "bfloat16"}
    path = tmp_path / "run.safetensors"
    run(vae(), digits, epochs=1, checkpoint=path, **settings)
    load_weights(path, first := vae())
    with pytest.raises(ValueError, match="another arithmetic: 'bfloat16' there, 'float32' here"):
        run(vae(), digits, epochs=2, checkpoint=path, device="cpu")
    resumed, unbroken = vae(), vae()
    run(resumed, digits, epochs=2, checkpoint=path, **settings)
    run(unbroken, digits, epochs=2, **settings)
    assert torch.equal(weights(resumed), weights(unbroken))
    assert not torch.equal(weights(resumed), weights(first))
