"""The model of the book: an encoder q_φ(z|x), a decoder p_θ(x|z), and the VAE that joins them.

Encoder and decoder return distributions, not tuples. A new decoder is a module whose ``forward(z)`` returns
something with ``log_prob(x)`` (summed over the d pixels, in nats) and ``mean``.
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
    """Draw initial weights from ``seed`` and leave torch's global generator as it was.

    >>> with seeded(0):
    ...     first = nn.Linear(2, 2).weight
    >>> with seeded(0):
    ...     second = nn.Linear(2, 2).weight
    >>> torch.equal(first, second)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def mlp(*widths: int) -> nn.Sequential:
    """A multilayer perceptron with tanh between its layers: ``(..., widths[0])`` to ``(..., widths[-1])``.

    The tanh is smooth, so that the decoder has a Jacobian everywhere.

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
        mu, log_sigma = self.network(x).chunk(2, dim=-1)  # (..., 2m) -> (..., m) twice
        return DiagonalGaussian(mu, log_sigma)


class GaussianDecoder(nn.Module):
    """p_θ(x|z) = N(f_θ(z), σ_dec² I_d), with one standard deviation σ_dec for all pixels.

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
            raise ValueError(
                f"sigma_dec needs a positive number, got {sigma_dec}; "
                "pixels in [0, 1] want something like 0.1 to 0.3"
            )
        self.network = network
        # A buffer: it moves to the GPU and into checkpoints with the model, and no optimiser touches it.
        self.register_buffer("log_sigma_dec", torch.tensor(float(sigma_dec)).log())

    @property
    def sigma_dec(self) -> float:
        """The standard deviation σ_dec of one pixel around f_θ(z)."""
        return self.log_sigma_dec.exp().item()

    def forward(self, z: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(self.network(z), self.log_sigma_dec)

    def extra_repr(self) -> str:
        return f"sigma_dec={self.sigma_dec:.6g}"


class BernoulliDecoder(nn.Module):
    """p_θ(x|z) = Π_i Bernoulli(x_i | sigmoid(f_θ(z)_i)): the alternative for pixels that are 0 or 1.

    Grey pixels under this likelihood give a number, but no log-probability: binarise them first
    (``vaebook.data.binarise``), and train with ``objectives.negative_elbo``.

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
        return BernoulliPixels(self.network(z))


class VAE(nn.Module):
    """The variational auto-encoder: prior π = N(0, I_m), encoder q_φ(z|x), decoder p_θ(x|z).

    Args:
        encoder: from x, ``(..., d)``, to a :class:`DiagonalGaussian` or :class:`FullGaussian` over z.
        decoder: from z, ``(..., m)``, to a distribution over x.
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
        """q_φ(z|x), one row for each row of x ``(..., d)``."""
        check_input(self, x)
        q: DiagonalGaussian | FullGaussian = self.encoder(x)
        return q

    def decode(self, z: Tensor) -> DiagonalGaussian | BernoulliPixels:
        """p_θ(x|z), one row for each row of z ``(..., m)``."""
        p: DiagonalGaussian | BernoulliPixels = self.decoder(z)
        return p

    def prior(self) -> DiagonalGaussian:
        """π = N(0, I_m), on the device and in the type of the weights."""
        zero = next(self.parameters()).new_zeros(self.latent_dim)
        return DiagonalGaussian(zero, zero)


class AutoEncoder(nn.Module):
    """The classical auto-encoder: z = e(x) and x ≈ f(z), both deterministic.

    Same layers as :func:`mlp_vae`, except that the encoder emits m numbers, not 2 m.

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
        z: Tensor = self.encoder(x)
        return z

    def decode(self, z: Tensor) -> Tensor:
        """The picture f(z), ``(..., m)`` to ``(..., d)``."""
        x: Tensor = self.decoder(z)
        return x


def mlp_vae(
    d: int, latent_dim: int, hidden: Sequence[int] = (256,), sigma_dec: float = 0.2, seed: int = 0
) -> VAE:
    """The book's default model: two multilayer perceptrons and a Gaussian decoder.

    Args:
        d, latent_dim: the dimensions of x and z.
        hidden: widths of the hidden layers from x to z; the decoder has them in reverse.
        sigma_dec: the decoder's standard deviation σ_dec, in the unit of x.
        seed: fixes the initial weights; torch's global generator stays as it is.

    Raises:
        ValueError: ``latent_dim`` is not between 1 and d − 1, or ``sigma_dec`` not positive.

    >>> sum(p.numel() for p in mlp_vae(64, 2, hidden=(100,)).parameters())
    13668
    """
    check_dimensions(d, latent_dim)
    with seeded(seed):
        encoder = Encoder(mlp(d, *hidden, 2 * latent_dim))
        decoder = GaussianDecoder(mlp(latent_dim, *reversed(hidden), d), sigma_dec)
    return VAE(encoder, decoder, d, latent_dim)


def conv_vae(
    shape: tuple[int, int], latent_dim: int, channels: int = 32, sigma_dec: float = 0.2, seed: int = 0
) -> VAE:
    """A convolutional pair for images of at least 16 × 16, with a Gaussian decoder.

    Two convolutions of stride 2 on the way down, two doublings on the way up. Images travel as rows of
    d = H · W numbers here too, so that it stands wherever :func:`mlp_vae` does.

    Raises:
        ValueError: an image side under 16, or what :func:`mlp_vae` raises.

    >>> model = conv_vae((28, 28), latent_dim=8, channels=4)
    >>> model.decode(model.encode(torch.zeros(3, 784)).mu).mean.shape
    torch.Size([3, 784])
    """
    height, width = shape
    if min(shape) < 16:
        raise ValueError(
            f"shape needs at least 16 × 16 pixels for two halvings, got {height} × {width}; "
            "mlp_vae takes any size"
        )
    check_dimensions(height * width, latent_dim)
    half = ((height + 1) // 2, (width + 1) // 2)
    quarter = ((half[0] + 1) // 2, (half[1] + 1) // 2)
    inner = 2 * channels * quarter[0] * quarter[1]
    with seeded(seed):
        down = nn.Sequential(
            nn.Unflatten(-1, (1, height, width)),  # (B, d) -> (B, 1, H, W)
            nn.Conv2d(1, channels, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Flatten(-3),  # (B, 2C, H/4, W/4) -> (B, inner)
            nn.Linear(inner, 2 * latent_dim),
        )
        up = nn.Sequential(
            nn.Linear(latent_dim, inner),
            nn.Tanh(),
            nn.Unflatten(-1, (2 * channels, *quarter)),  # (B, inner) -> (B, 2C, H/4, W/4)
            nn.Upsample(size=half),
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.Tanh(),
            nn.Upsample(size=shape),
            nn.Conv2d(channels, 1, 3, padding=1),
            nn.Flatten(-3),  # (B, 1, H, W) -> (B, d)
        )
    return VAE(Encoder(Rows(down)), GaussianDecoder(Rows(up), sigma_dec), height * width, latent_dim)


class Rows(nn.Module):
    """Lets a network that wants exactly one batch axis take any number of them (convolutions want one).

    >>> Rows(nn.Linear(3, 2))(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7, 2])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x.reshape(-1, x.shape[-1]))  # (..., n) -> (B, n)
        return y.reshape(*x.shape[:-1], -1)  # (B, k) -> (..., k)


def check_dimensions(d: int, latent_dim: int) -> None:
    """Raise ``ValueError`` unless 1 ≤ latent_dim < d: as many numbers as pixels compress nothing."""
    if not 1 <= latent_dim < d:
        raise ValueError(
            f"latent_dim needs to lie between 1 and d - 1 = {d - 1}, got {latent_dim}; "
            f"d = {d} is the number of pixels of an image"
        )


def check_input(model: VAE | AutoEncoder, x: Tensor) -> None:
    """Raise ``ValueError`` or ``TypeError`` where x is not what the model's first layer takes."""
    if x.ndim == 0 or x.shape[-1] != model.d:
        raise ValueError(
            f"x needs {model.d} features on its last axis, got shape {tuple(x.shape)}; "
            "flatten images with x.flatten(1)"
        )
    weights = next(model.parameters())
    if x.dtype != weights.dtype:
        raise TypeError(
            f"x needs the type of the weights, {weights.dtype}, got {x.dtype}; call model.to(x.dtype)"
        )
