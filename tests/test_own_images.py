"""Your own images, loaded by ``vaebook.data.load``: arrays, pictures, and errors for wrong or damaged files."""

import contextlib
import math
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from images import message, numbered, splits
from PIL import Image, ImageSequence

from vaebook import own_images
from vaebook.data import DataError, load
from vaebook.own_images import MIN_IMAGES, read

INTRO = Path(__file__).parents[1] / "pages" / "intro.md"
SHOWN: set[str] = set()  # the rows of the introduction's tables that tests show
Array = np.ndarray[Any, Any]
Test = Callable[..., None]


def row(*names: str) -> Callable[[Test], Test]:
    """The test shows these rows of the tables."""
    SHOWN.update(names)
    return lambda test: test


def rows() -> list[str]:
    section = INTRO.read_text(encoding="utf-8").split("### Your own images")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    return [cell for cell in cells if cell not in ("---", "an array", "a picture in the folder")]


def test_every_row_of_the_tables_has_a_test() -> None:
    suffixes = {f"`{'` `'.join(names.split())}`" for names in (own_images._READ, own_images._NOT_READ)}
    assert sorted(rows()) == sorted(SHOWN | suffixes)


def save(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def loaded(path: Path) -> Array:
    """The images that are read, in their order; load only permutes them."""
    return read(path)[0].double().numpy()


def remedies(path: Path, **names: Any) -> list[Array]:
    """What is read after doing what the message says: one array for each expression between its backticks."""
    expressions = re.findall(r"`([^`]+)`", message(path))
    scope = {"np": np, "Image": Image, **names}
    for statement in (part for part in expressions if part.startswith("images = ")):
        exec(statement, scope)
    values = [eval(part, scope) for part in expressions if not part.startswith("images = ")]
    assert values
    return [loaded(save(path.with_name(f"mended{i}.npy"), value)) for i, value in enumerate(values)]


GREY = (np.arange(600) * 7 % 256).reshape(100, 2, 3)  # all of 0…255
UNIT = GREY / 255
BITS = GREY // 64 % 2
WIDE = np.arange(600).reshape(100, 2, 3) * 109  # up to 65,291
MANY = (np.arange(78_400) * 7 % 256).astype(np.uint8).reshape(100, 28, 28)
COLOUR = np.random.default_rng(0).integers(0, 256, (100, 5, 6, 3))
RGBA = np.random.default_rng(1).integers(0, 256, (100, 5, 6, 4))
WEIGHTS = np.array([0.299, 0.587, 0.114])


# Your own arrays


@given(
    array=hnp.arrays(np.uint8, st.tuples(st.integers(100, 110), st.integers(1, 5), st.integers(2, 5))),
    fortran=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_uint8_round_trip(tmp_path_factory: pytest.TempPathFactory, array: Array, fortran: bool) -> None:
    path = tmp_path_factory.mktemp("round") / "trip.npy"
    array[0], array[0, 0, 0] = 255, 0  # one image with a contrast
    np.save(path, np.asfortranarray(array) if fortran else array)
    images = load(path)
    assert images.shape == array.shape[1:]
    assert images.name == "trip.npy"
    assert images.train_labels is images.validation_labels is images.test_labels is None
    back = (torch.cat(splits(images)) * 255).round().to(torch.uint8)
    wanted = array.reshape(len(array), -1)
    assert sorted(map(tuple, back.tolist())) == sorted(map(tuple, wanted.tolist()))


def test_grey_values_0_and_255_become_exactly_0_and_1(tmp_path: Path) -> None:
    path = save(
        tmp_path / "g.npy", np.full((100, 1, 2), [0, 255], dtype=np.uint8) ^ (np.arange(100) == 3)[:, None, None]
    )
    assert {0.0, 1.0} <= set(loaded(path).flat)


@row("floats in [0, 1]")
@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", np.longdouble])
def test_floats_of_every_type_are_read_exactly(tmp_path: Path, dtype: Any) -> None:
    values = np.arange(400).reshape(100, 2, 2) / 512  # exact in half precision
    np.savez_compressed(tmp_path / "f.npz", values.astype(dtype))
    images = load(tmp_path / "f.npz")
    assert sorted(torch.cat(splits(images)).flatten().tolist()) == values.flatten().tolist()


@row("bool", "uint8", "uint16", "(N, H, W)")
@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (BITS.astype(bool), BITS),
        (GREY.astype(np.uint8), GREY / 255),
        (WIDE.astype("<u2"), WIDE / 65_535),
        (WIDE.astype(">u2"), WIDE / 65_535),
        (np.asfortranarray(WIDE.astype(np.uint16)), WIDE / 65_535),
    ],
)
def test_types_are_read_as_a_person_sees_them(tmp_path: Path, array: Array, wanted: Array) -> None:
    np.testing.assert_allclose(loaded(save(tmp_path / "a.npy", array)), wanted, rtol=1e-6)


