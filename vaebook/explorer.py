"""An interactive view of a trained model's latent plane, for a page without a kernel.

It is a self-contained piece of HTML: the decoder's weights, a script, a style, and a picture that is shown
when scripts are off. This module does not train, and draws no random numbers.
"""

import base64
import io
import json
from dataclasses import dataclass, field
from importlib.resources import files

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from vaebook import figures
from vaebook.divergences import kl_to_prior
from vaebook.gaussians import DiagonalGaussian
from vaebook.models import VAE, GaussianDecoder, check_input
from vaebook.quadrature import expectation, grid

ALT = (
    "Left, the latent plane: numerals at the codes of the images, each with its one-sigma ellipse, and two "
    "dashed circles that hold 50 % and 95 % of the prior. Right, some of the images in a column, and beside "
    "each what the decoder makes of its mean code."
)


@dataclass(frozen=True)
class Explorer:
    """The result of :func:`explorer`: HTML for notebooks and pages, a PNG for a PDF.

    Scripts on the page can use ``document.querySelector(".vaebook-explorer").explorer``: ``decode(z)``
    returns f_θ(z), ``terms(z)`` returns the numbers of the table, and ``moveTo(z)`` moves to z.
    """

    summary: str
    payload: str = field(repr=False)  # JSON: sizes, and numbers in base64
    png: bytes = field(repr=False)

    def __repr__(self) -> str:
        return f"Explorer({self.summary})"

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, object]]:
        png = base64.b64encode(self.png).decode()
        css, js = (files("vaebook").joinpath(f"explorer.{kind}").read_text("utf-8") for kind in ("css", "js"))
        # The picture is shown until the script runs. It stays if scripts are off or the notebook is not trusted.
        html = (
            f'<div class="vaebook-explorer"><style>\n{css}</style>\n'
            f'<img src="data:image/png;base64,{png}" alt="{ALT}">\n'
            f'<script type="application/json">{self.payload}</script>\n<script>\n{js}</script></div>'
        )
        bundle = {"text/plain": repr(self), "text/html": html, "image/png": png}
        # myst-nb's "glue" reads this, so that any page of the book can show the output by this name.
        return bundle, {"scrapbook": {"name": "explorer", "mime_prefix": ""}}


def explorer(model: VAE, x: Tensor, labels: Tensor | None, shape: tuple[int, int]) -> Explorer:
    """An explorer of the plane of z. It shows q_φ(z|x), f_θ(z), and the terms of ℒ at every z.

    The reader can choose the first image of each class in x (without labels, one of the first ten images).
    For these the page holds both terms of ℒ: E_q[log p_θ(x|z)] by quadrature and the KL in closed form.

    Args:
        model: m = 2, an encoder with diagonal q, and a Gaussian decoder with :func:`vaebook.models.mlp`.
        x: the images to show in the plane, shape ``(n, d)``; a few hundred.
        labels: their classes, shape ``(n,)``, or None.
        shape: height and width of an image.

    Raises:
        ValueError: the model does not have two latent dimensions, or ``shape`` does not have d pixels.
        TypeError: q is not diagonal, or the decoder is not a Gaussian decoder with a tanh MLP.

    Source: :eq:`def-decoder`, :eq:`eq-elbo-reconstruction`, :eq:`def-importance-weight` of the book.

    >>> from vaebook.models import mlp_vae
    >>> explorer(mlp_vae(64, 2), torch.rand(30, 64), torch.arange(30) % 10, (8, 8))
    Explorer(30 images of 8 × 8 pixels, 10 to choose from)
    """
    check(model, x, shape)
    chosen = choices(labels, len(x))
    with torch.no_grad():
        q = model.encode(x)
        if not isinstance(q, DiagonalGaussian):
            raise TypeError(f"model needs a diagonal q for the ellipses, got {type(q).__name__}")
        q_chosen = DiagonalGaussian(q.mu[chosen], q.log_sigma[chosen])
        means = torch.stack([expected_log_likelihood(model, q_chosen, x[chosen]), kl_to_prior(q_chosen)], -1)
        widths, scales, weights = quantised(model.decoder.network)  # type: ignore[arg-type]
        payload = {
            "shape": shape, "widths": widths, "scales": pack(scales), "weights": pack(weights, "<i2"),
            "logSigmaDec": pack(model.decoder.log_sigma_dec),  # type: ignore[arg-type]
            "codes": pack(torch.cat([q.mu, q.log_sigma], -1)),  # (n, 4)
            "labels": None if labels is None else labels.tolist(), "chosen": chosen, "images": pack(x[chosen]),
            "means": pack(means),  # (k, 2): E_q[log p_θ(x|z)] and the KL
        }  # fmt: skip
        pairs = torch.stack([x[chosen], model.decode(q_chosen.mu).mean], 1).flatten(0, 1)  # (k, 2, d) -> (2k, d)
    summary = f"{len(x)} images of {shape[0]} × {shape[1]} pixels, {len(chosen)} to choose from"
    return Explorer(summary, json.dumps(payload, separators=(",", ":")), picture(q, labels, pairs, shape))


