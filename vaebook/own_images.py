"""Your own images, from a NumPy file or a folder of pictures.

They are read as a person sees them, or refused with an error that says what to do. The table "Your own images" on the
book's first page lists what is accepted and how it is read.
"""

import math
import unicodedata
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

MIN_IMAGES: Final = 100  # chapters measure on as many, and fail on fewer
_READ: Final = ".apng .avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .mpo .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp"
# Pillow cannot read these, or reads only the preview inside, or starts another program for them.
_NOT_READ: Final = ".ai .arw .cr2 .cr3 .dng .eps .exr .heic .heif .jxl .nef .orf .psd .raf .raw .rw2 .svg .svgz .xcf"
_AXES: Final = "the axes (N, H, W), or (N, H, W, 3) or (N, 3, H, W) for colour"

Array = npt.NDArray[Any]


class DataError(ValueError):
    """Data are unknown, missing, damaged or not images in [0, 1]; the message says what to do."""


def read(path: Path) -> tuple[Tensor, Tensor | None]:
    """The images of a file or folder, ``(N, H, W)`` in [0, 1] with torch's default dtype, and their labels.

    Raises:
        DataError: the data are damaged, fewer than ``MIN_IMAGES``, or not images that a person would recognise.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(Path(folder, "mine.npy"), np.arange(1200).reshape(100, 4, 3) % 7 == 0)
    ...     images, labels = read(Path(folder, "mine.npy"))
    >>> images.shape, images[0, 0], labels
    (torch.Size([100, 4, 3]), tensor([1., 0., 0.]), None)
    """
    images, labels = _folder(path) if path.is_dir() else _array_file(path)
    return _in_unit_interval(path, images), None if labels is None else _checked_labels(path, labels, len(images))


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
            remedy = "Save one array of uint8: np.save(path, `np.stack(list_of_images)`)."
            raise DataError(f"{path} holds Python objects, which can run code and are not loaded. {remedy}") from error
        raise damaged(path, in_one_line(error), "Save it again from its source.") from error


def _from_archive(path: Path, archive: Any) -> tuple[Array, Array | None]:
    """The images of an open .npz, and its labels or None."""
    names = ["images"] if "images" in archive.files else [name for name in archive.files if name != "labels"]
    if len(names) != 1:
        remedy = "Save it with np.savez(path, images=..., labels=...)."
        raise DataError(f"{path} needs an array 'images', or just one besides 'labels', got {archive.files}. {remedy}")
    members = archive[names[0]], archive["labels"] if "labels" in archive.files else None
    if not all(isinstance(member, np.ndarray | None) for member in members):  # others are returned as bytes
        raise TypeError("a member is not a NumPy array")
    return members


def _folder(folder: Path) -> tuple[Array, None]:
    paths = _picture_paths(folder)
    pictures: list[Array] = []
    for path in paths:
        pictures.append(_picture(path))
        first, latest = (f"{p.shape[1]} × {p.shape[0]} pixels of {p.dtype}" for p in (pictures[0], pictures[-1]))
        if first != latest:
            got = f"got {paths[0].name} of {first} and {path.name} of {latest}. Save them alike or remove some."
            raise DataError(f"pictures in {folder} need the same size and type, {got}")
    return np.stack(pictures), None


def _picture_paths(folder: Path) -> list[Path]:
    try:
        # By code points and composed letters: the split depends on no locale, and on no system that writes é as e + ´.
        entries = sorted(folder.iterdir(), key=lambda path: unicodedata.normalize("NFC", path.name))
    except OSError as error:
        raise damaged(folder, in_one_line(error), "Copy it to a place of your own.") from error
    files = [path for path in entries if not path.name.startswith(".") and not path.is_dir()]
    if unread := [path.name for path in files if path.suffix.lower() in _NOT_READ.split()]:
        found = f"pictures of kinds that are not read, such as {unread[0]}, {len(unread)} in all"
        raise DataError(f"{folder} holds {found}. Save them as PNG or JPEG, or move them elsewhere.")
    if paths := [path for path in files if path.suffix.lower() in _READ.split()]:
        return paths
    raise DataError(f"{folder} contains no pictures. Put them directly into it, with names that end in {_READ}.")


