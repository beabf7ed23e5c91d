"""A tiny prepared data set."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from reproduce.data import synthetic
from reproduce.data.writing import PrepareConfig, prepare

sys.path.insert(0, str(Path(__file__).parent))  # tiny.py, which the script of two ranks imports as well


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes, 60 images for training and 15 for validation in `tiny`."""
    root = tmp_path_factory.mktemp("training-data")
    source = synthetic(classes=3, images=60, size=40, seed=1)
    prepare(source, root / "tiny", PrepareConfig(workers=1))
    return root


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Networks as small as these are slower with several threads, above all on shared cores."""
    torch.set_num_threads(1)