@row("(N, 1, H, W), (N, H, W, 1)", "(N, 3, H, W), (N, H, W, 3)")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_channels_may_be_second_or_last(tmp_path: Path, dtype: Any) -> None:
    white = {np.uint8: 255, np.uint16: 65_535}.get(dtype, 1)
    colour = (COLOUR / 255 * white).astype(dtype)
    for array in (colour, np.moveaxis(colour, 3, 1)):
        np.testing.assert_allclose(loaded(save(tmp_path / "a.npy", array)), colour @ WEIGHTS / white, atol=2e-5)
    grey = colour[..., 0]
    for array in (grey[..., None], grey[:, None]):
        np.testing.assert_allclose(loaded(save(tmp_path / "a.npy", array)), grey / white, rtol=1e-6)


def test_grey_of_an_array_is_pillows(tmp_path: Path) -> None:
    colour = COLOUR.astype(np.uint8)
    pillows = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in colour])
    found = loaded(save(tmp_path / "a.npy", colour)) * 255
    assert np.abs(found - pillows).max() <= 0.5001  # Pillow rounds


def test_white_in_colour_is_white(tmp_path: Path) -> None:
    colour = np.ones((100, 5, 5, 3))
    colour[3, 0, 0] = 0
    assert loaded(save(tmp_path / "w.npy", colour)).max() == 1


def test_an_archive_may_hold_other_arrays_beside_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", images=GREY / 255, weights=np.ones(4))
    assert load(tmp_path / "m.npz").shape == (2, 3)


def test_loading_does_not_change_any_files(tmp_path: Path) -> None:
    good, bad = numbered(tmp_path / "good.npy", 100), tmp_path / "bad.npy"
    bad.write_bytes(good.read_bytes()[:-1])
    before = [(path.name, path.read_bytes(), path.stat().st_mtime_ns) for path in (good, bad)]
    load(good)
    message(bad)
    after = [(path.name, path.read_bytes(), path.stat().st_mtime_ns) for path in (good, bad)]
    assert before == after
    assert {path.name for path in tmp_path.iterdir()} == {"good.npy", "bad.npy"}


@pytest.mark.parametrize("name", ["~/n.npy", "./n.npy", "n.npy"])
def test_a_path_may_be_relative_or_start_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    numbered(tmp_path / "n.npy", 100)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load(name).name == "n.npy"


# Arrays that are refused


def spoilt(value: float) -> Array:
    images = np.zeros((100, 2, 2))
    images[3, 1, 1] = value
    return images


@row("values far below white", "every image of one colour, or all identical", "fewer than a hundred images")
@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (spoilt(np.nan), ["finite", "1 that are NaN or infinite", "image 3", "Remove"]),
        (spoilt(np.inf), ["finite", "image 3"]),
        (spoilt(np.inf).astype(np.longdouble), ["finite", "image 3"]),
        (spoilt(1.5), ["[0, 1]", "0.0 to 1.5"]),
        (spoilt(-0.25), ["[0, 1]", "-0.25 to 0.0"]),
        (spoilt(np.nextafter(1, 2)), ["[0, 1]", "1.0000000000000002"]),
        (np.zeros((100, 4)), ["axes (N, H, W)", "(100, 4)"]),
        (np.float64(0.5), ["axes (N, H, W)", "()"]),
        (np.zeros((0, 2, 2)), ["at least 100 images", "(0, 2, 2)"]),
        (np.zeros((100, 0, 2)), ["at least one pixel", "(100, 0, 2)"]),
        (UNIT[:99], ["at least 100 images", "(99, 2, 3)", "chapters measure on as many", "Add some."]),
        (np.zeros((100, 2, 2), dtype=complex), ["got complex128"]),
        (np.zeros((100, 2, 2), dtype="U1"), ["got <U1"]),
        (np.zeros((100, 2, 2), dtype=[("r", "u1"), ("g", "u1")]), ["got [('r'"]),
        (np.zeros((100, 2, 2)), ["shows nothing", "Save other images"]),
        (np.arange(100.0)[:, None, None].repeat(2, 1) / 99, ["shows nothing"]),
        (UNIT[:1].repeat(100, 0), ["shows nothing"]),
        (np.full((100, 5, 5, 3), [0.1, 0.7, 0.3]), ["shows nothing"]),
        (BITS.astype(np.uint8), ["nearly black", "white is 255: got uint8 from 0 to 1"]),
        ((GREY % 17).astype(np.uint8), ["nearly black", "from 0 to 16"]),
        (GREY.astype(np.uint16), ["nearly black", "white is 65535: got uint16 from 0 to 255"]),
        (UNIT / 255, ["nearly black", "white is 1: got float64"]),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_are_not_images(tmp_path: Path, array: Array, wanted: list[str], suffix: str) -> None:
    path = tmp_path / f"bad{suffix}"
    (np.save if suffix == ".npy" else np.savez)(path, array)
    text = message(path)
    assert [part for part in [str(path), *wanted] if part not in text] == []


