"""Helpers for tests of images: array files, splits, and the error messages of loading."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vaebook.data import DataError, Images, load


def splits(images: Images) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return images.train, images.validation, images.test


def numbered(path: Path, n: int) -> Path:
    """Write an array file (N, 1, 2) in which the two pixels of image i encode the number i."""
    index = np.arange(n)
    np.save(path, np.stack([index // 256, index % 256], axis=1).astype(np.uint8)[:, None, :])
    return path


def message(dataset: str | os.PathLike[str]) -> str:
    """The message of the DataError that loading raises."""
    with pytest.raises(DataError) as caught:
        load(dataset)
    return str(caught.value)
