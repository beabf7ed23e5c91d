"""The estimate of a preparation, beside the preparation."""

from __future__ import annotations

from pathlib import Path

import pytest
from archives import write_twin

from reproduce.data import DataError, PrepareOptions
from reproduce.data.estimating import estimate_preparation
from reproduce.data.manifest import load_manifest


def test_the_estimate_is_close_to_what_preparing_writes(image_folder: Path, photo_data: Path) -> None:
    found = estimate_preparation(str(image_folder), PrepareOptions(write_mode="jpg"))
    splits = load_manifest(photo_data).splits
    content = sum((photo_data / f"{split}.beton").stat().st_size for split in splits)
    assert found.images == {split: entry.images for split, entry in splits.items()}
    assert found.classes == 3
    assert 0.5 * content < found.bytes < 1.1 * content
    assert found.seconds > 0


def test_imagenets_archives_are_listed_and_their_check_is_timed_but_not_done(tmp_path: Path) -> None:
    found = estimate_preparation(f"imagenet:{write_twin(tmp_path)}", PrepareOptions(max_resolution=64))
    assert sum(found.images.values()) == 45
    assert found.checking_seconds > 0


def test_what_would_be_downloaded_is_not_estimated() -> None:
    with pytest.raises(DataError, match="downloaded first"):
        estimate_preparation("imagenette", PrepareOptions())