@row("other integers")
@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (BITS.astype(np.uint8), BITS),
        ((GREY % 17).astype(np.uint8), GREY % 17 / 16),
        (GREY.astype(np.uint16), GREY / 255),
        (GREY.astype(">u2"), GREY / 255),
        ((WIDE // 16).astype(np.uint16), WIDE // 16 / (WIDE // 16).max()),  # 12 bits of a camera
        (UNIT / 255, UNIT),
        (BITS.astype(np.int64), BITS),
        (-BITS.astype(np.int8), 1 - BITS),
        ((GREY % 17).astype(np.int32), GREY % 17 / 16),
        (GREY.astype(np.int64), GREY / 255),
        (GREY.astype(">i4"), GREY / 255),
        (WIDE.astype(np.uint32), WIDE / 65_535),
        (WIDE.astype(np.uint64) * 2, WIDE / WIDE.max()),
        ((GREY - 128).astype(np.int8), GREY / 255),
        (GREY * 1.0, GREY / 255),
        (GREY.astype(np.float16), GREY / 255),
        ((UNIT * 2 - 1).astype(np.float32), UNIT),
        (UNIT * 1.5, UNIT),
        (UNIT.astype(np.longdouble) * 2, UNIT),
        (UNIT * 3 - 1, UNIT),
    ],
)
def test_the_remedy_for_values_works(tmp_path: Path, array: Array, wanted: Array) -> None:
    for mended in remedies(save(tmp_path / "a.npy", array), images=array):
        np.testing.assert_allclose(mended, wanted, atol=1e-6)


def on_white(rgba: Array) -> Array:
    return (rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]) @ WEIGHTS


@row("four channels", "flat images (N, d), strips, other shapes")
@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (MANY.reshape(100, 784), [MANY / 255, MANY / 255]),
        (UNIT.reshape(100, 6), [UNIT, MANY / 255]),  # 6 is no square: the reader puts in H = 2 and W = 3
        (MANY.reshape(100, 1, 784), [MANY / 255, MANY / 255]),
        (MANY.reshape(100, 784, 1), [MANY / 255, MANY / 255]),
        (np.concatenate([MANY[:, :, :3]] * 2, axis=1), [MANY / 255]),  # looks like one colour picture
        (np.stack([MANY] * 2)[:, :, None], [MANY / 255]),
        (MANY.transpose(1, 2, 0), [MANY / 255]),
        (COLOUR.astype(np.uint8).transpose(1, 2, 3, 0), [COLOUR @ WEIGHTS / 255]),
        (RGBA.astype(np.uint8), [on_white(RGBA / 255)]),
        (np.moveaxis(RGBA, 3, 1).astype(np.uint16), [on_white(RGBA / 255)]),  # 8 bits in 16
        (RGBA / 255, [on_white(RGBA / 255)]),
        (RGBA[..., :2].astype(np.uint8), [RGBA[..., 0] / 255]),
        (np.moveaxis(RGBA[..., :2], 3, 1).astype(np.uint8), [RGBA[..., 0] / 255]),
        (COLOUR[:, :1, :, :1].astype(np.uint8), [COLOUR[:, 0, :, :1] / 255, COLOUR[:, :1, :, 0] / 255]),
        (COLOUR[:, :3].astype(np.int64), [COLOUR[:, :3].mean(1) / 255, COLOUR[:, :3].mean(3) / 255]),
    ],
)
def test_the_remedy_for_axes_works(tmp_path: Path, array: Array, wanted: list[Array]) -> None:
    path = save(tmp_path / "a.npy", array)
    height, width = (2, 3) if array.shape[1:] == (6,) else (12, 14)
    found = remedies(path, images=array, H=height, W=width, list_of_images=list(MANY))
    assert len(found) >= len(wanted)
    for mended, right in zip(found[-len(wanted) :], wanted, strict=True):
        np.testing.assert_allclose(mended, right, atol=2e-5)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@row("Python objects")
