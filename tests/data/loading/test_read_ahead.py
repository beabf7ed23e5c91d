"""Reading ahead: which pages of a file come into memory, and that damaged tables are no matter."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from bench.machine.filesystems import filesystem
from bench.suites.loader.page_cache import drop_pages, resident_share
from reproduce.data import synthetic
from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig
from reproduce.data.loading.read_ahead import PIECE, ReadAhead
from reproduce.data.manifest import beton
from reproduce.data.writing import PrepareConfig, prepare

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _on_a_disk(tmp_path: Path) -> None:
    if filesystem(tmp_path).in_memory:
        pytest.skip("temporary files are in memory here")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(16 * MIB))
    drop_pages([path])
    return path


def offsets(*values: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(values, np.uint64)


def resident_soon(file: Path, share: float) -> float:
    deadline = time.monotonic() + 30
    while (resident := resident_share([file])) < share and time.monotonic() < deadline:
        time.sleep(0.01)
    return resident


def test_the_images_that_are_asked_for_come_into_memory_whole_and_no_others(file: Path) -> None:
    size = 5 * PIECE + 4096
    ahead = ReadAhead(file, offsets(0, 4 * MIB + 100, 8 * MIB), offsets(size, size, size))
    ahead.ask_for(np.array([1, 2]))
    wanted = 2 * size / (16 * MIB)
    assert wanted <= resident_soon(file, wanted) < wanted + 0.01


def test_images_outside_the_file_are_left_to_the_decoder_to_refuse(file: Path) -> None:
    ahead = ReadAhead(file, offsets(2**64 - 1, 15 * MIB), offsets(10, 2**64 - 1))
    ahead.ask_for(np.array([0, 1]))
    assert resident_soon(file, 0.0625) < 0.07


def test_a_batch_that_is_loaded_reads_neither_the_whole_file_nor_what_lies_around_its_images(tmp_path: Path) -> None:
    prepare(synthetic(classes=4, images=128, size=256), tmp_path, PrepareConfig(workers=1))
    loader = TrainLoader(tmp_path, TrainLoaderConfig(batch_size=4, seed_order=0, seed_augmentation=0))
    file = beton(tmp_path, "train")
    drop_pages([file])
    batches = loader.epoch(0, 32)
    next(batches)
    time.sleep(1)
    batches.close()  # type: ignore[attr-defined]
    decoded, asked_for = 3 + 2, 1  # batches that FFCV has decoded or decodes, and the next one
    assert resident_share([file]) < 1.1 * (decoded + asked_for) * 4 / 128
