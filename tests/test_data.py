"""``vaebook.data``: the named data sets, the split, downloads, and damaged or missing data.

The tests do not use the network: all mirrors are ports of the loopback interface.
"""

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
from hypothesis import given, settings, strategies as st
from images import message, numbered, splits
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import MNIST, FashionMNIST

from vaebook.data import KNOWN, Images, binarise, load

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = ROOT / (os.environ.get("VAEBOOK_DATA") or "../shared/data")
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
# The expected split: the labels of the first ten digits of each part, and a hash of the order of 1000 images.
PINNED_TRAIN = [9, 1, 5, 5, 8, 4, 4, 2, 4, 6]
PINNED_VALIDATION = [7, 8, 3, 8, 1, 4, 1, 6, 0, 3]
PINNED_TEST = [0, 9, 8, 2, 6, 3, 1, 4, 4, 4]
PINNED_PERMUTATION = "77ee26000e57a6aa6713895c528801fbd0a64cec65e7d39719090439a34d8930"


@pytest.fixture(scope="session")
def closed_port() -> Iterator[int]:
    """A loopback port that refuses connections: it is bound, so that it stays free, but nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int) -> Path:
    """An empty data folder; downloads are refused."""
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


def sizes(images: Images) -> tuple[int, ...]:
    return tuple(len(split) for split in splits(images))


def numbers(split: torch.Tensor) -> list[int]:
    grey = (split.double() * 255).round().long()
    return (grey[:, 0] * 256 + grey[:, 1]).tolist()


# digits


def test_digits_equal_those_of_scikit_learn() -> None:
    digits, bunch = load("digits"), load_digits()
    assert (digits.name, digits.shape, digits.d) == ("digits", (8, 8), 64)
    assert sizes(digits) == (1437, 180, 180)
    pixels = torch.cat(splits(digits)) * 16  # exact, since 16 is a power of two
    labels = torch.cat([digits.train_labels, digits.validation_labels, digits.test_labels])
    assert labels.dtype == torch.int64
    ours = sorted((label, *row) for label, row in zip(labels.tolist(), pixels.tolist(), strict=True))
    theirs = zip(bunch.target.tolist(), bunch.data.tolist(), strict=True)
    assert ours == sorted((label, *row) for label, row in theirs)


def test_the_split_of_the_digits_never_changes() -> None:
    """Published numbers depend on this split, which another version of torch could change."""
    digits = load("digits")
    assert digits.train_labels[:10].tolist() == PINNED_TRAIN
    assert digits.validation_labels[:10].tolist() == PINNED_VALIDATION
    assert digits.test_labels[:10].tolist() == PINNED_TEST


def test_repr_is_one_short_line() -> None:
    assert repr(load("digits")) == "Images(name='digits', shape=(8, 8))"


# The split


@given(n=st.integers(100, 400))
@settings(max_examples=30, deadline=None)
def test_splits_are_disjoint_and_complete_with_shares_80_10_10(
    tmp_path_factory: pytest.TempPathFactory, n: int
) -> None:
    images = load(numbered(tmp_path_factory.mktemp("n") / "n.npy", n))
    train, validation, test = (numbers(split) for split in splits(images))
    assert sorted(train + validation + test) == list(range(n))
    assert len(train) == int(0.8 * n + 1e-9)
    assert min(len(validation), len(test)) >= 1
    assert len(test) - len(validation) in (0, 1)


def test_the_permutation_never_changes_and_depends_only_on_n(tmp_path: Path) -> None:
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


def test_global_generators_are_not_used(tmp_path: Path) -> None:
    numbered(tmp_path / "n.npy", 100)

    def state() -> list[object]:
        kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - tests the global generator
        return [torch.get_rng_state().tolist(), random.getstate(), kind, keys.tolist(), rest]

    before = state()
    load("digits")
    load(tmp_path / "n.npy")
    binarise(torch.full((3, 4), 0.5), torch.Generator().manual_seed(0))
    assert state() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_have_torchs_default_dtype(
    tmp_path: Path, default_dtype: Callable[[torch.dtype], None], dtype: torch.dtype
) -> None:
    default_dtype(dtype)
    np.save(tmp_path / "f.npy", np.linspace(0, 1, 400, dtype=np.float32).reshape(100, 2, 2))
    for dataset in ("digits", numbered(tmp_path / "u.npy", 100), tmp_path / "f.npy"):
        assert {split.dtype for split in splits(load(dataset))} == {dtype}


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


@pytest.mark.parametrize("name", ["", "elephants", "nowhere/images.npy", "~nobody-at-all/x.npy", "x" * 5000, "a\0b"])
def test_the_error_for_an_unknown_name_lists_the_known_names(name: str) -> None:
    text = message(name)
    assert text.startswith(f"unknown data set {name!r}. Known names are digits, mnist, fashion-")
    assert all(known in text for known in KNOWN)
    assert "a path to a .npy or .npz file or to a folder of pictures works too" in text


def test_a_missing_path_object_raises_the_same_error(tmp_path: Path) -> None:
    assert "unknown data set" in message(tmp_path / "missing.npy")


# MNIST and Fashion-MNIST: files in place


def idx_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """An array in idx format: 0, 0, type 8 (uint8), number of axes, sizes, values."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="session")
def idx_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the right size. In image i the first pixel is i % 251 and all others are 0."""
    folder = tmp_path_factory.mktemp("idx")
    for part, n in (("train", 60_000), ("t10k", 10_000)):
        images = np.zeros((n, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = np.arange(n) % 251
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(n) % 10))
    return folder


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_images_keep_the_order_of_the_idx_files(data_folder: Path, idx_files: Path, name: str, folder: str) -> None:
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
    return content[:2] + b"\x0d" + content[3:]  # type float32


def another_count(content: bytes) -> bytes:
    return idx_bytes(np.zeros((100, 28, 28) if content[3] == 3 else 100))


def emptied(content: bytes) -> bytes:
    return b""


def words(content: bytes) -> bytes:
    return b"<html>not found</html>"


@pytest.mark.parametrize("damage", [cut, grown, another_type, another_count, emptied, words])
@pytest.mark.parametrize("file", ["t10k-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_damaged_idx_file_is_named_and_not_changed(
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
def test_real_mnist_equals_its_raw_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]  # the well-known first labels


# MNIST and Fashion-MNIST: downloads


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_the_error_without_a_network_says_which_files_to_put_where(data_folder: Path, name: str, folder: str) -> None:
    text = message(name)
    raw = data_folder / folder / "raw"
    assert f"{name} is not complete in {raw}" in text
    assert "refused" in text  # the reason for the failure
    assert all(file in text for file in IDX_FILES)
    assert "VAEBOOK_DATA" in text
    assert f"contains {folder}/raw" in text
    assert list(data_folder.iterdir()) == []


def test_the_error_names_only_the_missing_files(data_folder: Path) -> None:
    raw = data_folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / IDX_FILES[0]).write_bytes(b"the user's")
    text = message("mnist")
    assert f": {', '.join(IDX_FILES[1:])}." in text
    assert IDX_FILES[0] not in text.split("unpacked")[1]
    assert (raw / IDX_FILES[0]).read_bytes() == b"the user's"


def test_a_file_in_place_of_the_data_folder_raises_an_error(data_folder: Path) -> None:
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
    """A working mirror on the loopback interface; returns the folder that it serves."""
    folder = tmp_path / "mirror"
    shutil.copytree(archives, folder)
    sums = [
        (file, hashlib.md5(file.read_bytes()).hexdigest()) for file in (folder / f"{name}.gz" for name in IDX_FILES)
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


def test_a_download_is_kept_and_needs_no_network_afterwards(
    data_folder: Path, idx_files: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load("mnist")
    raw = data_folder / "MNIST" / "raw"
    assert {path.name for path in raw.iterdir()} == set(IDX_FILES)
    assert all((raw / file).read_bytes() == (idx_files / file).read_bytes() for file in IDX_FILES)
    assert [path.name for path in data_folder.iterdir()] == ["MNIST"]
    monkeypatch.setattr(MNIST, "mirrors", [])
    assert torch.equal(load("mnist").test, first.test)


def test_a_download_does_not_replace_existing_files(data_folder: Path, idx_files: Path, mirror: Path) -> None:
    raw = data_folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    mine = idx_bytes(np.full(10_000, 7))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(mine)
    assert load("mnist").test_labels.unique().tolist() == [7]
    assert (raw / "t10k-labels-idx1-ubyte").read_bytes() == mine


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # torchvision does not close the response of a failed request
@pytest.mark.parametrize("fault", ["cut", "gone"])
def test_a_failed_download_leaves_no_files(data_folder: Path, mirror: Path, fault: str) -> None:
    archive = mirror / "t10k-images-idx3-ubyte.gz"  # the third of four files, so two are downloaded before
    content = archive.read_bytes()
    archive.unlink()
    if fault == "cut":
        archive.write_bytes(content[: len(content) // 2])
    text = message("mnist")
    gc.collect()  # raises the ResourceWarning here, where it is ignored
    assert "could not be downloaded" in text
    assert archive.name in text
    assert list(data_folder.iterdir()) == []
    archive.write_bytes(content)
    assert len(load("mnist").test) == 10_000


def test_an_interrupted_download_leaves_no_files(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(self: MNIST) -> None:
        Path(self.raw_folder).mkdir(parents=True)
        (Path(self.raw_folder) / IDX_FILES[0]).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(MNIST, "download", download)
    with pytest.raises(KeyboardInterrupt):
        load("mnist")
    assert list(data_folder.iterdir()) == []


# binarise


def test_binarised_pixels_are_independent_with_mean_x() -> None:
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
    # Independent pixels: their covariance is 0 within five standard errors.
    covariance = torch.cov(draws[:, 1:4].T)
    deviation = (x * (1 - x)).sqrt()[1:4]
    allowed = 5 * deviation[:, None] * deviation / n**0.5
    off_diagonal = ~torch.eye(3, dtype=torch.bool)
    assert (covariance.abs() <= allowed)[off_diagonal].all()


def test_binarise_draws_from_the_callers_generator() -> None:
    x = torch.full((20, 20), 0.5)
    generator = torch.Generator().manual_seed(3)
    first, second = binarise(x, generator), binarise(x, generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, binarise(x, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_binarise_refuses_values_outside_0_and_1(value: float) -> None:
    with pytest.raises(ValueError, match=r"x needs values in \[0, 1\], got .* binarise the images"):
        binarise(torch.tensor([0.5, value]), torch.Generator())


def test_binarise_refuses_integers() -> None:
    with pytest.raises(ValueError, match=r"x needs a floating dtype, got torch.uint8"):
        binarise(torch.ones(3, dtype=torch.uint8), torch.Generator())


# The module


def test_importing_the_module_does_not_import_sklearn_or_torchvision() -> None:
    code = "import sys, vaebook.data; print({'sklearn', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("grey", [1, 3, 254])
def test_draws_of_black_and_white_have_the_mean_of_the_pixels_in_any_precision(dtype: torch.dtype, grey: int) -> None:
    x = torch.full((400_000,), grey / 255, dtype=dtype)
    p = float(x[0])
    mean = binarise(x, torch.Generator().manual_seed(0)).double().mean()
    assert abs(float(mean) - p) < 5 * (p * (1 - p) / 400_000) ** 0.5  # in bfloat16 itself it is 49 % off for 1/255


def test_a_known_name_goes_before_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    grey = np.random.default_rng(0).integers(0, 256, (100, 4, 3), dtype=np.uint8)
    for k, picture in enumerate(grey):
        Image.fromarray(picture).save(Path("digits", f"{k:03}.png"))
    assert load("digits").shape == (8, 8)
    assert load("./digits").shape == (4, 3)