def test_object_arrays_are_never_unpickled(tmp_path: Path, suffix: str) -> None:
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return ran.touch, ()

    path = tmp_path / f"bomb{suffix}"
    (np.save if suffix == ".npy" else np.savez)(path, np.array([Bomb()] * 10, dtype=object))
    text = message(path)
    assert str(path) in text
    assert "Python objects" in text
    assert not ran.exists()
    np.testing.assert_allclose(remedies(path, list_of_images=list(MANY)), [MANY / 255], rtol=1e-6)


@pytest.mark.parametrize("names", [("a", "b"), ("labels",), ()])
def test_an_archive_without_clear_images(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **dict.fromkeys(names, UNIT))
    text = message(path)
    assert str(list(names)) in text
    assert "np.savez(path, images=..., labels=...)" in text
    np.savez(path, images=UNIT, labels=np.arange(100))
    assert loaded(path).shape == UNIT.shape


@pytest.mark.parametrize("labels", [np.zeros(9, int), np.zeros((100, 1), int), np.zeros(100)])
def test_labels_that_do_not_fit(tmp_path: Path, labels: Array) -> None:
    path = tmp_path / "l.npz"
    np.savez(path, images=UNIT, labels=labels)
    text = message(path)
    assert f"labels in {path} need shape (100,) and an integer dtype, got {labels.shape} of {labels.dtype}" in text
    assert "Save one whole number for each image, or leave the labels out." in text
    np.savez(path, images=UNIT)
    assert read(path)[1] is None


NUMBERS = ["?", "u1", "<u2", ">u2", "i1", ">i2", "<i4", "u4", "i8", ">u8", "<f2", ">f2", "f4", ">f8", "g"]
OTHERS = ["c8", "U2", "S3", "M8[s]", "V4", "u1,u1"]
GOOD_SHAPES = st.sampled_from(
    [(100, 2, 3), (101, 4, 2), (100, 5, 4, 3), (101, 3, 4, 5), (100, 1, 2, 4), (100, 4, 2, 1)]
)
SHAPES = (
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 17, 100, 101]), max_size=4).map(tuple).filter(lambda s: math.prod(s) < 1e5)
)


@pytest.mark.parametrize(("types", "shapes"), [(NUMBERS, GOOD_SHAPES), (NUMBERS + OTHERS, SHAPES)])
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), top=st.none() | st.sampled_from([1, 16, 255, 65_535]))
@settings(max_examples=60, deadline=None)
def test_any_array_gives_its_images_or_a_data_error_whose_remedy_works(
    tmp_path_factory: pytest.TempPathFactory,
    types: list[str],
    shapes: st.SearchStrategy[tuple[int, ...]],
    data: st.DataObject,
    seed: int,
    top: int | None,
) -> None:
    """Values are of any bytes, NaN and infinities among them, or numbers from 0 to top."""
    kind, shape, rng = np.dtype(data.draw(st.sampled_from(types))), data.draw(shapes), np.random.default_rng(seed)
    if (top is None and kind.kind != "b") or kind.kind not in "biuf":
        array = np.frombuffer(rng.bytes(kind.itemsize * math.prod(shape)), kind).reshape(shape)
    else:
        largest = 1 if kind.kind == "b" else float((np.finfo if kind.kind == "f" else np.iinfo)(kind).max)
        values = rng.random(shape) * min(top or 1, largest)
        array = (values if kind.kind == "f" else values.round()).astype(kind)
    path = save(tmp_path_factory.mktemp("any") / "any.npy", array)
    try:
        found = loaded(path)
    except DataError as error:
        # Numbers in a good shape have a remedy. Extreme bytes may not be told apart once they are in [0, 1].
        if top and (shapes is GOOD_SHAPES or "Save `np.interp" in str(error)):
            assert np.isfinite(remedies(path, images=array)).all()
        return
    exact = array / {"b1": 1, "u1": 255, "u2": 65_535}.get(kind.str[1:], 1)
    if array.ndim == 4:
        channels = 1 if array.shape[1] in (1, 3) else 3
        exact = np.moveaxis(exact, channels, 3) @ (WEIGHTS if array.shape[channels] == 3 else np.ones(1))
    assert 0 <= found.min() < found.max() <= 1
    assert exact.max() >= 1 / 8
    np.testing.assert_allclose(found, exact.astype(float), atol=2e-5)


