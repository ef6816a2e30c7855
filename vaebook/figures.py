"""Figures of what a VAE has learned: functions from tensors to Axes.

They draw no random numbers and train nothing, so adding a figure cannot change a result.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from torch import Tensor

STYLE = "vaebook.book"


def use_style() -> None:
    """Use the book's style for all later figures."""
    plt.style.use(STYLE)


def tile(images: Tensor, shape: tuple[int, int], columns: int) -> np.ndarray:
    """Lay out images ``(n, d)`` row by row in one large picture, with a thin white frame around each.

    >>> tile(torch.zeros(6, 64), (8, 8), columns=3).shape
    (18, 27)
    """
    height, width = shape
    if images.ndim != 2 or images.shape[1] != height * width:
        raise ValueError(f"images needs shape (n, {height * width}) for {shape}, got {tuple(images.shape)}")
    rows = math.ceil(len(images) / columns)
    canvas = np.full((rows * (height + 1), columns * (width + 1)), np.nan)  # NaN is drawn white
    for k, image in enumerate(images.detach().cpu().reshape(-1, height, width).numpy()):
        top, left = (k // columns) * (height + 1), (k % columns) * (width + 1)
        canvas[top : top + height, left : left + width] = image
    return canvas


def image_grid(
    images: Tensor, shape: tuple[int, int], columns: int = 10, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Show images ``(n, d)`` in a grid; 0 is white, 1 is black, and values outside [0, 1] are clipped.

    >>> image_grid(torch.rand(20, 64), (8, 8)).get_title()
    ''
    """
    ax = axes_or_new(ax)
    ax.imshow(tile(images, shape, columns), vmin=0, vmax=1)
    ax.set_title(title, loc="left")
    ax.set_axis_off()
    return ax


def latent_map(mu: Tensor, labels: Tensor | None = None, sigma: Tensor | None = None, ax: Axes | None = None) -> Axes:
    """The codes of the data: μ ``(n, 2)``, coloured by class, and their one-σ ellipses if σ is given.

    The dashed circles hold 50 % and 95 % of the prior N(0, I_2).

    >>> latent_map(torch.randn(30, 2), torch.arange(30) % 10).get_xlabel()
    '$z_1$'
    """
    if mu.ndim != 2 or mu.shape[1] != 2:
        raise ValueError(f"mu needs shape (n, 2), got {tuple(mu.shape)}; choose two latent dimensions")
    ax = axes_or_new(ax, figsize=(5.6, 4.8))
    points = mu.detach().cpu().numpy()
    if sigma is not None:
        widths, heights = 2 * sigma.detach().cpu().numpy().T
        ellipses = EllipseCollection(
            widths, heights, np.zeros(len(points)), units="xy", offsets=points, offset_transform=ax.transData,
            facecolor="none", edgecolor="0.6", linewidth=0.4,
        )  # fmt: skip
        ax.add_collection(ellipses)
    if labels is None:
        ax.scatter(points[:, 0], points[:, 1], s=8)
    else:
        scatter_classes(points, labels.cpu().numpy(), ax)
    angle = np.linspace(0, 2 * np.pi, 200)
    for share in (0.5, 0.95):
        radius = math.sqrt(-2 * math.log(1 - share))  # ‖z‖² has a χ² distribution with 2 degrees of freedom
        ax.plot(radius * np.cos(angle), radius * np.sin(angle), color="0.3", linewidth=0.8, linestyle="--")
    ax.margins(0.1)  # room for the outermost ellipses
    ax.set(aspect="equal", xlabel="$z_1$", ylabel="$z_2$")
    return ax


def scatter_classes(points: np.ndarray, labels: np.ndarray, ax: Axes) -> None:
    """Draw points ``(n, 2)`` as the digits of their classes, so that readers do not depend on colour."""
    colours = 0.8 * np.array(plt.color_sequences["tab10"])  # darker, for the contrast of thin numerals
    for label in np.unique(labels):
        x, y = points[labels == label].T
        ax.scatter(x, y, s=40, marker=f"${label}$", color=colours[int(label) % 10], linewidth=0.2, label=str(label))


def prior_quantiles(n: int) -> Tensor:
    """An n × n grid of latent points at the quantiles 1/2n, 3/2n, … of N(0, I_2), shape ``(n², 2)``.

    Each point represents the same probability of the prior. The rows go from top to bottom: z_1 grows to the
    right and z_2 upwards, as in :func:`latent_map`.

    >>> prior_quantiles(2)[0]
    tensor([-0.6745,  0.6745])
    """
    share = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    quantile = torch.special.ndtri(share).to(torch.get_default_dtype())
    z_2, z_1 = torch.meshgrid(quantile.flip(0), quantile, indexing="ij")
    return torch.stack([z_1, z_2], -1).reshape(-1, 2)  # (n, n, 2) -> (n², 2)


def manifold(f: Tensor, shape: tuple[int, int], ax: Axes | None = None) -> Axes:
    """The decoded :func:`prior_quantiles`, f ``(n², d)``, at their places in the latent plane.

    >>> manifold(torch.rand(100, 64), (8, 8)).get_xlabel()
    '$z_1$, in quantiles of the prior'
    """
    n = math.isqrt(len(f))
    if n * n != len(f):
        raise ValueError(f"f needs n² rows, got {len(f)}; decode prior_quantiles(n)")
    ax = axes_or_new(ax, figsize=(5.6, 5.6))
    ax.imshow(tile(f, shape, columns=n), vmin=0, vmax=1, extent=(0, 1, 0, 1))
    ticks = [0.1, 0.5, 0.9]
    ax.set(xticks=ticks, yticks=ticks)
    ax.set(xlabel="$z_1$, in quantiles of the prior", ylabel="$z_2$, in quantiles of the prior")
    return ax


def axes_or_new(ax: Axes | None, figsize: tuple[float, float] | None = None) -> Axes:
    """The given Axes, or those of a new figure."""
    return plt.subplots(figsize=figsize)[1] if ax is None else ax
