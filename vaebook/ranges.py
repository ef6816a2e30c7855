"""The ranges that a chapter's parameters may take, checked before anything else runs.

Whoever executes a chapter with plain papermill gets no other check: papermill lets every value pass.
"""

import math


def at_least(least: int, **parameters: object) -> None:
    """Raise unless each parameter is a whole number of at least ``least``.

    Raises:
        TypeError: something else than a whole number.
        ValueError: too small a number.

    >>> at_least(1, latent_dim=2, epochs=80)
    >>> at_least(1, latent_dim=0)
    Traceback (most recent call last):
    ValueError: latent_dim needs to be at least 1, got 0
    """
    for name, value in parameters.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} needs a whole number of at least {least}, got {value!r}")
        if value < least:
            raise ValueError(f"{name} needs to be at least {least}, got {value}")


def above(bound: float, **parameters: object) -> None:
    """Raise unless each parameter is a finite number above ``bound``.

    Raises:
        TypeError: something else than a number. In YAML, which papermill's ``-y`` reads, 1e-4 is a text.
        ValueError: too small a number, or an infinite one.

    >>> above(0, learning_rate=1e-3)
    >>> above(0, learning_rate="1e-4")
    Traceback (most recent call last):
    TypeError: learning_rate needs a number above 0, got '1e-4'; in YAML, write 1.0e-4 for 1e-4
    """
    for name, value in parameters.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            hint = "; in YAML, write 1.0e-4 for 1e-4" if isinstance(value, str) else ""
            raise TypeError(f"{name} needs a number above {bound:g}, got {value!r}{hint}")
        if not bound < value < math.inf:
            raise ValueError(f"{name} needs to be a finite number above {bound:g}, got {value}")