# Your own pictures


def picture_folder(folder: Path, mode: str = "L", n: int = MIN_IMAGES) -> Path:
    folder.mkdir()
    for i in range(n):
        Image.fromarray(GREY[i].astype(np.uint8)).convert(mode).save(folder / f"{i:02d}.png")
    return folder


def among_others(folder: Path, name: str, picture: Image.Image, **options: Any) -> Array:
    """What is read, in 0…255, of a picture beside a hundred others."""
    picture.save(picture_folder(folder) / name, **options)
    return loaded(folder)[-1] * 255


def grey(red: int, green: int, blue: int) -> int:
    return round(WEIGHTS @ (red, green, blue))


@row("other files, hidden files, folders")
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_pictures_are_read_in_the_order_of_their_names(tmp_path: Path, mode: str) -> None:
    folder = picture_folder(tmp_path / "pictures", mode)
    for name in ("notes.txt", "Thumbs.db", ".DS_Store", "._00.png", "no suffix", "desktop.ini"):
        (folder / name).write_bytes(b"no picture")
    (folder / "more.png").mkdir()
    save(tmp_path / "a.npy", GREY.astype(np.uint8))
    pictures, array = load(folder), load(tmp_path / "a.npy")
    assert (pictures.name, pictures.shape) == ("pictures", (2, 3))
    for ours, theirs in zip(splits(pictures), splits(array), strict=True):
        assert torch.equal(ours, theirs)


SIX = Image.fromarray(np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3))
RED = Image.new("RGB", (3, 2), (255, 0, 0))


@row("colour, palette, CMYK", "one bit")
@pytest.mark.parametrize(
    ("name", "picture", "options", "wanted"),
    [
        ("x.png", SIX, {}, np.asarray(SIX)),
        ("x.BMP", SIX, {}, np.asarray(SIX)),
        ("x.Webp", SIX.convert("RGB"), {"lossless": True}, np.asarray(SIX)),
        ("x.pgm", SIX, {}, np.asarray(SIX)),
        ("x.tga", SIX, {}, np.asarray(SIX)),
        ("x.gif", SIX, {"interlace": 1}, np.asarray(SIX)),
        ("x.tif", SIX, {"tiffinfo": {262: 0}}, np.asarray(SIX)),  # 0 is white
        ("x.png", RED, {}, grey(255, 0, 0)),
        ("x.png", RED.quantize(4), {}, grey(255, 0, 0)),
        ("x.gif", Image.new("RGB", (3, 2), (0, 255, 0)), {}, grey(0, 255, 0)),
        ("x.tif", Image.new("CMYK", (3, 2), (0, 255, 255, 0)), {}, grey(255, 0, 0)),
        ("x.tif", SIX.point(lambda value: 255 * (value > 100)).convert("1"), {}, [[0, 0, 0], [255, 255, 255]]),
        ("x.png", SIX.point(lambda value: 255 * (value > 100)).convert("1"), {}, [[0, 0, 0], [255, 255, 255]]),
    ],
)
def test_every_kind_of_picture_is_read(
    tmp_path: Path, name: str, picture: Image.Image, options: dict[str, Any], wanted: Any
) -> None:
    found = among_others(tmp_path / "p", name, picture, **options)
    np.testing.assert_allclose(found, np.broadcast_to(wanted, (2, 3)), atol=1e-3)


@pytest.mark.parametrize("name", ["x.jpg", "x.jfif"])
def test_jpeg_in_grey_colour_and_cmyk(tmp_path: Path, name: str) -> None:
    for mode in ("L", "RGB", "CMYK"):
        picture = Image.new("RGB", (3, 2), (200, 100, 50)).convert(mode)
        found = among_others(tmp_path / mode, name, picture, format="JPEG", quality=95)
        np.testing.assert_allclose(found, grey(200, 100, 50), atol=3)


def with_alpha(mode: str, alpha: Array) -> Image.Image:
    picture = Image.new("L", (3, 2), 0).convert(mode)
    picture.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return picture


