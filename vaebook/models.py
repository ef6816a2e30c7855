"""The model of the book: an encoder q_φ(z|x), a decoder p_θ(x|z), and the VAE made of both.

Encoder and decoder return distributions, not tuples. A new decoder is a module whose ``forward(z)`` returns
an object with ``log_prob(x)`` (summed over the d pixels, in nats) and ``mean``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from vaebook.bernoulli import BernoulliPixels
from vaebook.gaussians import DiagonalGaussian, FullGaussian


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights with ``seed``; torch's global generators, on the CPU and on GPUs, are restored afterwards.

    >>> with seeded(0):
    ...     first = nn.Linear(2, 2).weight
    >>> with seeded(0):
    ...     second = nn.Linear(2, 2).weight
    >>> torch.equal(first, second)
    True
    """
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        # Not torch.manual_seed, which also sets the generators of GPUs that are not in use yet.
        for generator in (torch.default_generator, *(torch.cuda.default_generators[gpu] for gpu in gpus)):
            generator.manual_seed(seed)
        yield


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """All parts of a model in training or in evaluation mode; each is in its own mode again afterwards."""
    modes = [(part, part.training) for part in model.modules()]
    try:
        model.train(training)
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def mlp(*widths: int) -> nn.Sequential:
    """A multilayer perceptron with tanh between its layers: ``(..., widths[0])`` to ``(..., widths[-1])``.

    The tanh is smooth, so the decoder has a Jacobian everywhere.

    >>> mlp(64, 100, 4)(torch.zeros(7, 64)).shape
    torch.Size([7, 4])
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])  # no tanh on the output: μ, log σ and f are unbounded


class Encoder(nn.Module):
    """q_φ(z|x) = N(μ, diag σ²) with (μ, log σ) = NN_φ(x).

    Args:
        network: NN_φ, from ``(..., d)`` to ``(..., 2 m)``: first the m means μ, then the m values log σ.

    Source: :eq:`def-encoder` of the book (Kingma and Welling 2014, whose code emits log σ² instead).

    >>> q = Encoder(mlp(64, 100, 4))(torch.zeros(7, 64))
    >>> q.mu.shape, q.log_sigma.shape
    (torch.Size([7, 2]), torch.Size([7, 2]))
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> DiagonalGaussian:
        # Under autocast the network computes in half precision; densities and sums want the type of the data.
        mu, log_sigma = self.network(x).to(x.dtype).chunk(2, dim=-1)  # (..., 2m) -> (..., m) twice
        return DiagonalGaussian(mu, log_sigma)


class GaussianDecoder(nn.Module):
    """p_θ(x|z) = N(f_θ(z), σ_dec² I_d), with the same standard deviation σ_dec for all pixels.

    Args:
        network: f_θ, from ``(..., m)`` to ``(..., d)``.
        sigma_dec: σ_dec > 0, in the unit of x.

    Raises:
        ValueError: ``sigma_dec`` is not a positive, finite number.

    Source: :eq:`def-decoder` of the book.

    >>> p = GaussianDecoder(mlp(2, 100, 64), sigma_dec=0.2)(torch.zeros(7, 2))
    >>> p.log_prob(torch.zeros(64)).shape
    torch.Size([7])
    """

    log_sigma_dec: Tensor

    def __init__(self, network: nn.Module, sigma_dec: float) -> None:
        super().__init__()
        if not 0 < sigma_dec < float("inf"):
            raise ValueError(f"sigma_dec needs a positive number, got {sigma_dec}; for pixels in [0, 1] try 0.1 to 0.3")
        self.network = network
        # A buffer moves to the GPU and into checkpoints with the model, but optimisers do not see it.
        self.register_buffer("log_sigma_dec", torch.tensor(float(sigma_dec)).log())

    @property
    def sigma_dec(self) -> float:
        """The standard deviation σ_dec of one pixel around f_θ(z)."""
        return self.log_sigma_dec.exp().item()

    def forward(self, z: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(self.network(z).to(z.dtype), self.log_sigma_dec)

    def extra_repr(self) -> str:
        return f"sigma_dec={self.sigma_dec:.6g}"


class BernoulliDecoder(nn.Module):
    """p_θ(x|z) = Π_i Bernoulli(x_i | sigmoid(f_θ(z)_i)), for pixels that are 0 or 1.

    Binarise grey pixels first (``vaebook.data.binarise``), and train with ``objectives.negative_elbo``.

    Args:
        network: from ``(..., m)`` to ``(..., d)``: the logits.

    Source: Kingma and Welling 2014, appendix C.1.

    >>> with seeded(0):
    ...     model = VAE(Encoder(mlp(64, 100, 4)), BernoulliDecoder(mlp(2, 100, 64)), d=64, latent_dim=2)
    >>> model.decode(torch.zeros(7, 2)).log_prob(torch.ones(7, 64)).shape
    torch.Size([7])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> BernoulliPixels:
        return BernoulliPixels(self.network(z).to(z.dtype))


class VAE(nn.Module):
    """The variational auto-encoder: prior π = N(0, I_m), encoder q_φ(z|x), decoder p_θ(x|z).

    Args:
        encoder: maps x, ``(..., d)``, to a Gaussian over z, of :mod:`vaebook.gaussians`.
        decoder: maps z, ``(..., m)``, to a distribution over x.
        d, latent_dim: the dimensions of x and z; 1 ≤ latent_dim < d.

    Raises:
        ValueError: ``latent_dim`` is not between 1 and d − 1.

    Source: :eq:`def-prior`, :eq:`def-encoder`, :eq:`def-decoder` of the book.

    >>> model = mlp_vae(d=64, latent_dim=2)
    >>> x = torch.zeros(7, 64)
    >>> z = model.encode(x).rsample()
    >>> model.decode(z).mean.shape
    torch.Size([7, 64])
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, d: int, latent_dim: int) -> None:
        super().__init__()
        check_dimensions(d, latent_dim)
        self.encoder, self.decoder = encoder, decoder
        self.d, self.latent_dim = d, latent_dim

    def encode(self, x: Tensor) -> DiagonalGaussian | FullGaussian:
        """q_φ(z|x), one density for each row of x ``(..., d)``."""
        check_input(self, x)
        return self.encoder(x)

    def decode(self, z: Tensor) -> DiagonalGaussian | BernoulliPixels:
        """p_θ(x|z), one density for each row of z ``(..., m)``."""
        p: DiagonalGaussian | BernoulliPixels = self.decoder(z)
        check_width(p.logits if isinstance(p, BernoulliPixels) else p.mean, "the decoder's output", self.d)
        return p

    def prior(self) -> DiagonalGaussian:
        """π = N(0, I_m), with the device and the type of the weights."""
        zero = next(self.parameters()).new_zeros(self.latent_dim)
        return DiagonalGaussian(zero, zero)