def _picture(path: Path) -> Array:
    """One picture as (H, W), upright and on white: uint8, uint16 if it has 16 bits, or float32."""
    try:
        with Image.open(path) as opened:
            # The second picture in the JPEG of a phone, an MPO, is a preview or a map of depths.
            frames = 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)
            # TIFF's tag 262 may say that 0 is white; Pillow inverts 8 bits, but not 16.
            odd = getattr(opened, "tag_v2", {}).get(262) == 0
            picture = ImageOps.exif_transpose(opened)
        clear = picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
        wide = picture.mode.startswith(("I", "F"))
        if clear and not wide:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        grey = np.asarray(picture if wide else picture.convert("L"))
    except Exception as error:  # Pillow raises OSError, SyntaxError and more on damaged files
        raise damaged(path, in_one_line(error), "Save it again as PNG, smaller if it is huge, or remove it.") from error
    if frames > 1:
        raise DataError(f"{path} needs one frame, got {frames}. Save each frame as a picture of its own, or remove it.")
    if wide and (clear or odd or (grey.dtype.kind == "i" and not 0 <= grey.min() <= grey.max() <= 65_535)):
        wanted = "8 bits a channel, or 16 bits of grey from black, 0, to white, 65535, without transparency"
        raise DataError(f"{path} needs {wanted}, got mode {picture.mode!r}. Save it with 8 bits.")
    return grey.astype(np.uint16) if grey.dtype.kind == "i" else grey


def _in_unit_interval(path: Path, images: Array) -> Tensor:
    """Images as (N, H, W) in [0, 1] of torch's default dtype, after all checks."""
    _check_form(path, images)
    with np.errstate(all="ignore"):  # Torch supports neither foreign byte orders nor long doubles.
        native = images.astype(np.float32 if images.dtype.itemsize <= 4 else np.float64)
    if bad := native.size - int(np.isfinite(native).sum()):
        got = f"{bad} that are NaN or infinite, the first in image {np.argwhere(~np.isfinite(native))[0, 0]}"
        raise DataError(f"{path} needs finite values, got {got}. Remove those images or repair those pixels.")
    grey = _grey(torch.from_numpy(native).to(torch.get_default_dtype()), _channel_axis(path, images))
    pixels = grey.flatten(1)
    if (pixels == pixels[:, :1]).all() or (pixels == pixels[:1]).all():
        raise DataError(f"{path} shows nothing: each image is of one colour, or all are the same. Save other images.")
    return grey.div_(_checked_white(path, images)).clamp_(max=1)  # the sum of three channels is rounded


def _check_form(path: Path, images: Array) -> None:
    """Raise unless images has a type of numbers, possible axes and enough images."""
    if images.dtype.kind not in "biuf":
        raise DataError(f"{path} needs numbers in [0, 1] or 0…255, got {images.dtype}. Save pixels as such numbers.")
    if images.ndim not in (2, 3, 4):
        raise DataError(f"{path} needs {_AXES}, got shape {images.shape}. Save `np.stack(list_of_images)`.")
    if images.size == 0 or len(images) < MIN_IMAGES:
        last = " If the last axis counts them, save `np.moveaxis(images, -1, 0)`."
        wanted = f"at least {MIN_IMAGES} images of at least one pixel, because chapters measure on as many"
        remedy = f"Add some.{last if images.ndim > 2 and images.shape[-1] >= MIN_IMAGES else ''}"
        raise DataError(f"{path} needs {wanted}, got shape {images.shape}. {remedy}")


