"""The log-likelihood of a trained model on held-out data, estimated by importance weighting."""

import math

import torch
from torch import Generator, Tensor

from vaebook.faster import compiled
from vaebook.models import VAE, in_mode
from vaebook.objectives import check_samples, log_weights

# Images decoded at once: 1024 of 784 pixels are 3 MB in float32, so that intermediate results fit the cache.
AT_ONCE = {"cpu": 2**10, "cuda": 2**17}
BATCH = 32  # few examples with many draws each, because each chunk of draws encodes its examples again


@torch.no_grad()
def log_likelihood(
    model: VAE, x: Tensor, n_samples: int = 5000, generator: Generator | None = None, compile: bool = False
) -> Tensor:
    r"""log p_θ(x) ≈ log (1/K) Σ_k w_k for each example, in nats, shape ``(B,)``.

    .. math:: w_k = \frac{p_\theta(x \mid z_k) \, \pi(z_k)}{q_\phi(z_k \mid x)}, \qquad z_k \sim q_\phi(z|x)

    The same quantity as :func:`vaebook.objectives.importance_weighted_bound`, but its memory does not grow
    with K or with the number of examples. On average it lies below log p_θ(x), and it converges as K grows.

    Args:
        model: any VAE. It computes in evaluation mode, is not changed, and no gradients are recorded.
        x: data, shape ``(B, d)``.
        n_samples: K ≥ 1.
        generator: the source of the noise, on x's device; None stands for torch's global one.
        compile: whether to compile the weights, see :func:`vaebook.faster.compiled`, which pays in long runs.

    Raises:
        ValueError: ``n_samples`` is less than 1, or x does not have d features.
        RuntimeError: the weights cannot be compiled.

    Source: :eq:`eq-importance-bound` of the book; Burda, Grosse and Salakhutdinov 2016.

    >>> from vaebook.models import mlp_vae
    >>> log_likelihood(mlp_vae(64, 2), torch.zeros(7, 64), n_samples=100).shape
    torch.Size([7])
    """
    check_samples(n_samples)
    weights = compiled(log_weights) if compile else log_weights
    log_p = x.new_full(x.shape[:1], -math.inf)  # all results are summed up in their place
    with in_mode(model, False):
        for part, batch in zip(log_p.split(BATCH), x.split(BATCH), strict=True):
            if compile:  # compiled weights check no data
                log_weights(model, batch, 1, Generator(x.device))
            chunk = max(1, AT_ONCE.get(x.device.type, AT_ONCE["cpu"]) // len(batch))
            for start in range(0, n_samples, chunk):
                log_w = weights(model, batch, min(chunk, n_samples - start), generator)  # (chunk, B)
                torch.logaddexp(part, log_w.logsumexp(0), out=part)
    return log_p.sub_(math.log(n_samples))
