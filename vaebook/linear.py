"""The model with a linear decoder, in closed form: probabilistic principal component analysis.

What a VAE can only bound or sample has a closed form here. It uses the m × m matrix M and inverts no d × d one.
"""

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vaebook.gaussians import LOG_2PI, DiagonalGaussian


class LinearGaussian:
    r"""The model z ~ N(0, I_m), x | z ~ N(Wz + b, σ_dec² I_d), with its exact posterior, evidence and bound.

    Args:
        W: shape ``(d, m)``; the image gains z_j times column j.
        b: the mean, shape ``(d,)``.
        sigma_dec: σ_dec > 0, a number or a tensor of shape ``()``. All three may require gradients.

    Raises:
        ValueError: the shapes do not fit, or ``sigma_dec`` is not above 0.

    Source: :eq:`eq-evidence-linear` of the book; Tipping and Bishop 1999.

    >>> model = LinearGaussian(torch.tensor([[2.0], [0.0]]), torch.zeros(2), sigma_dec=1.0)
    >>> x = torch.tensor([[5.0, 0.0]])
    >>> model.log_prob(x)                                   # N(0, diag(5, 1)) at (5, 0)
    tensor([-5.1426])
    >>> model.posterior(x).mean, model.posterior(x).variance
    (tensor([[2.]]), tensor([[0.2000]]))
    """

    def __init__(self, W: Tensor, b: Tensor, sigma_dec: float | Tensor) -> None:
        if W.ndim != 2:
            raise ValueError(f"W needs shape (d, m), got {tuple(W.shape)}")
        if b.shape != W.shape[:1]:
            raise ValueError(f"b needs shape ({len(W)},), one entry for each row of W, got {tuple(b.shape)}")
        self.W, self.b = W, b
        self.sigma_dec = torch.as_tensor(sigma_dec, dtype=W.dtype, device=W.device)
        if not self.sigma_dec > 0:
            raise ValueError(f"sigma_dec needs to be above 0, got {self.sigma_dec.item()}")
        self.d, self.m = W.shape

    @property
    def M(self) -> Tensor:
        """M = WᵀW + σ_dec² I_m, which is σ_dec² times the posterior's precision; shape ``(m, m)``."""
        return self.W.T @ self.W + self.sigma_dec.square() * torch.eye(self.m).to(self.W)

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """The exact p(z|x) for x ``(B, d)``; its mean is ``(B, m)``. Source: :eq:`eq-posterior-linear`."""
        mean = torch.cholesky_solve(self.W.T @ self._centred(x).T, torch.linalg.cholesky(self.M)).T
        return MultivariateNormal(mean, precision_matrix=self.M / self.sigma_dec.square())

    def log_prob(self, x: Tensor) -> Tensor:
        r"""The exact log p(x), in nats; shapes ``(B, d)`` to ``(B,)``.

        .. math:: -\tfrac12 \Big[ \norm{x - b - Wc}^2 / \sdec^2 + \norm{c}^2 + \log\det M
                  + (d - m) \log \sdec^2 + d \log 2\pi \Big] \quad\text{with } c = \E[z \mid x]

        Source: :eq:`eq-linear-evidence` of the book.
        """
        factor = torch.linalg.cholesky(self.M)
        r = self._centred(x)
        c = torch.cholesky_solve(self.W.T @ r.T, factor).T  # (B, m)
        # A sum. The difference ‖r‖² − rᵀW M⁻¹Wᵀr would lose digits for x near the plane, if σ_dec is small.
        squares = (r - c @ self.W.T).square().sum(-1) / self.sigma_dec.square() + c.square().sum(-1)
        log_det = 2 * factor.diagonal().log().sum() + 2 * (self.d - self.m) * self.sigma_dec.log()
        return -0.5 * (squares + log_det + self.d * LOG_2PI)

    def elbo(self, x: Tensor, q: DiagonalGaussian) -> Tensor:
        r"""The bound ℒ in closed form for any diagonal q, in nats; ``(B, d)`` and ``(B, m)`` to ``(B,)``.

        The expected squared error is ‖x − b − Wμ‖² + Σ_j σ_j² ‖w_j‖², by :eq:`eq-reconstruction-linear`.
        """
        variance = (2 * q.log_sigma).exp()
        spread = (variance * self.W.square().sum(0)).sum(-1)
        squares = (self._centred(x) - q.mu @ self.W.T).square().sum(-1) + spread
        log_decoder = -0.5 * squares / self.sigma_dec.square() - self.d * (self.sigma_dec.log() + LOG_2PI / 2)
        log_prior = -0.5 * (q.mu.square() + variance + LOG_2PI).sum(-1)
        return log_decoder + log_prior + q.entropy()

    def best_diagonal(self, x: Tensor) -> DiagonalGaussian:
        """The diagonal q with the largest bound: its mean is the posterior's, and 1 / σ_j² is the diagonal of
        the posterior's precision. If W has orthogonal columns, this bound equals the evidence.

        Source: :eq:`eq-elbo-diagonal-gap` of the book.

        >>> x, model = torch.ones(1, 3), LinearGaussian(torch.eye(3)[:, :2], torch.zeros(3), sigma_dec=1.0)
        >>> torch.allclose(model.elbo(x, model.best_diagonal(x)), model.log_prob(x))
        True
        """
        return DiagonalGaussian(self.posterior(x).mean, self.sigma_dec.log() - 0.5 * self.M.diagonal().log())

    def _centred(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.d:
            raise ValueError(f"x needs shape (B, {self.d}), got {tuple(x.shape)}")
        return x - self.b


def fit_ppca(x: Tensor, m: int, sigma_dec: float | None = None) -> LinearGaussian:
    r"""The maximum-likelihood linear model for data x ``(N, d)``: principal axes with reduced lengths.

    .. math:: w_j = \sqrt{\max(\lambda_j - \sdec^2, 0)}\; u_j, \qquad
              \sdec^2 = \frac{1}{d - m} \sum_{j > m} \lambda_j

    with eigenvalues λ_1 ≥ λ_2 ≥ … and eigenvectors u_j of the covariance; b is the mean. If ``sigma_dec`` is
    given, it is used instead of the estimate.

    Raises:
        ValueError: m is not in 1 … d − 1, or the data lie in an m-dimensional plane, where σ_dec would be 0.

    Source: :eq:`eq-linear-solution` of the book; Tipping and Bishop 1999.

    >>> x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])    # variances 4.5 and 0.5
    >>> model = fit_ppca(x, 1)
    >>> model.W.flatten(), model.sigma_dec.square()
    (tensor([2., 0.]), tensor(0.5000))
    """
    if x.ndim != 2 or not 1 <= m < x.shape[1]:
        raise ValueError(f"x needs shape (N, d) and m needs 1 <= m < d, got {tuple(x.shape)} and m = {m}")
    values, axes = torch.linalg.eigh(x.T.cov(correction=0))  # smallest first
    values, axes = values.flip(0).clamp(min=0), axes.flip(1)[:, :m]
    noise = values[m:].mean() if sigma_dec is None else torch.as_tensor(sigma_dec, dtype=x.dtype).square()
    if not noise > 1e-12 * values[0]:
        raise ValueError(f"x needs variance beyond its first m = {m} axes; lower m, or give sigma_dec")
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))  # (1, m); made positive: signs are arbitrary
    W = axes * largest.sign() * (values[:m] - noise).clamp(min=0).sqrt()
    return LinearGaussian(W, x.mean(0), noise.sqrt())
