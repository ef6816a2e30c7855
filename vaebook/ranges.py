"""Checks of the ranges of a chapter's parameters, made before anything else runs.

Plain papermill accepts every value, so a chapter that it executes has no other check.
"""

import math

import numpy as np


def at_least(least: int, **parameters: object) -> None:
    """Raise unless each parameter is a whole number of at least ``least``.

    Raises:
        TypeError: a value is not a whole number.
        ValueError: a value is too small.

    >>> at_least(1, latent_dim=2, epochs=80)
    >>> at_least(1, latent_dim=0)
    Traceback (most recent call last):
    ValueError: latent_dim needs to be at least 1, got 0
    """
    for name, value in parameters.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"{name} needs a whole number of at least {least}, got {value!r}")
        if value < least:
            raise ValueError(f"{name} needs to be at least {least}, got {value}")


def above(bound: float, **parameters: object) -> None:
    """Raise unless each parameter is a finite number above ``bound``.

    Raises:
        TypeError: a value is not a number. In YAML, which papermill's ``-y`` reads, 1e-4 is a string.
        ValueError: a value is too small, infinite or NaN.

    >>> above(0, learning_rate=1e-3)
    >>> above(0, learning_rate="1e-4")
    Traceback (most recent call last):
    TypeError: learning_rate needs a number above 0, got '1e-4'; in YAML, write 1.0e-4 for 1e-4
    """
    for name, value in parameters.items():
        if not isinstance(value, int | float | np.number) or isinstance(value, bool):
            hint = "; in YAML, write 1.0e-4 for 1e-4" if isinstance(value, str) else ""
            raise TypeError(f"{name} needs a number above {bound:g}, got {value!r}{hint}")
        if not bound < value < math.inf:
            raise ValueError(f"{name} needs to be a finite number above {bound:g}, got {value}")
