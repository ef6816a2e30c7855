"""Gaussians built from the mean μ and the *logarithm* of the standard deviation: diagonal, and full.

The networks of the book emit log σ (:eq:`def-encoder`), so that is what these classes keep. Nothing here goes
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


class FullGaussian:
    r"""The density N(μ, Σ) on R^m with any covariance Σ = CCᵀ, by its Cholesky factor C = diag(σ) + T.

    .. math:: \log N(z \mid \mu, CC^\top) = -\tfrac12 \norm{C^{-1} (z - \mu)}^2
              - \sum_j \log \sigma_j - \tfrac m2 \log 2\pi

    Args:
        mu: means μ, shape ``(..., m)``.
        log_sigma: logarithm of the diagonal of C, same shape. With T = 0 these are the standard deviations.
        below: T, shape ``(..., m, m)``; only what lies strictly below the diagonal counts.

    Three free tensors, no constraint: every choice is a covariance, and every covariance is one choice.
    Densities and entropies are in nats, as those of :class:`DiagonalGaussian`.

    Raises:
        ValueError: the shapes do not fit.
        TypeError: as :class:`DiagonalGaussian`.

    Source: :eq:`def-full-gaussian` of the book.

    >>> q = FullGaussian(torch.zeros(2), torch.zeros(2), torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    >>> q.covariance
    tensor([[ 1.,  3.],
            [ 3., 10.]])
    >>> q.log_prob(torch.zeros(2))                                      # det Σ = 1
    tensor(-1.8379)
    """

    def __init__(self, mu: Tensor, log_sigma: Tensor, below: Tensor) -> None:
        diagonal = DiagonalGaussian(mu, log_sigma)  # its checks are wanted here too
        self.mu, self.log_sigma = diagonal.mu, diagonal.log_sigma
        wanted = (*self.mu.shape, self.mu.shape[-1])
        if below.shape != wanted or below.dtype != mu.dtype:
            raise ValueError(
                f"below needs shape {wanted} and type {mu.dtype}, one m × m matrix for each row of mu, "
                f"got {tuple(below.shape)} and {below.dtype}"
            )
        self.below = below.tril(-1)

    @property
    def mean(self) -> Tensor:
        """The mean μ, shape ``(..., m)``."""
        return self.mu

    @property
    def cholesky(self) -> Tensor:
        """C, lower triangular with a positive diagonal, shape ``(..., m, m)``."""
        return self.below + self.log_sigma.exp().diag_embed()

    @property
    def covariance(self) -> Tensor:
        """Σ = CCᵀ, shape ``(..., m, m)``."""
        return self.cholesky @ self.cholesky.mT

    def rsample(self, sample_shape: Sequence[int] = (), generator: Generator | None = None) -> Tensor:
        """Draw z = μ + Cε with ε ~ N(0, I_m); shapes and noise as :meth:`DiagonalGaussian.rsample`."""
        shape = (*sample_shape, *self.mu.shape)
        epsilon = torch.randn(shape, dtype=self.mu.dtype, device=self.mu.device, generator=generator)
        return self.mu + (self.cholesky @ epsilon.unsqueeze(-1)).squeeze(-1)  # (..., m, m) @ (..., m, 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log density at z, in nats; shapes ``(..., m)`` to ``(...)``, broadcasting."""
        distance = (z - self.mu).unsqueeze(-1)
        standardised = torch.linalg.solve_triangular(self.cholesky, distance, upper=False).squeeze(-1)
        return (-0.5 * standardised.square() - self.log_sigma - 0.5 * LOG_2PI).sum(-1)  # (..., m) -> (...)

    def entropy(self) -> Tensor:
        """H = Σ_j log σ_j + (m/2)(1 + log 2π), in nats; shape ``(...)``: T turns volume, and keeps it."""
        return (self.log_sigma + 0.5 * (1 + LOG_2PI)).sum(-1)  # (..., m) -> (...)
