"""Checks of the ranges of a chapter's parameters, made before anything else runs.

Plain papermill accepts every value, so a chapter that it executes has no other check.
"""

import math

import numpy as np


def at_least(least: int, *, most: float = math.inf, **parameters: object) -> None:
    """Raise unless each parameter is a whole number of at least ``least``, and of at most ``most``.

    Raises:
        TypeError: a value is not a whole number.
        ValueError: a value is too small or too large.

    >>> at_least(1, most=63, latent_dim=64)
    Traceback (most recent call last):
    ValueError: latent_dim needs to be at least 1 and at most 63, got 64
    """
    limit = f" and at most {most:g}" if most < math.inf else ""
    for name, value in parameters.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"{name} needs a whole number of at least {least}, got {value!r}")
        if not least <= value <= most:
            raise ValueError(f"{name} needs to be at least {least}{limit}, got {value}")


def above(bound: float, *, most: float = math.inf, **parameters: object) -> None:
    """Raise unless each parameter is a finite number above ``bound``, and at most ``most``.

    Raises:
        TypeError: a value is not a number. In YAML, which papermill's ``-y`` reads, 1e-4 is a string.
        ValueError: a value is too small, too large, infinite or NaN.

    >>> above(0, learning_rate="1e-4")
    Traceback (most recent call last):
    TypeError: learning_rate needs a number above 0, got '1e-4'; in YAML, write 1.0e-4 for 1e-4
    """
    limit = f" and at most {most:g}" if most < math.inf else ""
    for name, value in parameters.items():
        if not isinstance(value, int | float | np.number) or isinstance(value, bool):
            hint = "; in YAML, write 1.0e-4 for 1e-4" if isinstance(value, str) else ""
            raise TypeError(f"{name} needs a number above {bound:g}, got {value!r}{hint}")
        if not bound < value <= most or value == math.inf:
            raise ValueError(f"{name} needs to be a finite number above {bound:g}{limit}, got {value}")
