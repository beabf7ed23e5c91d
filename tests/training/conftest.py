"""A tiny prepared data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from reproduce.data import PrepareOptions, prepare, synthetic


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes, 60 images for training and 15 for validation in `tiny`."""
    root = tmp_path_factory.mktemp("training-data")
    source = synthetic(classes=3, images=60, size=40, seed=1)
    prepare(source, root / "tiny", options=PrepareOptions(), progress=lambda split, done, total: None, workers=1)
    return root
