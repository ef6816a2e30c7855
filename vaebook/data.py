"""Images as tensors in [0, 1], with their shape and a fixed train / validation / test split.

Three named data sets (``digits``, ``mnist``, ``fashion-mnist``) or your own images. Everything is
checked here, at the door, so that no later code has to ask whether a pixel is a number.
"""

import difflib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

KNOWN: Final = ("digits", "mnist", "fashion-mnist")
SPLIT_SEED: Final = 1312  # of the one permutation that splits the digits and your own images

_IDX_FILES: Final = {  # name -> shape, the same for MNIST and Fashion-MNIST
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
_TRAIN_SIZE: Final = 55_000  # of the 60,000 training images; the other 5,000 validate
_MIN_IMAGES: Final = 10  # the fewest that leave every split non-empty
_PICTURE_SUFFIXES: Final = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp"}
)

Array = npt.NDArray[Any]


class DataError(ValueError):
    """Data that are unknown, missing, damaged or not images in [0, 1], and what to do about it."""


@dataclass(frozen=True, eq=False)  # eq would ask a tensor for one truth value
class Images:
    """One data set: N flattened images x ∈ [0, 1]^d in three splits, d = H·W.

    Shapes: ``train``, ``validation`` and ``test`` are (N_split, d) in the floating dtype that was
    torch's default when they were loaded; their labels are (N_split,) of int64, or None where the
    images have none. Row i of a split is one image; ``row.reshape(shape)`` shows it.

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

    - ``"digits"``: scikit-learn's 1,797 handwritten digits of 8 × 8, shipped with it: no network.
    - ``"mnist"``, ``"fashion-mnist"``: 70,000 images of 28 × 28, read from the folder that the
      environment variable ``VAEBOOK_DATA`` names (default: ``vaebook`` in the user's cache folder),
      in torchvision's layout, and downloaded into it the first time.
    - a path to a ``.npy`` array (N, H, W), uint8 in 0…255 or float in [0, 1]; or to a ``.npz``
      with one such array (named ``images`` where there are several) and optionally ``labels`` (N,).
    - a path to a folder of pictures (PNG, JPEG, …) of one size; they are sorted by file name and
      turned to grey, and transparency is ignored. Your own images are at least 10.

    A known name wins over a file of the same name; write ``./digits`` for the file. Nothing that is
    already there is ever changed or deleted.

    The split is fixed. MNIST and Fashion-MNIST keep their authors' order: the first 55,000 training
    images train, the last 5,000 validate, the 10,000 test images test. Everything else is permuted
    once, by a generator of its own with the seed ``SPLIT_SEED``; then the first ⌊0.8 N⌋ images
    train, half of the rest (rounded down) validate and the others test: 1437 / 180 / 180 digits.

    Returns:
        Images: the three splits, (N_split, d), and their labels.

    Raises:
        DataError: an unknown name, missing data without a network, a damaged file, or an array or
            picture that is not images in [0, 1].

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
    images, labels = _folder(path) if path.is_dir() else _array_file(path)
    _check_images(path, images)
    classes = None if labels is None else _checked_labels(path, labels, len(images))
    return _permuted(path.resolve().name, _to_unit_interval(images), classes)


def binarise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Stochastic binarisation: b_j ~ Bernoulli(x_j), independently for every pixel, so E[b] = x.

    Shapes: x of any shape, floating, in [0, 1]; b has its shape, dtype and device. The draw
    consumes the caller's generator (on x's device) and nothing else; None is torch's global one.

    Raises:
        ValueError: x is not floating, or has a value outside [0, 1] (NaN included).

    Source: R. Salakhutdinov, I. Murray, "On the quantitative analysis of deep belief networks",
    ICML 2008.

    >>> binarise(torch.tensor([0.0, 1.0, 0.0]), torch.Generator().manual_seed(0))
    tensor([0., 1., 0.])
    """
    if not x.is_floating_point():
        raise ValueError(f"x needs a floating dtype, got {x.dtype}; uint8 images need x / 255")
    low, high = (float(end) for end in x.aminmax()) if x.numel() else (0.0, 1.0)
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"x needs values in [0, 1], got {low} to {high}; "
            "binarise the images, not logits or standardised pixels"
        )
    # torch.bernoulli says the same and takes twice as long on a processor.
    return (torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator) < x).to(x.dtype)


# The named data sets


def _digits() -> Images:
    from sklearn.datasets import load_digits

    bunch = load_digits()  # grey values are counts 0 … 16
    x = torch.from_numpy(bunch.images).to(torch.get_default_dtype()) / 16
    return _permuted("digits", x, torch.from_numpy(bunch.target).long())


