"""Your own images, from a NumPy file or a folder of pictures.

They are checked; an error says what is wrong with them and what to do about it.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

_MIN_IMAGES: Final = 10  # with fewer, a split could be empty
_PICTURE_SUFFIXES: Final = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp"})

Array = npt.NDArray[Any]


class DataError(ValueError):
    """Data are unknown, missing, damaged or not images in [0, 1]; the message says what to do."""


def read(path: Path) -> tuple[Tensor, Tensor | None]:
    """The images of a file or folder, ``(N, H, W)`` in [0, 1] with torch's default dtype, and their labels.

    Raises:
        DataError: the data are damaged, or not images in [0, 1].

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(Path(folder, "mine.npy"), np.zeros((10, 4, 3), dtype=np.uint8))
    ...     images, labels = read(Path(folder, "mine.npy"))
    >>> images.shape, labels
    (torch.Size([10, 4, 3]), None)
    """
    images, labels = _folder(path) if path.is_dir() else _array_file(path)
    _check_images(path, images)
    classes = None if labels is None else _checked_labels(path, labels, len(images))
    return _to_unit_interval(images), classes


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
    except Exception as error:  # NumPy and zipfile raise many kinds of errors on damaged files
        if "Object arrays" in str(error):
            raise DataError(
                f"{path} holds Python objects, which are never loaded because they can run code. "
                "Save one array of uint8: np.save(path, np.stack(list_of_images))."
            ) from error
        raise damaged(path, in_one_line(error), "Save it again from its source.") from error


def _from_archive(path: Path, archive: Any) -> tuple[Array, Array | None]:
    """The images of an open .npz, and its labels or None."""
    candidates = [name for name in archive.files if name != "labels"]
    if "images" not in candidates and len(candidates) != 1:
        raise DataError(
            f"{path} needs an array named 'images', or exactly one array besides 'labels', "
            f"got {archive.files}. Save it with np.savez(path, images=..., labels=...)."
        )
    name = "images" if "images" in candidates else candidates[0]
    arrays = [archive[name]] + ([archive["labels"]] if "labels" in archive.files else [])
    if not all(isinstance(array, np.ndarray) for array in arrays):  # other members are returned as bytes
        raise TypeError("a member is not a NumPy array")
    return arrays[0], arrays[1] if len(arrays) == 2 else None


def _folder(folder: Path) -> tuple[Array, None]:
    # Sorted by code points. The order of a locale would make the split depend on the system.
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
            f"{folder} contains no pictures. Put them directly into this folder, with names that end in "
            f"{', '.join(sorted(_PICTURE_SUFFIXES))}."
        )
    pictures: list[Array] = []
    for path in paths:
        pictures.append(_grey(path))
        if pictures[-1].shape != pictures[0].shape:
            (height, width), (other_height, other_width) = pictures[0].shape, pictures[-1].shape
            raise DataError(
                f"pictures in {folder} need the same size, got {paths[0].name} of {width} × {height} "
                f"and {path.name} of {other_width} × {other_height} pixels. Resize or remove some."
            )
    return np.stack(pictures), None


def _grey(path: Path) -> Array:
    """One picture as (H, W) of uint8."""
    try:
        with Image.open(path) as picture:
            mode, grey = picture.mode, np.asarray(picture.convert("L"))
    except Exception as error:  # Pillow raises OSError, SyntaxError and more on damaged files
        raise damaged(path, in_one_line(error), "Save it again or remove it.") from error
    if mode.startswith(("I", "F")):  # Pillow would clip values above 255 to white
        raise DataError(
            f"{path} needs 8 bits a channel, got mode {mode!r}. Save it with 8 bits, or save all "
            "pictures as one float array in [0, 1] with np.save."
        )
    return grey


# Checks and conversion


def _check_images(path: Path, images: Array) -> None:
    """Raise unless images has shape (N, H, W) with N ≥ 10, and is uint8 or float in [0, 1]."""
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise DataError(
            f"{path} needs uint8 in 0…255 or float in [0, 1], got {images.dtype}. If its values "
            "are 0…255, save images.astype(np.uint8); if not, save images / images.max() as float."
        )
    if images.ndim != 3:
        raise DataError(
            f"{path} needs the three axes (N, H, W), got shape {images.shape}. Reshape flat images "
            "to (N, H, W); turn colour to grey with images.mean(axis=-1), divided by 255 for uint8."
        )
    if images.size == 0 or len(images) < _MIN_IMAGES:
        raise DataError(
            f"{path} needs at least {_MIN_IMAGES} images of at least one pixel, got shape "
            f"{images.shape}. With fewer, a split would be empty. Add images."
        )
    if images.dtype.kind == "f":
        _check_values(path, images)


def _check_values(path: Path, images: Array) -> None:
    finite = np.isfinite(images)
    if not finite.all():
        first = int(np.argmin(finite.all(axis=(1, 2))))
        raise DataError(
            f"{path} needs finite values, got {finite.size - int(finite.sum())} that are NaN or "
            f"infinite, the first in image {first}. Remove those images or repair those pixels."
        )
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise DataError(
            f"{path} needs values in [0, 1], got {low} to {high}. Rescale it: "
            "(images - images.min()) / (images.max() - images.min()), or / 255 for grey values."
        )


def _checked_labels(path: Path, labels: Array, n_images: int) -> Tensor:
    if labels.shape != (n_images,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"labels in {path} need shape ({n_images},) and an integer dtype, got {labels.shape} "
            f"of {labels.dtype}. Save one whole number for each image, or leave the labels out."
        )
    return torch.from_numpy(labels.astype(np.int64))


def _to_unit_interval(images: Array) -> Tensor:
    """Checked images as a tensor of torch's default dtype, same shape."""
    if images.dtype == np.uint8:
        return grey_values(torch.from_numpy(images))
    # Torch supports neither foreign byte orders nor long doubles.
    native = images.astype(np.float32 if images.dtype.itemsize <= 4 else np.float64)
    return torch.from_numpy(native).to(torch.get_default_dtype())


def grey_values(images: Tensor) -> Tensor:
    """Grey values 0…255 as numbers in [0, 1], same shape."""
    return images.to(torch.get_default_dtype()).div_(255)


# Messages


def damaged(path: Path, reason: str, remedy: str) -> DataError:
    return DataError(f"{path} cannot be read; it is damaged or cut short ({reason}). {remedy}")


def in_one_line(error: Exception) -> str:
    """An error's type and message, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
