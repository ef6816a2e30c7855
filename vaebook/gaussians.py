"""Gaussians with a diagonal covariance, built from the mean μ and the *logarithm* of the standard deviation.

The networks of the book emit log σ (:eq:`def-encoder`), so that is what this class keeps. Nothing here goes
through ``exp`` and back through ``log``: that round trip is where small and large σ lose their digits.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

LOG_2PI = math.log(2 * math.pi)


class DiagonalGaussian:
    r"""The density N(μ, diag σ²) on R^m, for a whole batch of means and widths at once.

    .. math:: \log N(z \mid \mu, \operatorname{diag} \sigma^2)
              = -\tfrac12 \sum_j \Big(\frac{z_j - \mu_j}{\sigma_j}\Big)^2
              - \sum_j \log \sigma_j - \tfrac m2 \log 2\pi

    Args:
        mu: means μ, shape ``(..., m)``.
        log_sigma: log σ, any shape that broadcasts against ``mu``; a scalar tensor gives one width to all.

    Values and gradients are finite for log σ from −40 to 40 in float64 and from −20 to 20 in float32.
    Densities and entropies are in nats, one number for each row: the last axis is summed over.

    Raises:
        ValueError: the two shapes do not broadcast, or ``mu`` has no axis.
        TypeError: a tensor is not of a floating-point type, or the two types differ.

    Source: :eq:`def-gaussian` of the book; Bishop, "Pattern Recognition and Machine Learning", section 2.3.

    >>> q = DiagonalGaussian(torch.zeros(3, 2), torch.zeros(3, 2))      # three standard normals on R²
    >>> q.log_prob(torch.zeros(3, 2))                                   # −log 2π each
    tensor([-1.8379, -1.8379, -1.8379])
    >>> q.rsample((5,)).shape
    torch.Size([5, 3, 2])
    """

    def __init__(self, mu: Tensor, log_sigma: Tensor) -> None:
        for name, value in (("mu", mu), ("log_sigma", log_sigma)):
            if not value.is_floating_point():
                raise TypeError(
                    f"{name} needs a floating-point tensor, got {value.dtype}; call .double() on it first"
                )
        if mu.dtype != log_sigma.dtype:
            raise TypeError(f"mu and log_sigma need one type, got {mu.dtype} and {log_sigma.dtype}")
        if mu.ndim == 0:
            raise ValueError(
                "mu needs at least one axis, of length m, got a scalar; call .reshape(1) on it first"
            )
        try:
            self.mu, self.log_sigma = torch.broadcast_tensors(mu, log_sigma)
        except RuntimeError:
            raise ValueError(
                f"log_sigma needs a shape that broadcasts against mu's {tuple(mu.shape)}, "
                f"got {tuple(log_sigma.shape)}"
            ) from None

    @property
    def mean(self) -> Tensor:
        """The mean μ, shape ``(..., m)``, under the name that ``torch.distributions`` uses."""
        return self.mu

    @property
    def sigma(self) -> Tensor:
        """The standard deviations σ = exp(log σ), shape ``(..., m)``."""
        return self.log_sigma.exp()

    def rsample(self, sample_shape: Sequence[int] = (), generator: Generator | None = None) -> Tensor:
        r"""Draw z = μ + σ ⊙ ε with ε ~ N(0, I_m), so that gradients reach μ and log σ.

        Shapes: ``sample_shape + (..., m)``. The noise comes from ``generator`` if there is one, else from
        torch's global one; it lives on the device of ``mu``. Source: :eq:`eq-reparametrisation` of the book.

        >>> q = DiagonalGaussian(torch.tensor([1.0]), torch.tensor([-20.0]))
        >>> q.rsample((2,), torch.Generator().manual_seed(0))           # a needle at 1
        tensor([[1.],
                [1.]])
        """
        shape = (*sample_shape, *self.mu.shape)
        epsilon = torch.randn(shape, dtype=self.mu.dtype, device=self.mu.device, generator=generator)
        return self.mu + self.sigma * epsilon

    def log_prob(self, z: Tensor) -> Tensor:
        """The log density at z, in nats; shapes ``(..., m)`` to ``(...)``, broadcasting.

        >>> DiagonalGaussian(torch.zeros(1), torch.zeros(1)).log_prob(torch.tensor([[0.0], [1.0]]))
        tensor([-0.9189, -1.4189])
        """
        # Divide by sigma as exp(-log_sigma), before the square: the square of a huge σ alone would overflow.
        standardised = (z - self.mu) * (-self.log_sigma).exp()
        # The constant belongs once to each dimension, inside the sum: outside it would be counted m times.
        return (-0.5 * standardised.square() - self.log_sigma - 0.5 * LOG_2PI).sum(-1)  # (..., m) -> (...)

    def entropy(self) -> Tensor:
        r"""H = Σ_j log σ_j + (m/2)(1 + log 2π), in nats; shape ``(...)``. Negative for narrow densities.

        Source: :eq:`eq-gaussian-entropy` of the book.

        >>> DiagonalGaussian(torch.zeros(1), torch.zeros(1)).entropy()
        tensor(1.4189)
        """
        return (self.log_sigma + 0.5 * (1 + LOG_2PI)).sum(-1)  # (..., m) -> (...)