def _data_folder() -> Path:
    """The folder that holds ``MNIST/raw``; an empty variable counts as unset."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    chosen = os.environ.get("VAEBOOK_DATA") or f"{cache}/vaebook"
    return Path(chosen).expanduser().absolute()


def _idx_data_set(name: str) -> Images:
    """MNIST or Fashion-MNIST: what is there is read, and only what is missing is downloaded."""
    from torchvision.datasets.mnist import MNIST, FashionMNIST, read_image_file, read_label_file

    source = MNIST if name == "mnist" else FashionMNIST
    raw = _data_folder() / source.__name__ / "raw"
    missing = [file for file in _IDX_FILES if not (raw / file).is_file()]
    if missing:
        _download(name, source, raw, missing)
    train, train_labels, test, test_labels = (
        _read_idx(raw / file, read_image_file if "images" in file else read_label_file) for file in _IDX_FILES
    )
    x = _grey_values(train).flatten(1)  # (N, H, W) -> (N, d)
    return Images(
        name=name,
        shape=(28, 28),
        train=x[:_TRAIN_SIZE],
        validation=x[_TRAIN_SIZE:],
        test=_grey_values(test).flatten(1),
        train_labels=train_labels[:_TRAIN_SIZE],
        validation_labels=train_labels[_TRAIN_SIZE:],
        test_labels=test_labels,
    )


def _download(name: str, source: Any, raw: Path, missing: list[str]) -> None:
    """Download beside the final place and move complete files only.

    torchvision checks the archive's sum but not the file it unpacks from it, so a run that is
    killed while unpacking would leave a half file under the final name. Moving also lets several
    runs that start together download without treading on each other.
    """
    folder = _data_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
            complete = Path(source(temporary, download=True).raw_folder)
            raw.mkdir(parents=True, exist_ok=True)
            for file in missing:
                (complete / file).replace(raw / file)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{name} is not complete in {raw} and could not be downloaded ({_reason(error)}). "
            "Without a network, put these files there, unpacked from their .gz: "
            f"{', '.join(missing)}. If you have them elsewhere, set the environment variable "
            f"VAEBOOK_DATA to the folder that contains {source.__name__}/raw; "
            "the data set digits needs no download."
        ) from error


def _read_idx(path: Path, read: Callable[[str], Tensor]) -> Tensor:
    try:
        tensor = read(str(path))
    except Exception as error:  # torchvision's reader trips over damage in many ways
        raise _damaged(path, _reason(error), "Delete it and load again") from error
    wanted = _IDX_FILES[path.name]
    if tensor.shape != wanted:
        reason = f"it needs shape {wanted}, got {tuple(tensor.shape)}"
        raise _damaged(path, reason, "Delete it and load again")
    return tensor


# Your own images


def _existing_path(dataset: str) -> Path:
    try:
        path = Path(dataset).expanduser()
        if dataset and path.exists():
            return path
    except (OSError, RuntimeError):  # a name too long for a path, or ~ of a user who is not there
        pass
    close = difflib.get_close_matches(dataset.lower(), KNOWN, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise DataError(
        f"unknown data set {dataset!r}.{hint} Known names are {', '.join(KNOWN)}; a path to a .npy "
        f"or .npz file or to a folder of pictures works too (looked for it in {Path.cwd()})"
    )


def _array_file(path: Path) -> tuple[Array, Array | None]:
    if path.suffix.lower() not in (".npy", ".npz"):
        raise DataError(f"{path} needs to be a .npy or .npz file or a folder, got {path.suffix!r}")
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".npy":
                return np.lib.format.read_array(file, allow_pickle=False), None
            with np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
                return _from_archive(path, archive)
    except DataError:
        raise
    except Exception as error:  # damaged bytes make NumPy and zipfile raise nearly anything
        if "Object arrays" in str(error):
            raise DataError(
                f"{path} holds Python objects, which are never loaded because they can run code. "
                "Save one array of uint8: np.save(path, np.stack(list_of_images))"
            ) from error
        raise _damaged(path, _reason(error), "Save it again from its source") from error


def _from_archive(path: Path, archive: Any) -> tuple[Array, Array | None]:
    """The images of an opened .npz, and its labels where it has them."""
    candidates = [name for name in archive.files if name != "labels"]
    if "images" not in candidates and len(candidates) != 1:
        raise DataError(
            f"{path} needs an array named 'images', or exactly one array besides 'labels', "
            f"got {archive.files}. Save it with np.savez(path, images=..., labels=...)"
        )
    name = "images" if "images" in candidates else candidates[0]
    arrays = [archive[name]] + ([archive["labels"]] if "labels" in archive.files else [])
    if not all(isinstance(array, np.ndarray) for array in arrays):  # other members come as bytes
        raise TypeError("a member is not a NumPy array")
    return arrays[0], arrays[1] if len(arrays) == 2 else None


def _folder(folder: Path) -> tuple[Array, None]:
    # The plain order of code points: a locale's order would change the split between systems.
    paths = sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in _PICTURE_SUFFIXES and not path.name.startswith(".")
        ),
        key=lambda path: path.name,
    )
    if not paths:
        raise DataError(
            f"{folder} has no pictures directly inside; put files there that end in "
            f"{', '.join(sorted(_PICTURE_SUFFIXES))}"
        )
    pictures: list[Array] = []
    for path in paths:
        pictures.append(_grey(path))
        if pictures[-1].shape != pictures[0].shape:
            (height, width), (other_height, other_width) = pictures[0].shape, pictures[-1].shape
            raise DataError(
                f"pictures in {folder} need one size, got {paths[0].name} of {width} × {height} "
                f"and {path.name} of {other_width} × {other_height} pixels. Resize or remove some"
            )
    return np.stack(pictures), None


def _grey(path: Path) -> Array:
    """One picture as (H, W) of uint8."""
    try:
        with Image.open(path) as picture:
            mode, grey = picture.mode, np.asarray(picture.convert("L"))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError and more on damage
        raise _damaged(path, _reason(error), "Save it again or remove it") from error
    if mode.startswith(("I", "F")):  # Pillow would cut every value above 255 to white
        raise DataError(
            f"{path} needs 8 bits a channel, got mode {mode!r}. Save it with 8 bits, or save all "
            "pictures as one float array in [0, 1] with np.save"
        )
    return grey


# Checks and conversion


def _check_images(path: Path, images: Array) -> None:
    """Raise unless images is (N, H, W), N ≥ 10, uint8 or float in [0, 1]."""
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise DataError(
            f"{path} needs uint8 in 0…255 or float in [0, 1], got {images.dtype}. If its values "
            "are 0…255, save images.astype(np.uint8); if not, save images / images.max() as float"
        )
    if images.ndim != 3:
        raise DataError(
            f"{path} needs the three axes (N, H, W), got shape {images.shape}. Reshape flat images "
            "to (N, H, W); turn colour to grey with images.mean(axis=-1), divided by 255 for uint8"
        )
    if images.size == 0 or len(images) < _MIN_IMAGES:
        raise DataError(
            f"{path} needs at least {_MIN_IMAGES} images of at least one pixel, got shape "
            f"{images.shape}: with fewer, a split would be empty. Add images"
        )
    if images.dtype.kind == "f":
        _check_values(path, images)


def _check_values(path: Path, images: Array) -> None:
    finite = np.isfinite(images)
    if not finite.all():
        first = int(np.argmin(finite.all(axis=(1, 2))))
        raise DataError(
            f"{path} needs finite values, got {finite.size - int(finite.sum())} that are NaN or "
            f"infinite, the first in image {first}. Remove those images or mend those pixels"
        )
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise DataError(
            f"{path} needs values in [0, 1], got {low} to {high}. Rescale it: "
            "(images - images.min()) / (images.max() - images.min()), or / 255 for grey values"
        )


def _checked_labels(path: Path, labels: Array, n_images: int) -> Tensor:
    if labels.shape != (n_images,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"labels in {path} need shape ({n_images},) and an integer dtype, got {labels.shape} "
            f"of {labels.dtype}. Save one whole number an image, or leave labels out"
        )
    return torch.from_numpy(labels.astype(np.int64))


def _to_unit_interval(images: Array) -> Tensor:
    """Checked images as a tensor of torch's default dtype, same shape."""
    if images.dtype == np.uint8:
        return _grey_values(torch.from_numpy(images))
    # Torch knows neither foreign byte orders nor long doubles.
    native = images.astype(np.float32 if images.dtype.itemsize <= 4 else np.float64)
    return torch.from_numpy(native).to(torch.get_default_dtype())


def _grey_values(images: Tensor) -> Tensor:
    """Grey values 0…255 of uint8 -> [0, 1], same shape."""
    return images.to(torch.get_default_dtype()).div_(255)


def _permuted(name: str, x: Tensor, labels: Tensor | None) -> Images:
    """Images x (N, H, W), permuted once and for all, then split 80 % / 10 % / 10 %."""
    n_images, height, width = x.shape
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(n_images, generator=generator, device="cpu")
    n_train = n_images * 8 // 10
    n_validation = (n_images - n_train) // 2
    train, validation, test = order.tensor_split((n_train, n_train + n_validation))
    pixels = x.flatten(1)  # (N, H, W) -> (N, d)
    return Images(
        name=name,
        shape=(height, width),
        train=pixels[train],
        validation=pixels[validation],
        test=pixels[test],
        train_labels=None if labels is None else labels[train],
        validation_labels=None if labels is None else labels[validation],
        test_labels=None if labels is None else labels[test],
    )


# Messages


def _damaged(path: Path, reason: str, remedy: str) -> DataError:
    return DataError(f"{path} cannot be read; it is damaged or cut short ({reason}). {remedy}")


def _reason(error: Exception) -> str:
    """The kind of an error and its message, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