@row("transparency")
def test_transparency_is_seen_on_white(tmp_path: Path) -> None:
    alpha = np.arange(0, 240, 40).reshape(2, 3)
    for mode in ("L", "RGB"):
        found = among_others(tmp_path / mode, "x.png", with_alpha(mode, alpha))
        np.testing.assert_allclose(found, 255 - alpha, atol=1)
    keyed = SIX.point(lambda value: value // 40)  # the values 0…5 are one transparent, or an alpha for each
    keyed.putpalette([0, 0, 0] * 6)
    for i, transparency in enumerate((2, bytes([255, 255, 0, 255, 255, 255]))):
        found = among_others(tmp_path / str(i), "x.png", keyed, transparency=transparency)
        np.testing.assert_allclose(found, [[0, 0, 255], [0, 0, 0]])
    found = among_others(tmp_path / "gif", "x.gif", keyed, transparency=2)
    np.testing.assert_allclose(found, [[0, 0, 255], [0, 0, 0]])
    for i, (picture, key) in enumerate([(SIX, 40), (SIX.convert("RGB"), (40, 40, 40))]):
        found = among_others(tmp_path / f"key{i}", "x.png", picture, transparency=key)
        np.testing.assert_allclose(found, [[0, 255, 80], [120, 160, 200]], atol=1e-3)


@row("turned by EXIF")
@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (2, np.fliplr),
        (3, lambda seen: np.rot90(seen, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda seen: np.rot90(seen, -1)),
        (7, lambda seen: np.rot90(seen, 2).T),
        (8, np.rot90),
    ],
)
def test_a_turned_picture_is_read_upright(tmp_path: Path, name: str, orientation: int, turn: Any) -> None:
    stored = np.arange(0, 240, 40, dtype=np.uint8).reshape((2, 3) if orientation < 5 else (3, 2))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(stored).convert("RGB")
    found = among_others(tmp_path / "p", name, picture, exif=exif, **({"lossless": True} if name == "x.webp" else {}))
    np.testing.assert_allclose(found, turn(stored), atol=1e-3)


def alike(folder: Path, suffix: str, arrays: Array) -> Path:
    folder.mkdir()
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i:03d}{suffix}")
    return folder


@row("sixteen bits of grey", "floating-point TIFF")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_divided_by_65535(tmp_path: Path, suffix: str) -> None:
    found = loaded(alike(tmp_path / "p", suffix, WIDE.astype(np.uint16)))
    np.testing.assert_allclose(found, WIDE / 65_535, rtol=1e-6)


def test_floating_point_is_read_as_it_is(tmp_path: Path) -> None:
    np.testing.assert_allclose(loaded(alike(tmp_path / "p", ".tif", UNIT.astype(np.float32))), UNIT, rtol=1e-6)


@pytest.mark.parametrize(
    ("suffix", "arrays", "wanted"),
    [
        (".png", (GREY % 17).astype(np.uint8), GREY % 17 / 16),
        (".png", GREY.astype(np.uint16), UNIT),
        (".tif", GREY.astype(np.float32), UNIT),
        (".tif", (UNIT * 3 - 1).astype(np.float32), UNIT),
        (".png", np.stack([GREY % 17] * 3, axis=-1).astype(np.uint8), GREY % 17 / 16),
    ],
)
def test_the_remedy_for_the_values_of_pictures_works(tmp_path: Path, suffix: str, arrays: Array, wanted: Array) -> None:
    folder = alike(tmp_path / "p", suffix, arrays)
    [mended] = remedies(folder, paths=sorted(folder.iterdir()))
    np.testing.assert_allclose(mended, wanted, atol=1e-6)


# Pictures that are refused: each case spoils a good folder, and mends it as the message says.


def to_png(path: Path) -> None:
    with Image.open(path) as picture:
        frames = [frame.convert("L").resize((3, 2)) for frame in ImageSequence.Iterator(picture)]
    path.unlink()
    for i, frame in enumerate(frames):
        frame.save(path.with_name(f"{path.stem}-{i}.png"))


def in_frames(path: Path, **options: Any) -> None:
    frames = [Image.fromarray(GREY[i].astype(np.uint8)) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)


def animated_webp(path: Path) -> None:
    in_frames(path, lossless=True)


