"""Laws and oracles of ``vaebook.data``, and every way in which data can be wrong.

No test here reaches the network: every mirror is a loopback port.
"""

import contextlib
import gc
import gzip
import hashlib
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import MNIST, FashionMNIST

from vaebook.data import KNOWN, DataError, Images, binarise, load

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = ROOT / (os.environ.get("VAEBOOK_DATA") or "../shared/data")
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
# The split: the labels of the first ten digits of each part, and the permutation of 1000 images.
PINNED_TRAIN = [9, 1, 5, 5, 8, 4, 4, 2, 4, 6]
PINNED_VALIDATION = [7, 8, 3, 8, 1, 4, 1, 6, 0, 3]
PINNED_TEST = [0, 9, 8, 2, 6, 3, 1, 4, 4, 4]
PINNED_PERMUTATION = "77ee26000e57a6aa6713895c528801fbd0a64cec65e7d39719090439a34d8930"


@pytest.fixture(scope="session")
def closed_port() -> Iterator[int]:
    """A loopback port that refuses: bound, so nobody else takes it, and never listening."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int) -> Path:
    """An empty data folder, and no way out to the network."""
    folder = tmp_path / "data folder"
    monkeypatch.setenv("VAEBOOK_DATA", str(folder))
    monkeypatch.setenv("no_proxy", "*")
    for source in (MNIST, FashionMNIST):
        monkeypatch.setattr(source, "mirrors", [f"http://127.0.0.1:{closed_port}/"])
    return folder


@pytest.fixture
def default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


def splits(images: Images) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return images.train, images.validation, images.test


def sizes(images: Images) -> tuple[int, ...]:
    return tuple(len(split) for split in splits(images))


def numbered(path: Path, n: int) -> Path:
    """An array file whose image i holds the number i in its two pixels, (N, 1, 2)."""
    index = np.arange(n)
    np.save(path, np.stack([index // 256, index % 256], axis=1).astype(np.uint8)[:, None, :])
    return path


def numbers(split: torch.Tensor) -> list[int]:
    grey = (split.double() * 255).round().long()
    return (grey[:, 0] * 256 + grey[:, 1]).tolist()


def message(dataset: str | os.PathLike[str]) -> str:
    """The whole message of the DataError that loading raises."""
    with pytest.raises(DataError) as caught:
        load(dataset)
    return str(caught.value)


# digits


def test_digits_are_scikit_learns() -> None:
    digits, bunch = load("digits"), load_digits()
    assert (digits.name, digits.shape, digits.d) == ("digits", (8, 8), 64)
    assert sizes(digits) == (1437, 180, 180)
    pixels = torch.cat(splits(digits)) * 16  # a power of two: exact
    labels = torch.cat([digits.train_labels, digits.validation_labels, digits.test_labels])
    assert labels.dtype == torch.int64
    ours = sorted((label, *row) for label, row in zip(labels.tolist(), pixels.tolist(), strict=True))
    theirs = zip(bunch.target.tolist(), bunch.data.tolist(), strict=True)
    assert ours == sorted((label, *row) for label, row in theirs)


def test_the_split_of_the_digits_is_pinned() -> None:
    """Published numbers rest on this split: the permutation of another torch would be noticed."""
    digits = load("digits")
    assert digits.train_labels[:10].tolist() == PINNED_TRAIN
    assert digits.validation_labels[:10].tolist() == PINNED_VALIDATION
    assert digits.test_labels[:10].tolist() == PINNED_TEST


def test_repr_is_one_short_line() -> None:
    assert repr(load("digits")) == "Images(name='digits', shape=(8, 8))"


# The split


@given(n=st.integers(10, 400))
@settings(max_examples=30, deadline=None)
def test_splits_are_disjoint_complete_and_80_10_10(tmp_path_factory: pytest.TempPathFactory, n: int) -> None:
    images = load(numbered(tmp_path_factory.mktemp("n") / "n.npy", n))
    train, validation, test = (numbers(split) for split in splits(images))
    assert sorted(train + validation + test) == list(range(n))
    assert len(train) == int(0.8 * n + 1e-9)
    assert min(len(validation), len(test)) >= 1
    assert len(test) - len(validation) in (0, 1)


def test_the_permutation_is_pinned_and_depends_on_n_alone(tmp_path: Path) -> None:
    first = load(numbered(tmp_path / "a.npy", 1000))
    torch.manual_seed(7)
    second = load(numbered(tmp_path / "b.npy", 1000))
    order = numbers(torch.cat(splits(first)))
    assert order == numbers(torch.cat(splits(second)))
    assert order != sorted(order)
    digest = hashlib.sha256(np.array(order, dtype="<i8").tobytes()).hexdigest()
    assert digest == PINNED_PERMUTATION


def test_labels_stay_with_their_images(tmp_path: Path) -> None:
    images = np.load(numbered(tmp_path / "n.npy", 300))
    np.savez(tmp_path / "n.npz", images=images, labels=np.arange(300, dtype=np.uint16))
    loaded = load(tmp_path / "n.npz")
    labels = (loaded.train_labels, loaded.validation_labels, loaded.test_labels)
    for split, split_labels in zip(splits(loaded), labels, strict=True):
        assert split_labels is not None
        assert split_labels.dtype == torch.int64
        assert split_labels.tolist() == numbers(split)


def test_nothing_touches_the_global_generators(tmp_path: Path) -> None:
    numbered(tmp_path / "n.npy", 20)

    def state() -> list[object]:
        kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global one is the point
        return [torch.get_rng_state().tolist(), random.getstate(), kind, keys.tolist(), rest]

    before = state()
    load("digits")
    load(tmp_path / "n.npy")
    binarise(torch.full((3, 4), 0.5), torch.Generator().manual_seed(0))
    assert state() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_torchs_default(
    tmp_path: Path, default_dtype: Callable[[torch.dtype], None], dtype: torch.dtype
) -> None:
    default_dtype(dtype)
    np.save(tmp_path / "f.npy", np.linspace(0, 1, 40, dtype=np.float32).reshape(10, 2, 2))
    for dataset in ("digits", numbered(tmp_path / "u.npy", 10), tmp_path / "f.npy"):
        assert {split.dtype for split in splits(load(dataset))} == {dtype}


# Your own arrays


@given(
    array=hnp.arrays(np.uint8, st.tuples(st.integers(10, 24), st.integers(1, 5), st.integers(1, 5))),
    fortran=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_uint8_round_trip(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray[Any, Any], fortran: bool
) -> None:
    path = tmp_path_factory.mktemp("round") / "trip.npy"
    np.save(path, np.asfortranarray(array) if fortran else array)
    images = load(path)
    assert images.shape == array.shape[1:]
    assert images.name == "trip.npy"
    assert images.train_labels is images.validation_labels is images.test_labels is None
    back = (torch.cat(splits(images)) * 255).round().to(torch.uint8)
    wanted = array.reshape(len(array), -1)
    assert sorted(map(tuple, back.tolist())) == sorted(map(tuple, wanted.tolist()))


def test_grey_values_reach_0_and_1_exactly(tmp_path: Path) -> None:
    np.save(tmp_path / "g.npy", np.full((10, 1, 2), [0, 255], dtype=np.uint8))
    assert load(tmp_path / "g.npy").train.unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8", np.longdouble])
def test_every_float_is_read_as_it_is(tmp_path: Path, dtype: Any) -> None:
    values = np.arange(40).reshape(10, 2, 2) / 64  # exact in half precision
    np.savez_compressed(tmp_path / "f.npz", values.astype(dtype))
    images = load(tmp_path / "f.npz")
    assert sorted(torch.cat(splits(images)).flatten().tolist()) == values.flatten().tolist()


def test_an_archive_may_hold_more_when_one_is_named_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", images=np.zeros((10, 2, 3)), weights=np.ones(4))
    assert load(tmp_path / "m.npz").shape == (2, 3)


def test_loading_leaves_the_users_files_alone(tmp_path: Path) -> None:
    good, bad = numbered(tmp_path / "good.npy", 10), tmp_path / "bad.npy"
    bad.write_bytes(good.read_bytes()[:-1])
    before = [(path.name, path.read_bytes(), path.stat().st_mtime_ns) for path in (good, bad)]
    load(good)
    message(bad)
    after = [(path.name, path.read_bytes(), path.stat().st_mtime_ns) for path in (good, bad)]
    assert before == after
    assert {path.name for path in tmp_path.iterdir()} == {"good.npy", "bad.npy"}


@pytest.mark.parametrize("name", ["~/n.npy", "./n.npy", "n.npy"])
def test_a_path_may_be_relative_or_at_home(
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
def test_pictures_equal_the_array_in_the_order_of_names(tmp_path: Path, mode: str) -> None:
    greys = [5 * i for i in range(20)]
    folder = picture_folder(tmp_path / "pictures", greys, mode)
    (folder / "notes.txt").write_text("not a picture")
    (folder / "._00.png").write_bytes(b"what some systems leave beside a picture")
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


def test_sixteen_bit_pictures_are_refused_not_clipped(tmp_path: Path) -> None:
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
    """Write the file, among nine good neighbours where it is a picture; return what to load."""
    path = folder / name
    path.write_bytes(content)
    if path.suffix in (".npy", ".npz"):
        return path
    for i in range(9):
        Image.new("L", (8, 8)).save(folder / f"neighbour{i}.png")
    return folder


GOOD_NAMES = ["good.npy", "plain.npz", "good.npz", "good.png", "good.jpg"]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_the_files_are_good_before_they_are_damaged(
    tmp_path: Path, good_files: dict[str, bytes], name: str
) -> None:
    assert load(place(tmp_path, name, good_files[name])).shape == (8, 8)


@pytest.mark.parametrize("name", GOOD_NAMES)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.8])
def test_a_file_cut_short_is_named(
    tmp_path: Path, good_files: dict[str, bytes], name: str, kept: float
) -> None:
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
    """Not every flip can be seen (a pixel is a pixel), but none may raise anything else."""
    content = bytearray(good_files[name])
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    target = place(tmp_path_factory.mktemp("flip"), name, bytes(content))
    with contextlib.suppress(DataError):
        assert all(((split >= 0) & (split <= 1)).all() for split in splits(load(target)))


@pytest.mark.parametrize("name", ["text.npy", "text.npz", "text.png"])
def test_a_file_that_only_has_the_name(tmp_path: Path, name: str) -> None:
    text = message(place(tmp_path, name, b"these are words, not images" * 20))
    assert name in text
    assert "damaged" in text
    assert "pickle" not in text  # the remedy is never to load it with less care


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "images").write_text("words")
    shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "inside")
    (tmp_path / "a.zip").rename(tmp_path / "a.npz")
    assert "not a NumPy array" in message(tmp_path / "a.npz")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    text = message(tmp_path / "one.png")
    assert ".npy or .npz file or a folder" in text
    assert "'.png'" in text


# Unknown names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MNIST", "mnist"),
        ("minst", "mnist"),
        ("digit", "digits"),
        ("fashion_mnist", "fashion-mnist"),
        ("FashionMNIST", "fashion-mnist"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(name: str, meant: str) -> None:
    assert f"unknown data set {name!r}. Did you mean {meant!r}?" in message(name)


@pytest.mark.parametrize(
    "name", ["", "elephants", "nowhere/images.npy", "~nobody-at-all/x.npy", "x" * 5000, "a\0b"]
)
def test_an_unknown_name_lists_the_known(name: str) -> None:
    text = message(name)
    assert text.startswith(f"unknown data set {name!r}. Known names are digits, mnist, fashion-")
    assert all(known in text for known in KNOWN)
    assert "a path to a .npy or .npz file or to a folder of pictures works too" in text


def test_a_missing_path_object_is_unknown_too(tmp_path: Path) -> None:
    assert "unknown data set" in message(tmp_path / "missing.npy")


# MNIST and Fashion-MNIST: files in place


def idx_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """The idx format, written from its definition: 0, 0, type 8 (uint8), axes, sizes, values."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="session")
def idx_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the right size whose image i is black but for its first pixel, i % 251."""
    folder = tmp_path_factory.mktemp("idx")
    for part, n in (("train", 60_000), ("t10k", 10_000)):
        images = np.zeros((n, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = np.arange(n) % 251
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(n) % 10))
    return folder


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_files_are_read_in_their_order(
    data_folder: Path, idx_files: Path, name: str, folder: str
) -> None:
    shutil.copytree(idx_files, data_folder / folder / "raw")
    images = load(name)
    assert (images.name, images.shape, images.d) == (name, (28, 28), 784)
    assert sizes(images) == (55_000, 5_000, 10_000)
    index = torch.arange(60_000)
    train = torch.cat([images.train, images.validation])
    assert torch.equal((train[:, 0] * 255).round().long(), index % 251)
    assert train[:, 1:].count_nonzero() == 0
    assert torch.equal(torch.cat([images.train_labels, images.validation_labels]), index % 10)
    assert torch.equal((images.test[:, 0] * 255).round().long(), index[:10_000] % 251)
    assert torch.equal(images.test_labels, index[:10_000] % 10)
    assert images.test_labels.dtype == torch.int64


def cut(content: bytes) -> bytes:
    return content[:-1]


def grown(content: bytes) -> bytes:
    return content + b"\0"


def another_type(content: bytes) -> bytes:
    return content[:2] + b"\x0d" + content[3:]  # says float32


def another_count(content: bytes) -> bytes:
    return idx_bytes(np.zeros((100, 28, 28) if content[3] == 3 else 100))


def emptied(content: bytes) -> bytes:
    return b""


def words(content: bytes) -> bytes:
    return b"<html>not found</html>"


@pytest.mark.parametrize("damage", [cut, grown, another_type, another_count, emptied, words])
@pytest.mark.parametrize("file", ["t10k-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_damaged_idx_file_is_named_and_kept(
    data_folder: Path, idx_files: Path, file: str, damage: Callable[[bytes], bytes]
) -> None:
    raw = data_folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for good in idx_files.iterdir():
        (raw / good.name).symlink_to(good)
    (raw / file).unlink()
    (raw / file).write_bytes(damage((idx_files / file).read_bytes()))
    kept = (raw / file).read_bytes()
    text = message("mnist")
    assert f"{raw / file} cannot be read" in text
    assert "Delete it and load again" in text
    assert (raw / file).read_bytes() == kept


@pytest.mark.skipif(
    not (REAL_DATA / "MNIST/raw").is_dir(),
    reason="real MNIST is missing: set VAEBOOK_DATA to the folder that contains MNIST/raw",
)
def test_real_mnist_against_its_raw_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEBOOK_DATA", str(REAL_DATA))
    mnist = load("mnist")

    def raw(file: str, axes: int) -> np.ndarray[Any, Any]:
        content = (REAL_DATA / "MNIST/raw" / file).read_bytes()
        zero, kind, n_axes, *shape = struct.unpack_from(f">HBB{axes}I", content)
        assert (zero, kind, n_axes) == (0, 8, axes)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)

    train, test = raw("train-images-idx3-ubyte", 3), raw("t10k-images-idx3-ubyte", 3)
    parts = (train[:55_000], train[55_000:], test)
    for ours, theirs in zip(splits(mnist), parts, strict=True):
        back = (ours * 255).round().to(torch.uint8).numpy()
        assert (back == theirs.reshape(len(theirs), 784)).all()
        assert ours.double().sum().item() == pytest.approx(theirs.sum(dtype=np.int64) / 255)
    train_labels = raw("train-labels-idx1-ubyte", 1)
    assert (mnist.train_labels.numpy() == train_labels[:55_000]).all()
    assert (mnist.validation_labels.numpy() == train_labels[55_000:]).all()
    assert (mnist.test_labels.numpy() == raw("t10k-labels-idx1-ubyte", 1)).all()
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]  # as everybody knows them


# MNIST and Fashion-MNIST: downloads


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_missing_without_a_network_says_what_to_put_where(data_folder: Path, name: str, folder: str) -> None:
    text = message(name)
    raw = data_folder / folder / "raw"
    assert f"{name} is not complete in {raw}" in text
    assert "refused" in text  # the reason
    assert all(file in text for file in IDX_FILES)
    assert "VAEBOOK_DATA" in text
    assert f"contains {folder}/raw" in text
    assert list(data_folder.iterdir()) == []


def test_only_the_missing_files_are_asked_for(data_folder: Path) -> None:
    raw = data_folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / IDX_FILES[0]).write_bytes(b"the user's")
    text = message("mnist")
    assert f": {', '.join(IDX_FILES[1:])}." in text
    assert IDX_FILES[0] not in text.split("unpacked")[1]
    assert (raw / IDX_FILES[0]).read_bytes() == b"the user's"


def test_a_data_folder_that_is_a_file(data_folder: Path) -> None:
    data_folder.write_text("in the way")
    assert f"mnist is not complete in {data_folder / 'MNIST' / 'raw'}" in message("mnist")
    assert data_folder.read_text() == "in the way"


def test_the_default_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delenv("VAEBOOK_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert str(tmp_path / ".cache" / "vaebook" / "MNIST" / "raw") in message("mnist")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("VAEBOOK_DATA", "")
    assert str(tmp_path / "cache" / "vaebook" / "MNIST" / "raw") in message("mnist")
    monkeypatch.setenv("VAEBOOK_DATA", "~/mine")
    assert str(tmp_path / "mine" / "MNIST" / "raw") in message("mnist")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory, idx_files: Path) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    for file in IDX_FILES:
        content = gzip.compress((idx_files / file).read_bytes(), compresslevel=1)
        (folder / f"{file}.gz").write_bytes(content)
    return folder


@pytest.fixture
def mirror(tmp_path: Path, archives: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working mirror on the loopback; returns the folder that it serves."""
    folder = tmp_path / "mirror"
    shutil.copytree(archives, folder)
    sums = [
        (file, hashlib.md5(file.read_bytes()).hexdigest())
        for file in (folder / f"{name}.gz" for name in IDX_FILES)
    ]
    monkeypatch.setattr(MNIST, "resources", [(file.name, md5) for file, md5 in sums])
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def test_a_download_is_kept_and_read_again_without_the_network(
    data_folder: Path, idx_files: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load("mnist")
    raw = data_folder / "MNIST" / "raw"
    assert {path.name for path in raw.iterdir()} == set(IDX_FILES)
    assert all((raw / file).read_bytes() == (idx_files / file).read_bytes() for file in IDX_FILES)
    assert [path.name for path in data_folder.iterdir()] == ["MNIST"]
    monkeypatch.setattr(MNIST, "mirrors", [])
    assert torch.equal(load("mnist").test, first.test)


def test_a_download_replaces_nothing_that_is_there(data_folder: Path, idx_files: Path, mirror: Path) -> None:
    raw = data_folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    mine = idx_bytes(np.full(10_000, 7))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(mine)
    assert load("mnist").test_labels.unique().tolist() == [7]
    assert (raw / "t10k-labels-idx1-ubyte").read_bytes() == mine


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # torchvision leaves a refused answer open
@pytest.mark.parametrize("fault", ["cut", "gone"])
def test_a_failed_download_leaves_nothing_that_passes_for_good(
    data_folder: Path, mirror: Path, fault: str
) -> None:
    archive = mirror / "t10k-images-idx3-ubyte.gz"  # the third of four: two have come by then
    content = archive.read_bytes()
    archive.unlink()
    if fault == "cut":
        archive.write_bytes(content[: len(content) // 2])
    text = message("mnist")
    gc.collect()  # while the warning is still ignored
    assert "could not be downloaded" in text
    assert archive.name in text
    assert list(data_folder.iterdir()) == []
    archive.write_bytes(content)
    assert len(load("mnist").test) == 10_000


def test_an_interrupted_download_leaves_nothing_that_passes_for_good(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(self: MNIST) -> None:
        Path(self.raw_folder).mkdir(parents=True)
        (Path(self.raw_folder) / IDX_FILES[0]).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(MNIST, "download", download)
    with pytest.raises(KeyboardInterrupt):
        load("mnist")
    assert list(data_folder.iterdir()) == []


# binarise


def test_binarise_keeps_what_is_certain_and_averages_to_x() -> None:
    x = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    n = 40_000
    draws = binarise(x.expand(n, 5), torch.Generator().manual_seed(0))
    assert draws.dtype == x.dtype
    assert draws.shape == (n, 5)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    standard_error = (x * (1 - x) / n).sqrt()
    assert ((draws.mean(0) - x).abs() <= 5 * standard_error).all()
    assert draws[:, 0].sum() == 0
    assert draws[:, 4].sum() == n
    # Independent pixels: their covariance vanishes within its standard error.
    covariance = torch.cov(draws[:, 1:4].T)
    deviation = (x * (1 - x)).sqrt()[1:4]
    allowed = 5 * deviation[:, None] * deviation / n**0.5
    off_diagonal = ~torch.eye(3, dtype=torch.bool)
    assert (covariance.abs() <= allowed)[off_diagonal].all()


def test_binarise_follows_the_callers_generator() -> None:
    x = torch.full((20, 20), 0.5)
    generator = torch.Generator().manual_seed(3)
    first, second = binarise(x, generator), binarise(x, generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, binarise(x, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_binarise_refuses_what_is_no_probability(value: float) -> None:
    with pytest.raises(ValueError, match=r"x needs values in \[0, 1\], got .* binarise the images"):
        binarise(torch.tensor([0.5, value]), torch.Generator())


def test_binarise_refuses_integers() -> None:
    with pytest.raises(ValueError, match=r"x needs a floating dtype, got torch.uint8"):
        binarise(torch.ones(3, dtype=torch.uint8), torch.Generator())


# The module


def test_importing_the_module_leaves_the_heavy_libraries_alone() -> None:
    code = "import sys, vaebook.data; print({'sklearn', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
