"""Training faster than the plain loop, where the machine can: compiled losses, and products in bfloat16."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Generator, Tensor

from vaebook.objectives import Loss, LossFunction


def compiled(loss: LossFunction) -> LossFunction:
    """The same loss as one compiled function, equal to rounding and with the same draws: ``torch.compile``.

    It is compiled at its first call, and for each other size of x; that takes ten seconds or more. It must be one
    graph: a loss that Python has to interrupt would be slow without a word. It does not look at its data, so that
    those who call it check them first. What a model's own parts draw (dropout) differs from the plain loss's draws.

    Raises:
        RuntimeError: there is no C++ compiler, or torch cannot compile the loss as a whole.

    >>> from vaebook.objectives import negative_elbo
    >>> fast = compiled(negative_elbo)          # and fast(model, x, n_samples, generator) compiles
    """

    def whole(model: object, x: Tensor, n_samples: int) -> Loss:
        return loss(model, x, n_samples, None)

    whole.__code__ = whole.__code__.replace()  # a copy of its own: torch compiles one code only a few times
    graph = torch.compile(whole, fullgraph=True, dynamic=False, options={"fallback_random": True})

    def call(model: object, x: Tensor, n_samples: int = 1, generator: Generator | None = None) -> Loss:
        try:
            with drawing_as(generator):
                return graph(model, x, n_samples)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise RuntimeError(
                f"compile=True needs a C++ compiler, such as g++, and a loss that torch can compile ({reason}); "
                "train with compile=False"
            ) from error

    return call


@contextmanager
def drawing_as(generator: Generator | None) -> Iterator[None]:
    """Torch's global generator of the same device draws for ``generator``, and is as before afterwards."""
    if generator is None:
        yield
        return
    gpu = generator.device.type == "cuda"
    shared = torch.cuda.default_generators[generator.device.index or 0] if gpu else torch.default_generator
    before = shared.get_state()
    shared.set_state(generator.get_state())
    try:
        yield
        generator.set_state(shared.get_state())
    finally:
        shared.set_state(before)


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """A context in which networks multiply in ``precision``, "float32" or "bfloat16"; all else keeps its type.

    Raises:
        ValueError: it is neither, or the device has no units for bfloat16 and would be slower with it.

    >>> with arithmetic("float32", torch.device("cpu")):
    ...     torch.ones(2, 2) @ torch.ones(2, 2)
    tensor([[2., 2.],
            [2., 2.]])
    """
    if precision == "float32":
        return nullcontext()
    if precision != "bfloat16":
        raise ValueError(f"precision needs to be 'float32' or 'bfloat16', got {precision!r}")
    if device.type == "cuda":
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # older versions of torch do not say
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        has_units = device.type == "cpu" and any(known.get(name) for name in ("amx_bf16", "avx512_bf16"))
    if not has_units:
        raise ValueError(f"precision='bfloat16' needs a device with units for it, got {device}; take 'float32'")
    return torch.autocast(device.type, torch.bfloat16)