class AutoEncoder(nn.Module):
    """The classical auto-encoder: z = e(x) and x ≈ f(z), both deterministic.

    It has the layers of :func:`mlp_vae`, except that the encoder emits m numbers instead of 2 m.

    Raises:
        ValueError: ``latent_dim`` is not between 1 and d − 1.

    Source: :eq:`def-autoencoder` of the book.

    >>> model = AutoEncoder(d=64, latent_dim=2)
    >>> model.decode(model.encode(torch.zeros(7, 64))).shape
    torch.Size([7, 64])
    """

    def __init__(self, d: int, latent_dim: int, hidden: Sequence[int] = (256,), seed: int = 0) -> None:
        super().__init__()
        check_dimensions(d, latent_dim)
        self.d, self.latent_dim = d, latent_dim
        with seeded(seed):
            self.encoder = mlp(d, *hidden, latent_dim)
            self.decoder = mlp(latent_dim, *reversed(hidden), d)

    def encode(self, x: Tensor) -> Tensor:
        """The code z, ``(..., d)`` to ``(..., m)``."""
        check_input(self, x)
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """The picture f(z), ``(..., m)`` to ``(..., d)``."""
        return check_width(self.decoder(z), "the decoder's output", self.d)


def mlp_vae(d: int, latent_dim: int, hidden: Sequence[int] = (256,), sigma_dec: float = 0.2, seed: int = 0) -> VAE:
    """The book's default model: two multilayer perceptrons and a Gaussian decoder.

    Args:
        d, latent_dim: the dimensions of x and z.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse order.
        sigma_dec: the decoder's standard deviation σ_dec, in the unit of x.
        seed: seed of the initial weights; torch's global generator is not changed.

    Raises:
        ValueError: ``latent_dim`` is not between 1 and d − 1, or ``sigma_dec`` is not positive.

    >>> sum(p.numel() for p in mlp_vae(64, 2, hidden=(100,)).parameters())
    13668
    """
    check_dimensions(d, latent_dim)
    with seeded(seed):
        encoder = Encoder(mlp(d, *hidden, 2 * latent_dim))
        decoder = GaussianDecoder(mlp(latent_dim, *reversed(hidden), d), sigma_dec)
    return VAE(encoder, decoder, d, latent_dim)


def check_dimensions(d: int, latent_dim: int) -> None:
    """Raise ``ValueError`` unless 1 ≤ latent_dim < d: a code of d or more numbers would not compress."""
    if not 1 <= latent_dim < d:
        raise ValueError(f"latent_dim needs to lie between 1 and d - 1 = {d - 1}, got {latent_dim}; d counts pixels")


def check_input(model: VAE | AutoEncoder, x: Tensor) -> None:
    """Raise ``ValueError`` or ``TypeError`` if the model's first layer cannot take x."""
    check_width(x, "x", model.d, "flatten images with x.flatten(1)")
    weights = next(model.parameters())
    if x.dtype != weights.dtype:
        raise TypeError(f"x needs the type of the weights, {weights.dtype}, got {x.dtype}; call model.to(x.dtype)")


def check_width(x: Tensor, name: str, d: int, remedy: str = "change the decoder's last layer") -> Tensor:
    """Return x, or raise ``ValueError`` unless its last axis has the d pixels of an image."""
    if x.ndim == 0 or x.shape[-1] != d:
        raise ValueError(f"{name} needs {d} features on its last axis, got shape {tuple(x.shape)}; {remedy}")
    return x