def _channel_axis(path: Path, images: Array) -> int | None:
    """The axis of the one or three channels, or None for the axes (N, H, W)."""
    shape, (_, _, spread) = images.shape, _values(images)
    if images.ndim == 3 and (min(shape[1:]) > 4 or max(shape[1:]) <= 16):
        return None
    axes = [axis for axis in (1, 3) if images.ndim == 4 and shape[axis] in (1, 3)]
    if len(axes) == 1:
        return axes[0]
    if images.ndim < 4:  # flat images, or one colour picture
        d = math.prod(shape[1:])
        sides = f"{math.isqrt(d)}, {math.isqrt(d)}" if math.isqrt(d) ** 2 == d else "H, W"
        remedy = f"Flat images: `images.reshape(len(images), {sides})`; single pictures: `np.stack(list_of_images)`."
    elif axes:
        remedy = f"Choose `{spread}.mean(axis=1)` or `{spread}.mean(axis=3)`."
    elif 4 in (shape[1], shape[3]):
        part = "..., " if shape[3] == 4 else ":, "
        remedy = f"Put RGBA on white: `1 - {spread}[{part}3:] * (1 - {spread}[{part}:3])`."
    else:
        remedy = f"Choose one channel: `images[{':, 0' if shape[1] < shape[3] else '..., 0'}]`."
    raise DataError(f"{path} needs {_AXES}, got shape {shape}. {remedy}")


def _grey(x: Tensor, channel_axis: int | None) -> Tensor:
    """Images x as (N, H, W): red, green and blue are weighted as in Pillow's mode L."""
    if channel_axis is None or x.shape[channel_axis] == 1:
        return x if channel_axis is None else x.squeeze(channel_axis)
    red, green, blue = x.unbind(channel_axis)
    return (19_595 * red + 38_470 * green + 7_471 * blue) / 65_536


def _checked_white(path: Path, images: Array) -> int:
    """The value that stands for white, after a check that the values suit it."""
    low, high, spread = _values(images)
    # 0 where the type does not say.
    white = {"b1": 1, "u1": 255, "u2": 65_535}.get(images.dtype.str[1:], 1 if images.dtype.kind == "f" else 0)
    remedy = f"Save `{spread}` instead."
    if path.is_dir():  # where images would be a name without a meaning
        mode = "L" if images.dtype == np.uint8 else "F"
        stack = f"images = np.stack([Image.open(path).convert({mode!r}) for path in paths])"
        remedy = f"With `{stack}`, save `{spread}` as a .npy file."
    got = f"got {images.dtype} from {low} to {high}. {remedy}"
    if low < 0 or high > white:
        raise DataError(f"{path} needs bool, uint8 in 0…255, uint16 in 0…65535 or floats in [0, 1], {got}")
    if high < white / 8:
        raise DataError(f"{path} would be nearly black, as white is {white}: {got}")
    return white


def _values(images: Array) -> tuple[float, float, str]:
    """The least and the largest value, and the NumPy expression that spreads all values over [0, 1]."""
    number = float if images.dtype.kind == "f" else int
    low, high = number(images.min()), number(images.max())
    # White is 1, 255 or 65535, unless that leaves the images nearly black.
    top = next((top for top in (1, 255, 65_535) if top / 8 <= high <= top), high)
    name = "images" if images.dtype.itemsize <= 8 else "images.astype(float)"  # interp takes no long doubles
    return low, high, f"np.interp({name}, {(low, high) if low < 0 else (0, top)}, (0, 1))"


def _checked_labels(path: Path, labels: Array, n_images: int) -> Tensor:
    if labels.shape != (n_images,) or labels.dtype.kind not in "iu":
        got = f"got {labels.shape} of {labels.dtype}. Save one whole number for each image, or leave the labels out."
        raise DataError(f"labels in {path} need shape ({n_images},) and an integer dtype, {got}")
    return torch.from_numpy(labels.astype(np.int64))


def damaged(path: Path, reason: str, remedy: str) -> DataError:
    return DataError(f"{path} cannot be read ({reason}): damaged, cut short, mislabelled or closed to you. {remedy}")


def in_one_line(error: Exception) -> str:
    """An error's type and message, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
