"""The density of black-and-white pixels: a product of Bernoullis, from logits."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class BernoulliPixels:
    r"""Π_i Bernoulli(x_i | sigmoid(l_i)) for x ∈ {0, 1}^d, for a whole batch of logits l at once.

    .. math:: \log p(x) = \sum_i \big( x_i l_i - \log(1 + e^{l_i}) \big)
                        = \sum_i \log \operatorname{sigmoid} \big( (2 x_i - 1) l_i \big)

    Args:
        logits: l, shape ``(..., d)``.

    log sigmoid(l) = min(l, 0) − log(1 + e^−|l|) is one function, accurate for every l, in one pass over the pixels.

    Source: Kingma and Welling 2014, appendix C.1.

    >>> p = BernoulliPixels(torch.zeros(5, 7, 64))
    >>> p.log_prob(torch.ones(7, 64)).shape
    torch.Size([5, 7])
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @property
    def mean(self) -> Tensor:
        """The probabilities that a pixel is 1, sigmoid(l), shape ``(..., d)``."""
        return torch.sigmoid(self.logits)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, summed over pixels; shapes ``(..., d)`` to ``(...)``, broadcasting.

        Raises:
            ValueError: a pixel is neither 0 nor 1. The formula's value for a grey pixel is not a log-probability.

        >>> BernoulliPixels(torch.zeros(64)).log_prob(torch.ones(64))          # −64 log 2
        tensor(-44.3614)
        """
        # x − x² is 0 only for x = 0 and x = 1.
        if not torch.compiler.is_compiling() and torch.addcmul(x, x, x, value=-1).count_nonzero() > 0:
            remedy = "use vaebook.data.binarise, or a GaussianDecoder for grey pixels"
            raise ValueError(f"x needs pixels that are 0 or 1, got values from {x.min()} to {x.max()}; {remedy}")
        return logsigmoid((2 * x - 1) * self.logits).sum(-1)  # (..., d) -> (...)
