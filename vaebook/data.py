"""Images as tensors in [0, 1], checked on loading, with their shape and a fixed train / validation / test split.

Three named data sets (``digits``, ``mnist``, ``fashion-mnist``), or your own, which :mod:`vaebook.own_images` reads.
"""

import difflib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from vaebook.own_images import DataError, damaged, in_one_line, read

KNOWN: Final = ("digits", "mnist", "fashion-mnist")
SPLIT_SEED: Final = 1312  # seed of the permutation that splits the digits and your own images

_IDX_FILES: Final = {  # name -> shape, the same for MNIST and Fashion-MNIST
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
_TRAIN_SIZE: Final = 55_000  # of the 60,000 training images; the last 5,000 are for validation


@dataclass(frozen=True, eq=False)  # a generated == would fail, since comparing tensors gives tensors
class Images:
    """One data set: N flattened images x ∈ [0, 1]^d in three splits, d = H·W.

    Shapes: ``train``, ``validation`` and ``test`` are (N_split, d) in torch's default dtype at the time of loading,
    their labels (N_split,) of int64, or None. ``row.reshape(shape)`` gives a row back as an image (H, W).

    >>> images = load("digits")
    >>> images, images.d
    (Images(name='digits', shape=(8, 8)), 64)
    """

    name: str
    shape: tuple[int, int]  # (H, W)
    train: Tensor = field(repr=False)
    validation: Tensor = field(repr=False)
    test: Tensor = field(repr=False)
    train_labels: Tensor | None = field(repr=False)
    validation_labels: Tensor | None = field(repr=False)
    test_labels: Tensor | None = field(repr=False)

    @property
    def d(self) -> int:
        """Number of pixels of one image, H·W."""
        return self.shape[0] * self.shape[1]


def load(dataset: str | os.PathLike[str]) -> Images:
    """Load a data set by its name, or your own images from a path.

    - ``"digits"``: scikit-learn's 1,797 handwritten digits of 8 × 8. They come with scikit-learn and need no network.
    - ``"mnist"``, ``"fashion-mnist"``: 70,000 images of 28 × 28 in torchvision's layout, downloaded the first
      time into the folder that ``VAEBOOK_DATA`` names in the environment (default: ``vaebook`` in the user's cache).
    - a path to a ``.npy`` array (N, H, W), or to a ``.npz`` with one such array and optionally ``labels``
      (N,). If the ``.npz`` has more arrays, this one is ``images``.
    - a path to a folder of pictures, all of the same size, which are sorted by file name.

    What is accepted of your own, 100 images or more, is listed on the book's first page. A known name takes precedence
    over a file of the same name; write ``./digits`` for the file. Existing files are never changed or deleted.

    The split is fixed. MNIST and Fashion-MNIST keep their authors' order: the first 55,000 training images are for
    training, the last 5,000 for validation, and the 10,000 test images for testing. All other data are permuted once,
    by a separate generator with the seed ``SPLIT_SEED``. Then the first ⌊0.8 N⌋ images are for training, half of the
    rest (rounded down) for validation and the remainder for testing: of the digits 1,437, 180 and 180.

    Raises:
        DataError: the name is unknown, the data are missing and cannot be downloaded, a file is damaged,
            or an array or a picture does not hold images in [0, 1].

    Source: E. Alpaydin, C. Kaynak (digits, UCI); Y. LeCun, C. Cortes, C. Burges (MNIST); H. Xiao,
    K. Rasul, R. Vollgraf, arXiv:1708.07747 (Fashion-MNIST).

    >>> digits = load("digits")
    >>> digits.train.shape, digits.validation.shape, digits.test.shape
    (torch.Size([1437, 64]), torch.Size([180, 64]), torch.Size([180, 64]))
    >>> float(digits.train.min()), float(digits.train.max())
    (0.0, 1.0)
    """
    name = os.fspath(dataset)
    if name == "digits":
        return _digits()
    if name in ("mnist", "fashion-mnist"):
        return _idx_data_set(name)
    path = _existing_path(name)
    return _permuted(path.resolve().name, *read(path))


def binarise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Stochastic binarisation: b_j ~ Bernoulli(x_j), independently for every pixel, so E[b] = x.

    Shapes: x has any shape, a floating dtype and values in [0, 1]; b has x's shape, dtype and device.
    The draws come from ``generator``, which must be on x's device; None stands for torch's global one.

    Raises:
        ValueError: x is not floating, or has a value outside [0, 1] (NaN included).

    Source: R. Salakhutdinov, I. Murray, "On the quantitative analysis of deep belief networks", ICML 2008.

    >>> binarise(torch.tensor([0.0, 1.0, 0.0]), torch.Generator().manual_seed(0))
    tensor([0., 1., 0.])
    """
    if not x.is_floating_point():
        raise ValueError(f"x needs a floating dtype, got {x.dtype}; divide uint8 images by 255")
    low, high = (float(end) for end in x.aminmax()) if x.numel() else (0.0, 1.0)
    if not torch.compiler.is_compiling() and not (low >= 0 and high <= 1):
        raise ValueError(f"x needs values in [0, 1], got {low} to {high}; binarise the images, not logits")
    # torch.bernoulli draws from the same distribution, but takes twice as long on a CPU. Half precision is too coarse.
    dtype = torch.promote_types(x.dtype, torch.float32)
    return (torch.rand(x.shape, dtype=dtype, device=x.device, generator=generator) < x).to(x.dtype)


def _digits() -> Images:
    from sklearn.datasets import load_digits

    bunch = load_digits()  # grey values are counts 0 … 16
    x = torch.from_numpy(bunch.images).to(torch.get_default_dtype()) / 16
    return _permuted("digits", x, torch.from_numpy(bunch.target).long())


def data_folder() -> Path:
    """The folder that contains ``MNIST/raw``. An empty environment variable counts as unset."""
    default = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/vaebook"
    return Path(os.environ.get("VAEBOOK_DATA") or default).expanduser().absolute()


def _idx_data_set(name: str) -> Images:
    """MNIST or Fashion-MNIST: downloads the files that are missing, then reads all of them."""
    from torchvision.datasets.mnist import MNIST, FashionMNIST, read_image_file, read_label_file

    source = MNIST if name == "mnist" else FashionMNIST
    raw = data_folder() / source.__name__ / "raw"
    if missing := [file for file in _IDX_FILES if not (raw / file).is_file()]:
        _download(name, source, raw, missing)
    train, train_labels, test, test_labels = (
        _read_idx(raw / file, read_image_file if "images" in file else read_label_file) for file in _IDX_FILES
    )
    # (N, H, W) -> (N, d), of torch's default dtype; divided in place, since "/" holds two copies of integers.
    x, x_test = (counts.flatten(1).to(torch.get_default_dtype()).div_(255) for counts in (train, test))
    pixels, classes = x.split(_TRAIN_SIZE), train_labels.split(_TRAIN_SIZE)
    return Images(name, (28, 28), *pixels, x_test, *classes, test_labels)  # type: ignore[call-arg]


def _download(name: str, source: Any, raw: Path, missing: list[str]) -> None:
    """Download into a temporary folder, then move the complete files to their place.

    torchvision verifies the archive but not the file that it unpacks: a run that is killed while unpacking would leave
    an incomplete file under the final name. This also lets several runs download at the same time.
    """
    folder = data_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
            complete = Path(source(temporary, download=True).raw_folder)
            raw.mkdir(parents=True, exist_ok=True)
            for file in missing:
                (complete / file).replace(raw / file)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{name} is not complete in {raw} and could not be downloaded ({in_one_line(error)}). Put these files "
            f"there, unpacked from their .gz: {', '.join(missing)}. If they are elsewhere, set VAEBOOK_DATA in the "
            f"environment to the folder that contains {source.__name__}/raw. The data set digits needs no download."
        ) from error


def _read_idx(path: Path, read: Callable[[str], Tensor]) -> Tensor:
    try:
        tensor = read(str(path))
    except Exception as error:  # torchvision's reader raises many kinds of errors on damaged files
        raise damaged(path, in_one_line(error), "Delete it and load again.") from error
    if tensor.shape != (wanted := _IDX_FILES[path.name]):
        raise damaged(path, f"it needs shape {wanted}, got {tuple(tensor.shape)}", "Delete it and load again.")
    return tensor


def _existing_path(dataset: str) -> Path:
    try:
        path = Path(dataset).expanduser()
        if dataset and path.exists():
            return path
    except (OSError, RuntimeError):  # the name is too long for a path, or ~user names an unknown user
        pass
    close = difflib.get_close_matches(dataset.lower(), KNOWN, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    known = f"Known names are {', '.join(KNOWN)}; a path to a .npy or .npz file or to a folder of pictures works too"
    raise DataError(f"unknown data set {dataset!r}.{hint} {known} (searched in {Path.cwd()}).")


def _permuted(name: str, x: Tensor, labels: Tensor | None) -> Images:
    """Images x (N, H, W) in a fixed random order, split 80 % / 10 % / 10 %."""
    n_images, height, width = x.shape
    order = torch.randperm(n_images, generator=torch.Generator().manual_seed(SPLIT_SEED), device="cpu")
    n_train = n_images * 8 // 10
    parts = order.tensor_split((n_train, n_train + (n_images - n_train) // 2))
    classes = [None] * 3 if labels is None else [labels[part] for part in parts]
    return Images(name, (height, width), *(x.flatten(1)[part] for part in parts), *classes)  # (N, H, W) -> (N, d)
