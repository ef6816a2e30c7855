"""The bound ℒ and the practical loss J, one number for each example; the caller averages.

ℒ bounds a log-likelihood and is maximised; J is a loss and is minimised. They are related by
J = −2 σ_dec² ℒ + constant (:func:`elbo_from_loss`).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from vaebook.data import binarise
from vaebook.divergences import kl_to_prior
from vaebook.gaussians import DiagonalGaussian
from vaebook.models import VAE, AutoEncoder, GaussianDecoder


def elbo(model: VAE, x: Tensor, n_samples: int = 1, generator: Generator | None = None) -> Tensor:
    r"""The evidence lower bound ℒ(θ, φ | x), estimated with L samples of z, in nats for each example, shape ``(B,)``.

    .. math:: \mathcal L = \frac1L \sum_l \log p_\theta(x \mid z_l) - D_{\mathrm{KL}}(q_\phi(z|x) \| \pi),
              \qquad z_l \sim q_\phi(z|x)

    The KL is computed in closed form; only the first term is sampled. The estimate is unbiased for any L ≥ 1.

    Args:
        x: data, shape ``(B, d)``.
        n_samples: L ≥ 1.
        generator: the source of the noise, on x's device; None stands for torch's global one.

    Raises:
        ValueError: ``n_samples`` is less than 1, or x does not have d features.

    Source: :eq:`eq-elbo-reconstruction` and :eq:`eq-reconstruction-monte-carlo` of the book.

    >>> from vaebook.models import mlp_vae
    >>> elbo(mlp_vae(64, 2), torch.zeros(7, 64), n_samples=5).shape
    torch.Size([7])
    """
    q = model.encode(x)
    z = q.rsample((check_samples(n_samples),), generator)  # (L, B, m)
    log_likelihood = log_p(model, x, z).mean(0)  # (L, B) -> (B,)
    return log_likelihood - kl_to_prior(q)


def log_weights(model: VAE, x: Tensor, n_samples: int = 1, generator: Generator | None = None) -> Tensor:
    r"""Logarithms of K importance weights for each example, in nats, shape ``(K, B)``.

    .. math:: \log w_k = \log p_\theta(x \mid z_k) + \log \pi(z_k) - \log q_\phi(z_k \mid x),
              \qquad z_k \sim q_\phi(z|x)

    The mean of the w_k has the expectation p_θ(x); the mean of the log w_k has the expectation ℒ.

    Arguments and errors as in :func:`elbo`. Source: :eq:`def-importance-weight` of the book.

    >>> from vaebook.models import mlp_vae
    >>> log_weights(mlp_vae(64, 2), torch.zeros(7, 64), n_samples=5).shape
    torch.Size([5, 7])
    """
    q = model.encode(x)
    z = q.rsample((check_samples(n_samples),), generator)  # (K, B, m)
    return log_p(model, x, z) + model.prior().log_prob(z) - q.log_prob(z)


def importance_weighted_bound(model: VAE, x: Tensor, n_samples: int = 1, generator: Generator | None = None) -> Tensor:
    r"""A single estimate of the importance-weighted bound ℒ_K, in nats for each example, shape ``(B,)``.

    .. math:: \mathcal L_K = \E \Big[ \log \frac1K \sum_{k=1}^K w_k \Big], \qquad
              \mathcal L = \mathcal L_1 \le \mathcal L_2 \le \dots \le \log p_\theta(x)

    ``n_samples`` is K. Each K gives a different bound, while more samples in :func:`elbo` give a better
    estimate of the same bound. Errors as in :func:`elbo`.

    Source: :eq:`eq-importance-bound` of the book; Burda, Grosse and Salakhutdinov 2016.

    >>> from vaebook.models import mlp_vae
    >>> importance_weighted_bound(mlp_vae(64, 2), torch.zeros(7, 64), n_samples=5).shape
    torch.Size([7])
    """
    return log_mean(log_weights(model, x, n_samples, generator))


def log_p(model: VAE, x: Tensor, z: Tensor) -> Tensor:
    """log p_θ(x|z) in nats, one number for each z."""
    log_likelihood = model.decode(z).log_prob(x)
    if log_likelihood.shape != z.shape[:-1]:
        got = f"got {tuple(log_likelihood.shape)}; sum over pixels, as torch.distributions.Independent(p, 1) does"
        raise ValueError(f"the decoder's log_prob needs one number for each image, {tuple(z.shape[:-1])}, {got}")
    return log_likelihood


def log_mean(log_w: Tensor) -> Tensor:
    """log (1/K) Σ_k w_k from log w, without overflow; shapes ``(K, B)`` to ``(B,)``."""
    return log_w.logsumexp(0) - math.log(len(log_w))


class Loss(NamedTuple):
    """The two terms of a loss and the bound, for each example; all have shape ``(B,)``.

    Training minimises ``reconstruction + kl``, J for :func:`practical_loss`. ``elbo`` is in nats, NaN if there is none.
    """

    reconstruction: Tensor
    kl: Tensor
    elbo: Tensor


#: A function of (model, x, n_samples, generator) that :func:`vaebook.training.train` minimises.
LossFunction = Callable[[Any, Tensor, int, Generator | None], Loss]


def practical_loss(model: VAE, x: Tensor, n_samples: int = 1, generator: Generator | None = None) -> Loss:
    r"""The loss J of a VAE with a Gaussian decoder, in the unit of x squared.

    .. math:: J_{\mathrm{recon}} &= \frac1L \sum_l \|x - f_\theta(z_l)\|^2 \\
              J_{\mathrm{KL}} &= \sigma_{\mathrm{dec}}^2
              \big(\|\mu\|^2 + \|\sigma\|^2 - 2 \cdot 1^\top \log \sigma\big)

    Shapes and arguments as in :func:`elbo`. The minimum of J_KL is m σ_dec², at μ = 0 and σ = 1.

    Raises:
        TypeError: the decoder is not Gaussian, or q has a full covariance; use :func:`negative_elbo`.
        ValueError: as in :func:`elbo`.

    Source: :eq:`def-loss` of the book.

    >>> from vaebook.models import mlp_vae
    >>> J = practical_loss(mlp_vae(64, 2), torch.zeros(7, 64))
    >>> (J.reconstruction + J.kl).mean().backward()
    """
    if not isinstance(model.decoder, GaussianDecoder):
        raise TypeError(f"model needs a GaussianDecoder for J, got {type(model.decoder).__name__}; use negative_elbo")
    q = model.encode(x)
    if not isinstance(q, DiagonalGaussian):
        raise TypeError(f"model needs a diagonal q for J, got {type(q).__name__}; use negative_elbo")
    z = q.rsample((check_samples(n_samples),), generator)  # (L, B, m)
    # A sum over pixels: a mean would make the KL d times too heavy.
    reconstruction = (x - model.decode(z).mean).square().sum(-1).mean(0)  # (L, B, d) -> (B,)
    sigma_dec = model.decoder.sigma_dec
    kl = sigma_dec**2 * (q.mu.square() + (2 * q.log_sigma).exp() - 2 * q.log_sigma).sum(-1)
    bound = elbo_from_loss(reconstruction + kl, sigma_dec, model.d, model.latent_dim)
    return Loss(reconstruction, kl, bound)


def negative_elbo(model: VAE, x: Tensor, n_samples: int = 1, generator: Generator | None = None) -> Loss:
    """−ℒ = −(1/L) Σ_l log p_θ(x|z_l) + D_KL(q‖π) as a loss, in nats, for any decoder.

    Shapes, arguments and errors as in :func:`elbo`. Source: :eq:`eq-elbo-reconstruction` of the book.

    >>> from vaebook.models import mlp_vae
    >>> terms = negative_elbo(mlp_vae(64, 2), torch.zeros(7, 64))
    >>> torch.equal(terms.elbo, -(terms.reconstruction + terms.kl))
    True
    """
    q = model.encode(x)
    z = q.rsample((check_samples(n_samples),), generator)  # (L, B, m)
    reconstruction = -log_p(model, x, z).mean(0)  # (L, B) -> (B,)
    kl = kl_to_prior(q)
    return Loss(reconstruction, kl, -(reconstruction + kl))


def negative_importance_bound(model: VAE, x: Tensor, n_samples: int = 1, generator: Generator | None = None) -> Loss:
    r"""−ℒ_K = −log (1/K) Σ_k w_k in nats, the loss of an importance-weighted auto-encoder (IWAE).

    ``n_samples`` is K. ``reconstruction`` is −(1/K) Σ_k log p_θ(x|z_k), as in :func:`negative_elbo`, and
    ``kl`` is the rest of −ℒ_K. For K > 1 this rest is less than the KL.

    Shapes and errors as in :func:`importance_weighted_bound`. Source: :eq:`eq-importance-bound` of the book.

    >>> from vaebook.models import mlp_vae
    >>> terms = negative_importance_bound(mlp_vae(64, 2).double(), torch.zeros(7, 64).double(), n_samples=5)
    >>> torch.allclose(terms.elbo, -(terms.reconstruction + terms.kl))
    True
    """
    q = model.encode(x)
    z = q.rsample((check_samples(n_samples),), generator)  # (K, B, m)
    log_likelihood = log_p(model, x, z)  # (K, B)
    bound = log_mean(log_likelihood + model.prior().log_prob(z) - q.log_prob(z))
    reconstruction = -log_likelihood.mean(0)
    return Loss(reconstruction, -bound - reconstruction, bound)


def binarised(loss: LossFunction) -> LossFunction:
    """The same loss on black-and-white pixels b ~ Bernoulli(x), drawn again at each call.

    The draws use the same generator as the loss. Source: Salakhutdinov and Murray 2008.

    >>> from vaebook.models import mlp_vae
    >>> loss, grey = binarised(negative_elbo), torch.full((7, 64), 0.5)
    >>> loss(mlp_vae(64, 2), grey, 1, Generator().manual_seed(0)).elbo.shape
    torch.Size([7])
    """
    return partial(on_draws, loss)


def on_draws(loss: LossFunction, model: Any, x: Tensor, n_samples: int = 1, generator: Generator | None = None) -> Loss:
    return loss(model, binarise(x, generator), n_samples, generator)


def reconstruction_loss(model: AutoEncoder, x: Tensor, n_samples: int = 1, generator: Generator | None = None) -> Loss:
    """‖x − f(e(x))‖², the loss of a classical auto-encoder, in the unit of x squared.

    ``n_samples`` and ``generator`` are ignored; they make this a :data:`LossFunction`.

    Source: :eq:`def-autoencoder` of the book.

    >>> reconstruction_loss(AutoEncoder(64, 2), torch.zeros(7, 64)).kl
    tensor([0., 0., 0., 0., 0., 0., 0.])
    """
    reconstruction = (x - model.decode(model.encode(x))).square().sum(-1)  # (B, d) -> (B,)
    return Loss(reconstruction, torch.zeros_like(reconstruction), torch.full_like(reconstruction, math.nan))


def elbo_from_loss(loss: Tensor, sigma_dec: float, d: int, latent_dim: int) -> Tensor:
    r"""ℒ in nats from J, by their exact relation.

    .. math:: J = -2 \sigma_{\mathrm{dec}}^2 \mathcal L
              + \sigma_{\mathrm{dec}}^2 \big(m - d \log(2 \pi \sigma_{\mathrm{dec}}^2)\big)

    Args:
        loss: J, any shape.
        sigma_dec, d, latent_dim: σ_dec, d and m of the model.

    Source: :eq:`eq-loss-elbo` of the book.

    >>> elbo_from_loss(torch.tensor(2.0), sigma_dec=1.0, d=64, latent_dim=2)     # −32 log 2π
    tensor(-58.8121)
    """
    variance = sigma_dec**2
    constant = variance * (latent_dim - d * math.log(2 * math.pi * variance))
    return (constant - loss) / (2 * variance)


def check_samples(n_samples: int) -> int:
    """Return L, or raise ``ValueError`` if it is less than 1."""
    if n_samples < 1:
        raise ValueError(f"n_samples needs to be at least 1 (the L of the book), got {n_samples}")
    return n_samples
