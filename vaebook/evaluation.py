"""The log-likelihood of a trained model on held-out data, estimated by importance weighting."""

import math

import torch
from torch import Generator, Tensor

from vaebook.models import VAE, in_mode
from vaebook.objectives import check_samples, log_weights

# Images decoded at once: 1024 of 784 pixels are 3 MB in float32, so that intermediate results fit the cache.
AT_ONCE = {"cpu": 2**10, "cuda": 2**17}
BATCH = 32  # few examples with many draws each, because each chunk of draws encodes its examples again


@torch.no_grad()
def log_likelihood(model: VAE, x: Tensor, n_samples: int = 5000, generator: Generator | None = None) -> Tensor:
    r"""log p_θ(x) ≈ log (1/K) Σ_k w_k for each example, in nats, shape ``(B,)``.

    .. math:: w_k = \frac{p_\theta(x \mid z_k) \, \pi(z_k)}{q_\phi(z_k \mid x)}, \qquad z_k \sim q_\phi(z|x)

    The same quantity as :func:`vaebook.objectives.importance_weighted_bound`, but its memory does not grow
    with K or with the number of examples. On average it lies below log p_θ(x), and it converges as K grows.

    Args:
        model: any VAE. It computes in evaluation mode, is not changed, and no gradients are recorded.
        x: data, shape ``(B, d)``.
        n_samples: K ≥ 1.
        generator: the source of the noise, on x's device; None stands for torch's global one.

    Raises:
        ValueError: ``n_samples`` is less than 1, or x does not have d features.

    Source: :eq:`eq-importance-bound` of the book; Burda, Grosse and Salakhutdinov 2016.

    >>> from vaebook.models import mlp_vae
    >>> log_likelihood(mlp_vae(64, 2), torch.zeros(7, 64), n_samples=100).shape
    torch.Size([7])
    """
    check_samples(n_samples)
    with in_mode(model, False):
        log_p = x.new_empty(len(x))  # one place for all results: pieces of memory here and there would cut it up
        for part, batch in zip(log_p.split(BATCH), x.split(BATCH), strict=True):
            part.copy_(running_logsumexp(model, batch, n_samples, generator))
        return log_p


def running_logsumexp(model: VAE, x: Tensor, n_samples: int, generator: Generator | None) -> Tensor:
    """log (1/K) Σ_k w_k for one batch, computed in chunks of the K draws."""
    total = x.new_full(x.shape[:1], -math.inf)
    chunk = max(1, AT_ONCE.get(x.device.type, AT_ONCE["cpu"]) // len(x))
    for start in range(0, n_samples, chunk):
        part = log_weights(model, x, min(chunk, n_samples - start), generator)  # (chunk, B)
        torch.logaddexp(total, part.logsumexp(0), out=total)
    return total - math.log(n_samples)