def check(model: VAE, x: Tensor, shape: tuple[int, int]) -> None:
    """Raise ``ValueError`` or ``TypeError`` if the page cannot reproduce the model."""
    if model.latent_dim != 2:
        raise ValueError(f"model needs latent_dim = 2, got {model.latent_dim}")
    check_input(model, x)
    if shape[0] * shape[1] != model.d:
        raise ValueError(f"shape needs {model.d} pixels, got {shape[0]} × {shape[1]}; give the height and the width")
    if not (isinstance(model.decoder, GaussianDecoder) and isinstance(model.decoder.network, nn.Sequential)):
        raise TypeError(f"model needs a GaussianDecoder with an mlp, got {type(model.decoder).__name__}")
    for k, layer in enumerate(model.decoder.network):
        wanted = (nn.Linear, nn.Tanh)[k % 2]
        if not isinstance(layer, wanted):
            raise TypeError(f"layer {k} of the decoder needs to be {wanted.__name__}, got {layer}; use mlp")


def choices(labels: Tensor | None, n: int) -> list[int]:
    """Row numbers of the images to choose from, at most ten: the first of each class, sorted by class.

    >>> choices(torch.tensor([7, 1, 7, 0]), 4)
    [3, 1, 0]
    """
    if labels is None:
        return list(range(min(n, 10)))
    return [int((labels == label).nonzero()[0]) for label in labels.unique()[:10]]  # unique sorts


def expected_log_likelihood(model: VAE, q: DiagonalGaussian, x: Tensor) -> Tensor:
    """E_q[log p_θ(x|z)] for each image, by quadrature over ε in z = μ + σ ⊙ ε; shape ``(k,)``, in nats."""
    on = grid(-6, 6, 49, m=2)
    epsilon = on.points.to(x)[:, None]  # (49², 1, 2)
    log_p = model.prior().log_prob(epsilon).T  # ε has the density of π, N(0, I): (1, 49²)
    log_likelihood = model.decode(q.mu + q.sigma * epsilon).log_prob(x)  # (49², k)
    return expectation(log_p, log_likelihood.T, on)


def quantised(network: nn.Sequential) -> tuple[list[int], Tensor, Tensor]:
    """Widths, one scale for each layer, and all (W | b) / scale row by row, rounded to integers up to ±32767.

    >>> widths, scales, weights = quantised(nn.Sequential(nn.Linear(2, 3)))
    >>> widths, scales.shape, weights.shape, weights.abs().max()
    ([2, 3], torch.Size([1]), torch.Size([9]), tensor(32767.))
    """
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
    matrices = [torch.cat([layer.weight, layer.bias[:, None]], 1).detach().flatten() for layer in layers]
    scales = torch.stack([matrix.abs().max() / 32767 for matrix in matrices])
    return widths, scales, torch.cat([(m / s).round() for m, s in zip(matrices, scales, strict=True)])


def pack(values: Tensor, dtype: str = "<f4") -> str:
    """The numbers in base64, row by row and little-endian."""
    return base64.b64encode(values.detach().cpu().numpy().astype(dtype).tobytes()).decode()


def picture(q: DiagonalGaussian, labels: Tensor | None, pairs: Tensor, shape: tuple[int, int]) -> bytes:
    """The static picture as PNG: the plane, and images beside reconstructions, as pairs ``(2k, d)``."""
    with plt.style.context(figures.STYLE):
        figure = Figure(figsize=(5.6, 4.4))  # a notebook would show a plt.figure twice
        left, right = figure.subplots(1, 2, width_ratios=(4, 1))
        figures.latent_map(q.mu, labels, q.sigma, left)
        figures.image_grid(pairs, shape, 2, right, "$x$ and $f_\\theta(\\mu(x))$")
        figure.savefig(file := io.BytesIO(), format="png")
        # A notebook holds it twice: 256 colours take a third of the bytes.
        image = Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        image.save(file := io.BytesIO(), format="png", optimize=True)
        return file.getvalue()
