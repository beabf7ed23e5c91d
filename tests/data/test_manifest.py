"""What a prepared folder is checked for before training."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from reproduce.data import DamagedDataError, DataError, load_manifest, synthetic, verify, verify_changed
from reproduce.data.writing import PrepareConfig, prepare


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
    with pytest.raises(DataError, match=r"deeper data prepare SOURCE --output '.*/my data'"):
        load_manifest(tmp_path / "my data")


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
    with pytest.raises(DataError, match=r"val\.beton: changed or damaged since it was prepared"):
        verify(data)


def test_a_file_is_read_once_for_each_change(data: Path) -> None:
    read: list[str] = []

    def reading(file: Path) -> None:
        read.append(file.name)

    folder = Path(shutil.copytree(data, data.parent / "copy"))
    verify_changed(folder, reading)
    assert sorted(read) == ["train.beton", "val.beton"]
    verify_changed(folder, reading)
    folder.rename(data.parent / "moved")
    verify_changed(data.parent / "moved", reading)
    assert len(read) == 2
    os.utime(data.parent / "moved/val.beton")
    verify_changed(data.parent / "moved", reading)
    assert read[2:] == ["val.beton"]


def test_a_freshly_prepared_file_need_not_be_read(tmp_path: Path) -> None:
    prepare(synthetic(classes=2, images=8, size=32), tmp_path / "new", PrepareConfig(workers=1))
    verify_changed(tmp_path / "new", lambda file: pytest.fail(f"{file} is read"))


def test_a_changed_file_is_refused_by_whoever_asks_first_and_next(data: Path) -> None:
    verify_changed(data)
    before = (data / "train.beton").stat()
    with (data / "train.beton").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\x00\xff")
    os.utime(data / "train.beton", ns=(before.st_atime_ns, before.st_mtime_ns))  # as copies and backups do
    for _ in range(2):
        with pytest.raises(DamagedDataError, match=r"train\.beton: changed or damaged since it was prepared: SHA-256"):
            verify_changed(data)


def test_without_a_cache_files_are_compared_whenever_they_are_used(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no-folder").touch()
    monkeypatch.setattr("reproduce.data.verification.cache", lambda: tmp_path / "no-folder")
    read: list[Path] = []
    for _ in range(2):
        verify_changed(data, read.append)
    assert len(read) == 4