def of_mode(mode: str, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.new(mode, (3, 2)).save(path, **options)

    return write


def sixteen_bits(**options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.fromarray(WIDE[5].astype(np.uint16)).save(path, **options)

    return write


def another_size(path: Path) -> None:
    Image.new("L", (2, 3)).save(path)


def thirty_two_bits(path: Path) -> None:
    Image.fromarray((WIDE[5] * 99).astype(np.int32)).save(path)


def words(path: Path) -> None:
    path.write_text("no picture")


def half_a_jpeg(path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:700])


def broken_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def loop(path: Path) -> None:
    path.symlink_to(path)


@row("several frames", "another size or number of bits than the first", "damaged, cut short, mislabelled, huge")
@pytest.mark.parametrize(
    ("name", "spoil", "wanted", "mend"),
    [
        ("x.gif", in_frames, ["needs one frame, got 3. Save each frame as a picture of its own"], to_png),
        ("x.png", in_frames, ["needs one frame, got 3"], to_png),
        ("x.tif", in_frames, ["needs one frame, got 3"], Path.unlink),
        ("x.webp", animated_webp, ["needs one frame, got 3"], to_png),
        ("x.png", another_size, ["00.png of 3 × 2", "x.png of 2 × 3", "alike or remove"], to_png),
        ("x.png", sixteen_bits(), ["00.png of 3 × 2 pixels of uint8", "x.png of 3 × 2 pixels of uint16"], to_png),
        ("x.tif", sixteen_bits(tiffinfo={262: 0}), ["needs 8 bits", "0, to white", "Save it with 8 bits"], to_png),
        ("x.png", sixteen_bits(transparency=9), ["needs 8 bits", "without transparency"], to_png),
        ("x.tif", thirty_two_bits, ["needs 8 bits", "'I'"], to_png),
        ("x.tif", of_mode("LAB"), ["cannot be read", "Save it again as PNG"], Path.unlink),
        ("x.jpg", half_a_jpeg, ["cut short", "Save it again"], Path.unlink),
        ("x.jpg", words, ["mislabelled", "or remove it"], Path.unlink),
        ("x.png", broken_link, ["x.png cannot be read", "or remove it"], Path.unlink),
        ("x.png", loop, ["x.png cannot be read"], Path.unlink),
        ("x.heic", words, ["of kinds that are not read, such as x.heic, 1 in all", "as PNG or JPEG"], Path.unlink),
        ("x.DNG", sixteen_bits(format="TIFF"), ["not read, such as x.DNG"], to_png),
        ("x.svg", words, ["not read, such as x.svg", "move them elsewhere"], Path.unlink),
    ],
)
def test_a_picture_that_is_refused_and_mended(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], wanted: list[str], mend: Callable[[Path], None]
) -> None:
    folder = picture_folder(tmp_path / "p")
    spoil(folder / name)
    text = message(folder)
    assert [part for part in [str(folder), *wanted] if part not in text] == []
    mend(folder / name)
    np.testing.assert_allclose(loaded(folder)[:MIN_IMAGES], UNIT, rtol=1e-6)


def test_the_second_picture_in_the_jpeg_of_a_phone_is_left_alone(tmp_path: Path) -> None:
    first, second = Image.new("L", (3, 2), 200), Image.new("L", (3, 2), 90)
    found = among_others(tmp_path / "p", "x.jpg", first, format="MPO", save_all=True, append_images=[second])
    np.testing.assert_allclose(found, 200, atol=2)


def test_every_suffix_of_a_picture_is_read_or_refused_by_name(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "p", n=1)
    for suffix in f"{own_images._READ} {own_images._NOT_READ}".upper().split():
        (folder / f"x{suffix}").write_text("no picture")
        assert f"x{suffix}" in message(folder)
        (folder / f"x{suffix}").unlink()


def test_a_huge_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = picture_folder(tmp_path / "p")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    text = message(folder)
    assert "DecompressionBombError" in text
    assert "smaller if it is huge" in text


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = message(tmp_path / "empty")
    assert f"{tmp_path / 'empty'} contains no pictures" in text
    assert ".png" in text


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    folder = picture_folder(tmp_path / "p")
    monkeypatch.setattr(Path, "iterdir", refuse)  # root may read everything
    text = message(folder)
    assert f"{folder} cannot be read (PermissionError" in text
    assert "closed to you" in text


def test_too_few_pictures(tmp_path: Path) -> None:
    assert "at least 100 images" in message(picture_folder(tmp_path / "p", n=99))


# Damage


@pytest.fixture(scope="session")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    noise = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
    np.save(folder / "good.npy", noise)
    np.savez(folder / "plain.npz", images=noise, labels=np.arange(100))
    np.savez_compressed(folder / "good.npz", images=noise, labels=np.arange(100))
    Image.fromarray(noise[0]).save(folder / "good.png")
    Image.fromarray(noise[0]).save(folder / "good.jpg")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def place(folder: Path, name: str, content: bytes) -> Path:
    """Write the file, and 99 good pictures beside it if it is a picture; return the path to load."""
    path = folder / name
    path.write_bytes(content)
    if path.suffix in (".npy", ".npz"):
        return path
    Image.new("L", (8, 8)).save(folder / "neighbour0.png")
    for i in range(1, 99):
        (folder / f"neighbour{i}.png").hardlink_to(folder / "neighbour0.png")
    return folder


