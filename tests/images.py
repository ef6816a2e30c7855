"""Images for tests: an array file to load, its splits, and what loading it complains of."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vaebook.data import DataError, Images, load


def splits(images: Images) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return images.train, images.validation, images.test


def numbered(path: Path, n: int) -> Path:
    """An array file whose image i holds the number i in its two pixels, (N, 1, 2)."""
    index = np.arange(n)
    np.save(path, np.stack([index // 256, index % 256], axis=1).astype(np.uint8)[:, None, :])
    return path


def message(dataset: str | os.PathLike[str]) -> str:
    """The whole message of the DataError that loading raises."""
    with pytest.raises(DataError) as caught:
        load(dataset)
    return str(caught.value)
