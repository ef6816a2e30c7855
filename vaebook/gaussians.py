"""Gaussians with diagonal or full covariance, built from the mean μ and the *logarithm* of σ.

The book's networks emit log σ, as :eq:`def-encoder` says, and these classes store it. They never compute
log(exp(log σ)), which would lose digits for small and large σ.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

LOG_2PI = math.log(2 * math.pi)


class DiagonalGaussian:
    r"""The density N(μ, diag σ²) on R^m, for a batch of means and standard deviations.

    .. math:: \log N(z \mid \mu, \operatorname{diag} \sigma^2)
              = -\tfrac12 \sum_j \Big(\frac{z_j - \mu_j}{\sigma_j}\Big)^2
              - \sum_j \log \sigma_j - \tfrac m2 \log 2\pi

    Args:
        mu: means μ, shape ``(..., m)``.
        log_sigma: log σ, any shape that broadcasts against ``mu``; a scalar tensor is one width for all.

    Values and gradients are finite for log σ from −40 to 40 in float64 and from −20 to 20 in float32.
    Log densities and entropies are in nats and summed over the last axis: one number for each row.

    Raises:
        ValueError: the shapes do not broadcast, or ``mu`` is a scalar.
        TypeError: a tensor does not have a floating-point type, or the two types differ.

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
                raise TypeError(f"{name} needs a floating-point tensor, got {value.dtype}; call .double() on it first")
        if mu.dtype != log_sigma.dtype:
            raise TypeError(f"mu and log_sigma need the same type, got {mu.dtype} and {log_sigma.dtype}; convert one")
        if mu.ndim == 0:
            raise ValueError("mu needs at least one axis, of length m, got a scalar; call .reshape(1) on it first")
        try:
            if mu.shape != log_sigma.shape:  # an encoder's are alike, and views would cost each step time
                mu, log_sigma = torch.broadcast_tensors(mu, log_sigma)
        except RuntimeError:
            got = f"got {tuple(log_sigma.shape)}; give it mu's shape, or one value for all"
            raise ValueError(f"log_sigma needs to broadcast against mu's shape {tuple(mu.shape)}, {got}") from None
        self.mu, self.log_sigma, self.mean = mu, log_sigma, mu  # "mean" is the name in torch.distributions

    @property
    def sigma(self) -> Tensor:
        """The standard deviations σ = exp(log σ), shape ``(..., m)``."""
        return self.log_sigma.exp()

    def rsample(self, sample_shape: Sequence[int] = (), generator: Generator | None = None) -> Tensor:
        r"""Draw z = μ + σ ⊙ ε with ε ~ N(0, I_m), differentiable in μ and log σ.

        Shape: ``sample_shape + (..., m)``. The noise comes from ``generator``, which must be on the device of
        ``mu``; None stands for torch's global one. Source: :eq:`eq-reparametrisation` of the book.

        >>> q = DiagonalGaussian(torch.tensor([1.0]), torch.tensor([-20.0]))
        >>> q.rsample((2,), torch.Generator().manual_seed(0))           # σ = 2e-9: all draws are near 1
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
        # Multiply by exp(-log_sigma) before squaring: the square of a huge σ would overflow.
        standardised = (z - self.mu) * (-self.log_sigma).exp()
        # The constant is added once for each dimension, so it stands inside the sum over m.
        return (-0.5 * standardised.square() - self.log_sigma - 0.5 * LOG_2PI).sum(-1)  # (..., m) -> (...)

    def entropy(self) -> Tensor:
        r"""H = Σ_j log σ_j + (m/2)(1 + log 2π), in nats; shape ``(...)``. It is negative for small σ.

        Source: :eq:`eq-gaussian-entropy` of the book.

        >>> DiagonalGaussian(torch.zeros(1), torch.zeros(1)).entropy()
        tensor(1.4189)
        """
        return (self.log_sigma + 0.5 * (1 + LOG_2PI)).sum(-1)  # (..., m) -> (...)


class FullGaussian:
    r"""The density N(μ, Σ) on R^m with any covariance Σ = CCᵀ and its Cholesky factor C = diag(σ) + T.

    .. math:: \log N(z \mid \mu, CC^\top) = -\tfrac12 \norm{C^{-1} (z - \mu)}^2
              - \sum_j \log \sigma_j - \tfrac m2 \log 2\pi

    Args:
        mu: means μ, shape ``(..., m)``.
        log_sigma: log σ, where σ is C's diagonal, shape ``(..., m)``. If T = 0, σ is the standard deviation.
        below: T, shape ``(..., m, m)``; only the entries strictly below the diagonal are used.

    The tensors are unconstrained, and each covariance has exactly one choice. Units as in :class:`DiagonalGaussian`.

    Raises:
        ValueError: the shapes do not fit, or the type of ``below`` is not that of ``mu``.
        TypeError: as for :class:`DiagonalGaussian`.

    Source: :eq:`def-full-gaussian` of the book.

    >>> q = FullGaussian(torch.zeros(2), torch.zeros(2), torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    >>> q.covariance
    tensor([[ 1.,  3.],
            [ 3., 10.]])
    >>> q.log_prob(torch.zeros(2))                                      # det Σ = 1
    tensor(-1.8379)
    """

    def __init__(self, mu: Tensor, log_sigma: Tensor, below: Tensor) -> None:
        diagonal = DiagonalGaussian(mu, log_sigma)  # checks mu and log_sigma
        self.mu, self.log_sigma, self.mean = diagonal.mu, diagonal.log_sigma, diagonal.mu
        wanted = (*self.mu.shape, self.mu.shape[-1])
        if below.shape != wanted or below.dtype != mu.dtype:
            got = f"got {tuple(below.shape)} and {below.dtype}; pass one m × m matrix for each row of mu"
            raise ValueError(f"below needs shape {wanted} and type {mu.dtype}, {got}")
        self.below = below.tril(-1)

    @property
    def cholesky(self) -> Tensor:
        """C, lower triangular with a positive diagonal, shape ``(..., m, m)``."""
        return self.below + self.log_sigma.exp().diag_embed()

    @property
    def covariance(self) -> Tensor:
        """Σ = CCᵀ, shape ``(..., m, m)``."""
        return self.cholesky @ self.cholesky.mT

    def rsample(self, sample_shape: Sequence[int] = (), generator: Generator | None = None) -> Tensor:
        """Draw z = μ + Cε with ε ~ N(0, I_m); shape and noise as in :meth:`DiagonalGaussian.rsample`."""
        shape = (*sample_shape, *self.mu.shape)
        epsilon = torch.randn(shape, dtype=self.mu.dtype, device=self.mu.device, generator=generator)
        return self.mu + (self.cholesky @ epsilon.unsqueeze(-1)).squeeze(-1)  # (..., m, m) @ (..., m, 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log density at z, in nats; shapes ``(..., m)`` to ``(...)``, broadcasting."""
        distance = (z - self.mu).unsqueeze(-1)
        standardised = torch.linalg.solve_triangular(self.cholesky, distance, upper=False).squeeze(-1)
        return (-0.5 * standardised.square() - self.log_sigma - 0.5 * LOG_2PI).sum(-1)  # (..., m) -> (...)

    def entropy(self) -> Tensor:
        """H = Σ_j log σ_j + (m/2)(1 + log 2π), in nats; shape ``(...)``. It does not depend on T."""
        return (self.log_sigma + 0.5 * (1 + LOG_2PI)).sum(-1)  # (..., m) -> (...)
