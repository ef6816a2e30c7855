"""Faster than plain code, where the machine can: compiled losses and weights, and products in bfloat16."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Generator, Tensor


def compiled(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The same loss in one compiled piece (``torch.compile``): equal up to rounding, with the same draws.

    ``loss`` may be any function of such arguments, :func:`vaebook.objectives.log_weights` too. It compiles at its first
    call, and again for each other size of x, in ten seconds or more. It does not look at the values of x; check them
    first. If the model's own parts draw (dropout), it draws other numbers than ``loss``.

    Raises:
        RuntimeError: there is no C++ compiler, or torch cannot compile the loss in one piece.

    >>> from vaebook.objectives import negative_elbo
    >>> fast = compiled(negative_elbo)  # a loss like any other, which compiles when it is called
    """

    def whole(model: object, x: Tensor, n_samples: int) -> Any:
        return loss(model, x, n_samples, None)

    whole.__code__ = whole.__code__.replace()  # a copy: torch compiles the same code only a few times
    piece = torch.compile(whole, fullgraph=True, dynamic=False, options={"fallback_random": True})

    def call(model: object, x: Tensor, n_samples: int = 1, generator: Generator | None = None) -> Any:
        # Compiled code draws from torch's global generator, which for a while continues the given one.
        gpu = x.device.index or 0 if x.is_cuda else None
        shared = torch.default_generator if gpu is None else torch.cuda.default_generators[gpu]
        source, before = shared if generator is None else generator, shared.get_state()
        shared.set_state(source.get_state())
        try:
            return piece(model, x, n_samples)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            wanted = "compile=True needs a C++ compiler, and a loss without branches on values"
            raise RuntimeError(f"{wanted}, got: {reason}; train without compile") from error
        finally:
            after = shared.get_state()
            shared.set_state(before)
            source.set_state(after)

    return call


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """A context in which networks multiply in ``precision``, "float32" (which changes nothing) or "bfloat16".

    Raises:
        ValueError: it is neither, or the device has no units for bfloat16 and would be slower with it.

    >>> with arithmetic("float32", torch.device("cpu")):
    ...     (torch.eye(2) @ torch.ones(2)).dtype
    torch.float32
    """
    if precision == "float32":
        return nullcontext()
    if precision != "bfloat16":
        raise ValueError(f"precision needs to be 'float32' or 'bfloat16', got {precision!r}")
    cpu: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not say
    able = device.type == "cpu" and (cpu.get("amx_bf16") or cpu.get("avx512_bf16"))
    if not able and not (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)):
        raise ValueError(f"precision='bfloat16' needs a device with units for it, got {device}; use 'float32'")
    return torch.autocast(device.type, torch.bfloat16)
