"""Figures show their tensors, and draw no random numbers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from vaebook import figures
from vaebook_runner.chapters import read_notebook

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.md"))
SMALLEST = 10  # points
WIDEST = 5.6  # inches


@pytest.fixture(autouse=True)
def figures_of_its_own() -> Iterator[None]:
    """Each test starts without figures and with the default style."""
    with plt.rc_context():
        yield
    plt.close("all")


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 12, generator=torch.Generator().manual_seed(0))


def test_tile_puts_each_image_into_its_cell() -> None:
    x = images(5)
    canvas = figures.tile(x, (3, 4), columns=2)
    assert canvas.shape == (3 * 4, 2 * 5)
    for k in range(5):
        top, left = (k // 2) * 4, (k % 2) * 5
        np.testing.assert_array_equal(canvas[top : top + 3, left : left + 4], x[k].reshape(3, 4))
    assert np.isnan(canvas[3]).all()  # the frame
    assert np.isnan(canvas[8:, 5:]).all()  # the place of a sixth image


def test_latent_map_shows_every_point_the_ellipses_and_the_prior() -> None:
    mu, sigma = torch.randn(30, 2), torch.rand(30, 2)
    ax = figures.latent_map(mu, torch.arange(30) % 3, sigma)
    ellipses, *classes = ax.collections
    assert isinstance(ellipses, EllipseCollection)
    np.testing.assert_allclose(np.asarray(ellipses.get_offsets()), mu)
    np.testing.assert_allclose(ellipses.get_widths(), 2 * sigma[:, 0], rtol=1e-6)  # whole axes, not half axes
    assert sum(len(c.get_offsets()) for c in classes) == 30
    half = np.hypot(*np.array(ax.lines[0].get_data()))
    draws = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0)).norm(dim=1)
    assert (draws < half[0]).float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_prior_quantiles_have_equal_probabilities_and_the_order_of_the_map() -> None:
    z = figures.prior_quantiles(10).double()
    share = torch.special.ndtr(z).reshape(10, 10, 2)
    torch.testing.assert_close(share[0, :, 0], (torch.arange(10).double() + 0.5) / 10)  # z_1 grows to the right
    torch.testing.assert_close(share[:, 0, 1], (torch.arange(10).double().flip(0) + 0.5) / 10)  # z_2 grows upwards


def test_a_manifold_labels_its_axes() -> None:
    ax = figures.manifold(images(9), (3, 4))
    assert ax.get_ylabel() == "$z_2$, in quantiles of the prior"


def test_no_figure_draws_a_random_number() -> None:
    before_torch, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    figures.use_style()
    figures.image_grid(images(20), (3, 4))
    figures.latent_map(torch.zeros(5, 2), torch.arange(5), torch.ones(5, 2))
    figures.manifold(images(4), (3, 4))
    assert torch.equal(before_torch, torch.get_rng_state())
    np.testing.assert_array_equal(before_numpy, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: figures.image_grid(images(3), (4, 4)),
            r"images needs shape \(n, 16\) for \(4, 4\), got \(3, 12\)",
        ),
        (lambda: figures.latent_map(torch.zeros(5, 3)), r"mu needs shape \(n, 2\), got \(5, 3\)"),
        (lambda: figures.manifold(images(5), (3, 4)), "needs n² rows, got 5; decode prior_quantiles"),
    ],
)
def test_errors(draw: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()  # type: ignore[operator]


# --- type that can be read, also where a figure shrinks to the width of a telephone ---

TELEPHONE = 327  # pixels that a screen of 375 leaves for a figure


def sizes_in(code: str) -> list[object]:
    """What is wrong with the sizes that Python code gives: widths in inches above the widest, type below the smallest."""
    wrong = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.keyword) and node.arg == "figsize" and isinstance(node.value, ast.Tuple):
            width = ast.literal_eval(node.value.elts[0])
            wrong += [width] * (width > WIDEST)
        elif isinstance(node, ast.keyword) and node.arg in ("fontsize", "labelsize", "titlesize", "title_fontsize"):
            size = ast.literal_eval(node.value)
            wrong += [size] * (isinstance(size, str) or size < SMALLEST)
    return wrong


def test_wrong_sizes_are_found() -> None:
    code = "f(figsize=(7, 3), fontsize=9)\ng(labelsize='small', size=3)\nh(figsize=(5.6, 9), fontsize=10)"
    assert sizes_in(code) == [7, 9, "small"]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_no_chapter_draws_small_type_or_a_figure_that_shrinks_much(chapter: Path) -> None:
    cells = [cell.source for cell in read_notebook(chapter).cells if cell.cell_type == "code"]
    assert [wrong for cell in cells for wrong in sizes_in(cell)] == []


@pytest.mark.parametrize("module", ["figures", "explorer"])
def test_no_function_draws_small_type_or_a_figure_that_shrinks_much(module: str) -> None:
    assert sizes_in((ROOT / "vaebook" / f"{module}.py").read_text(encoding="utf-8")) == []


# What remains of linear red, green and blue: Machado, Oliveira and Fernandes (2009), full deficiency.
SIGHT = {
    "usual": np.eye(3),
    "no red cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no blue cones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("sight", SIGHT)
def test_every_kind_of_eye_tells_the_colours_apart(sight: str) -> None:
    """A distance of 2 in CIELAB is just seen on large patches; lines want far more."""
    with plt.style.context(figures.STYLE):
        rgb = np.array([to_rgb(color) for color in plt.rcParams["axes.prop_cycle"].by_key()["color"]])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.array(SIGHT[sight]).T
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear.clip(0, 1) @ to_xyz.T / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1) + 100 * np.eye(len(lab))
    assert apart.min() > 15


def test_the_style_has_type_of_ten_points_which_are_eight_pixels_on_a_telephone() -> None:
    figures.use_style()
    assert plt.rcParams["figure.figsize"][0] == WIDEST
    ax = figures.manifold(images(9), (3, 4), plt.subplots()[1])
    ax.plot([1, 10], [0, 1], label="a line")
    ax.legend(title="title")
    ax.set_title("title")
    ax.figure.suptitle("title")
    ax.figure.canvas.draw()
    sizes = {text.get_fontsize() for text in ax.figure.findobj(Text)}
    assert min(sizes) >= SMALLEST
    assert SMALLEST * 96 / 72 * TELEPHONE / (96 * WIDEST) > 8
