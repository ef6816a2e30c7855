"""Your own images, loaded by ``vaebook.data.load``: arrays, pictures, and errors for wrong or damaged files."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from images import message, numbered, splits
from PIL import Image

from vaebook.data import DataError, load

# Your own arrays


@given(
    array=hnp.arrays(np.uint8, st.tuples(st.integers(10, 24), st.integers(1, 5), st.integers(1, 5))),
    fortran=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_uint8_round_trip(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray[Any, Any], fortran: bool) -> None:
    path = tmp_path_factory.mktemp("round") / "trip.npy"
    np.save(path, np.asfortranarray(array) if fortran else array)
    images = load(path)
    assert images.shape == array.shape[1:]
    assert images.name == "trip.npy"
    assert images.train_labels is images.validation_labels is images.test_labels is None
    back = (torch.cat(splits(images)) * 255).round().to(torch.uint8)
    wanted = array.reshape(len(array), -1)
    assert sorted(map(tuple, back.tolist())) == sorted(map(tuple, wanted.tolist()))


def test_grey_values_0_and_255_become_exactly_0_and_1(tmp_path: Path) -> None:
    np.save(tmp_path / "g.npy", np.full((10, 1, 2), [0, 255], dtype=np.uint8))
    assert load(tmp_path / "g.npy").train.unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8", np.longdouble])
def test_floats_of_every_type_are_read_exactly(tmp_path: Path, dtype: Any) -> None:
    values = np.arange(40).reshape(10, 2, 2) / 64  # exact in half precision
    np.savez_compressed(tmp_path / "f.npz", values.astype(dtype))
    images = load(tmp_path / "f.npz")
    assert sorted(torch.cat(splits(images)).flatten().tolist()) == values.flatten().tolist()


def test_an_archive_may_hold_other_arrays_beside_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", images=np.zeros((10, 2, 3)), weights=np.ones(4))
    assert load(tmp_path / "m.npz").shape == (2, 3)


def test_loading_does_not_change_any_files(tmp_path: Path) -> None:
    good, bad = numbered(tmp_path / "good.npy", 10), tmp_path / "bad.npy"
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
    numbered(tmp_path / "n.npy", 10)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load(name).name == "n.npy"


ZEROS = np.zeros((10, 2, 2))


def spoilt(value: float) -> np.ndarray[Any, Any]:
    images = ZEROS.copy()
    images[3, 1, 1] = value
    return images


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (spoilt(np.nan), ["finite", "1 that are NaN or infinite", "image 3", "Remove"]),
        (spoilt(np.inf), ["finite", "image 3"]),
        (spoilt(1.5), ["[0, 1]", "0.0 to 1.5", "Rescale"]),
        (spoilt(-0.25), ["[0, 1]", "-0.25 to 0.0"]),
        (spoilt(np.nextafter(1, 2)), ["[0, 1]", "1.0000000000000002"]),
        (np.zeros((10, 4)), ["three axes (N, H, W)", "(10, 4)", "Reshape"]),
        (np.zeros((10, 2, 2, 3)), ["three axes (N, H, W)", "(10, 2, 2, 3)", "grey"]),
        (np.float64(0.5), ["three axes (N, H, W)", "()"]),
        (np.zeros((0, 2, 2)), ["at least 10 images", "(0, 2, 2)"]),
        (np.zeros((10, 0, 2)), ["at least one pixel", "(10, 0, 2)"]),
        (np.zeros((9, 2, 2)), ["at least 10 images", "(9, 2, 2)", "split would be empty"]),
        (np.zeros((10, 2, 2), dtype=np.int64), ["uint8", "got int64", "astype(np.uint8)"]),
        (np.zeros((10, 2, 2), dtype=np.uint16), ["got uint16", "images / images.max()"]),
        (np.zeros((10, 2, 2), dtype=bool), ["got bool"]),
        (np.zeros((10, 2, 2), dtype=complex), ["got complex128"]),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_are_not_images(
    tmp_path: Path, array: np.ndarray[Any, Any], wanted: list[str], suffix: str
) -> None:
    path = tmp_path / f"bad{suffix}"
    (np.save if suffix == ".npy" else np.savez)(path, array)
    text = message(path)
    assert [part for part in [str(path), *wanted] if part not in text] == []


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
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
    assert "np.stack" in text
    assert not ran.exists()


@pytest.mark.parametrize("names", [("a", "b"), ("labels",), ()])
def test_an_archive_without_clear_images(tmp_path: Path, names: tuple[str, ...]) -> None:
    np.savez(tmp_path / "a.npz", **dict.fromkeys(names, ZEROS))
    text = message(tmp_path / "a.npz")
    assert "named 'images'" in text
    assert str(list(names)) in text


@pytest.mark.parametrize("labels", [np.zeros(9, int), np.zeros((10, 1), int), np.zeros(10)])
def test_labels_that_do_not_fit(tmp_path: Path, labels: np.ndarray[Any, Any]) -> None:
    np.savez(tmp_path / "l.npz", images=ZEROS, labels=labels)
    text = message(tmp_path / "l.npz")
    assert "labels in" in text
    assert f"need shape (10,) and an integer dtype, got {labels.shape} of {labels.dtype}" in text


# Your own pictures


def picture_folder(folder: Path, greys: list[int], mode: str = "L") -> Path:
    folder.mkdir()
    for i, grey in enumerate(greys):
        Image.new("L", (3, 2), grey).convert(mode).save(folder / f"{i:02d}.png")
    return folder


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_pictures_are_read_in_the_order_of_their_names(tmp_path: Path, mode: str) -> None:
    greys = [5 * i for i in range(20)]
    folder = picture_folder(tmp_path / "pictures", greys, mode)
    (folder / "notes.txt").write_text("not a picture")
    (folder / "._00.png").write_bytes(b"a file that macOS writes beside a picture")
    np.save(tmp_path / "a.npy", np.array(greys, np.uint8)[:, None, None].repeat(2, 1).repeat(3, 2))
    pictures, array = load(folder), load(tmp_path / "a.npy")
    assert (pictures.name, pictures.shape) == ("pictures", (2, 3))
    for ours, theirs in zip(splits(pictures), splits(array), strict=True):
        assert torch.equal(ours, theirs)


def test_a_picture_keeps_its_rows_and_columns(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "p", [0] * 9)
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(pixels).save(folder / "99.BMP")
    rows = torch.cat(splits(load(folder)))
    assert (rows.sum(0) * 255).round().tolist() == pixels.flatten().tolist()


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = message(tmp_path / "empty")
    assert str(tmp_path / "empty") in text
    assert "no pictures" in text
    assert ".png" in text


def test_pictures_of_different_sizes(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "p", [0] * 12)
    Image.new("L", (2, 3)).save(folder / "05.png")
    text = message(folder)
    assert "00.png of 3 × 2" in text
    assert "05.png of 2 × 3" in text


def test_too_few_pictures(tmp_path: Path) -> None:
    assert "at least 10 images" in message(picture_folder(tmp_path / "p", [0] * 9))


def test_sixteen_bit_pictures_are_refused_instead_of_clipped(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "p", [0] * 10)
    Image.fromarray(np.full((2, 3), 30_000, dtype=np.uint16)).save(folder / "03.png")
    text = message(folder)
    assert "03.png" in text
    assert "8 bits" in text


# Damage


@pytest.fixture(scope="session")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    noise = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    np.save(folder / "good.npy", noise)
    np.savez(folder / "plain.npz", images=noise, labels=np.arange(12))
    np.savez_compressed(folder / "good.npz", images=noise, labels=np.arange(12))
    Image.fromarray(noise[0]).save(folder / "good.png")
    Image.fromarray(noise[0]).save(folder / "good.jpg")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def place(folder: Path, name: str, content: bytes) -> Path:
    """Write the file, and nine good pictures beside it if it is a picture; return the path to load."""
    path = folder / name
    path.write_bytes(content)
    if path.suffix in (".npy", ".npz"):
        return path
    for i in range(9):
        Image.new("L", (8, 8)).save(folder / f"neighbour{i}.png")
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
    assert str(tmp_path / name) in text
    assert "damaged or cut short" in text
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