GOOD_NAMES = ["good.npy", "plain.npz", "good.npz", "good.png", "good.jpg"]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_the_undamaged_files_load(tmp_path: Path, good_files: dict[str, bytes], name: str) -> None:
    assert load(place(tmp_path, name, good_files[name])).shape == (8, 8)


@pytest.mark.parametrize("name", GOOD_NAMES)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.8])
def test_a_file_cut_short_is_named(tmp_path: Path, good_files: dict[str, bytes], name: str, kept: float) -> None:
    content = good_files[name]
    text = message(place(tmp_path, name, content[: int(kept * len(content))]))
    assert f"{tmp_path / name} cannot be read" in text
    assert "damaged, cut short" in text
    assert "Save it again" in text


@pytest.mark.parametrize("name", GOOD_NAMES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_flipped_bytes_give_images_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory,
    good_files: dict[str, bytes],
    name: str,
    data: st.DataObject,
) -> None:
    """A changed pixel is not detectable, but no change may raise another kind of error."""
    content = bytearray(good_files[name])
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    target = place(tmp_path_factory.mktemp("flip"), name, bytes(content))
    with contextlib.suppress(DataError):
        assert all(((split >= 0) & (split <= 1)).all() for split in splits(load(target)))


@pytest.mark.parametrize("name", ["text.npy", "text.npz", "text.png"])
def test_a_text_file_with_the_name_of_images_is_refused(tmp_path: Path, name: str) -> None:
    text = message(place(tmp_path, name, b"these are words, not images" * 20))
    assert name in text
    assert "damaged" in text
    assert "pickle" not in text  # NumPy's own message proposes allow_pickle=True, which is unsafe


def test_an_archive_without_arrays_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "images").write_text("words")
    shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "inside")
    (tmp_path / "a.zip").rename(tmp_path / "a.npz")
    assert "not a NumPy array" in message(tmp_path / "a.npz")


def test_a_single_picture_is_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    text = message(tmp_path / "one.png")
    assert ".npy or .npz file or a folder" in text
    assert "'.png'" in text


def test_names_with_composed_and_decomposed_letters_give_one_split(tmp_path: Path) -> None:
    """A Mac writes é as e and an accent, which sorts elsewhere."""
    generator, loaded = np.random.default_rng(0), []
    pictures = generator.integers(0, 256, (100, 4, 3), dtype=np.uint8)
    for form in ("NFC", "NFD"):
        folder = tmp_path / form
        folder.mkdir()
        for k, picture in enumerate(pictures):
            name = unicodedata.normalize(form, f"{'eéfz'[k % 4]}{k:03}.png")
            Image.fromarray(picture).save(folder / name)
        loaded.append(load(folder).train)
    assert torch.equal(*loaded)


NOISE = np.random.default_rng(1).random((MIN_IMAGES + 1, 4, 3))
HOLED = np.where(np.arange(NOISE.size).reshape(NOISE.shape) == 5, np.nan, NOISE)  # in image 0
NUMBERS = np.arange(len(NOISE))


@pytest.mark.parametrize(
    ("spoilt", "said", "mended"),
    [
        ({"images": HOLED}, "in image 0. Remove those images", {"images": np.delete(HOLED, 0, axis=0)}),
        ({"images": HOLED}, "or repair those pixels", {"images": np.nan_to_num(HOLED)}),
        ({"images": NOISE[:99]}, "Add some", {"images": NOISE}),
        ({"images": np.full_like(NOISE, 0.5)}, "Save other images", {"images": NOISE}),
        ({"images": NOISE.astype(complex)}, "Save pixels as such numbers", {"images": NOISE.astype(complex).real}),
        ({"a": NOISE, "b": NOISE}, "np.savez(path, images=..., labels=...)", {"images": NOISE, "labels": NUMBERS}),
        ({"images": NOISE, "labels": NUMBERS / 2}, "Save one whole number", {"images": NOISE, "labels": NUMBERS // 2}),
        ({"images": NOISE, "labels": NUMBERS[:5]}, "or leave the labels out", {"images": NOISE}),
    ],
)
def test_the_remedy_in_words_works(
    tmp_path: Path, spoilt: dict[str, Array], said: str, mended: dict[str, Array]
) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **spoilt)  # type: ignore[arg-type]
    assert said in message(path)
    np.savez(path, **mended)  # type: ignore[arg-type]
    images = load(path)
    assert len(images.train) + len(images.validation) + len(images.test) == len(mended["images"])
    assert (images.train_labels is None) == ("labels" not in mended)
