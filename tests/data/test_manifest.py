"""What a prepared folder is checked for before training."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from reproduce.data import DataError, load_manifest, verify


@pytest.fixture
def data(synthetic_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(synthetic_data, tmp_path / "data"))


def test_a_truncated_file_is_named(data: Path) -> None:
    os.truncate(data / "train.beton", 1000)
    with pytest.raises(DataError, match=r"train\.beton: truncated: 1000 bytes"):
        load_manifest(data)


def test_a_missing_file_is_named(data: Path) -> None:
    (data / "val.beton").unlink()
    with pytest.raises(DataError, match=r"val\.beton: no such file"):
        load_manifest(data)


def test_a_folder_that_was_never_prepared_gets_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="deeper data prepare"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(("old", "new"), [("class001", "class1"), ('"images"', '"pictures"'), ("{", "")])
def test_an_edited_manifest_is_refused(data: Path, old: str, new: str) -> None:
    path = data / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.json: not a manifest"):
        load_manifest(data)


def test_verify_finds_a_changed_byte_that_the_size_does_not_show(data: Path) -> None:
    verify(data)
    with (data / "val.beton").open("r+b") as file:
        file.seek(-5000, os.SEEK_END)
        file.write(b"\xff\x00\xff")
    load_manifest(data)
    with pytest.raises(DataError, match=r"val\.beton: damaged"):
        verify(data)
