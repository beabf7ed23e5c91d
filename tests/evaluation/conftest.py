"""Data sets of photographs of several shapes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reproduce.data import PrepareOptions, folder
from reproduce.data.writing import PrepareConfig, prepare

sys.path.insert(0, str(Path(__file__).parent))  # reference.py, fixtures.py

SHAPES = ((180, 131), (113, 170), (128, 128), (97, 241), (200, 89), (88, 88))
"""Width and height; the last images are no smaller than the largest scale for crops of 56 pixels."""


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageNet-style folder of 2 classes, 6 validation images: landscape, portrait, square."""
    root = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(3)
    for split in ("train", "val"):
        for number, (width, height) in enumerate(SHAPES):
            place = root / split / ("ant", "bee")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            coarse = random.integers(0, 256, size=(9, 9, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            image.save(place / f"{number}.jpg", quality=95)
    return root


@pytest.fixture(scope="session")
def files(photographs: Path) -> list[Path]:
    """The validation images by their number."""
    return [photographs / "val" / name for name in ("ant/0.jpg", "ant/2.jpg", "ant/4.jpg")] + [
        photographs / "val" / name for name in ("bee/1.jpg", "bee/3.jpg", "bee/5.jpg")
    ]


@pytest.fixture(scope="session")
def raw_data(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photographs`, decoded by PIL and stored raw, so that only the resizing can differ from PIL."""
    out = tmp_path_factory.mktemp("raw")
    prepare(folder(photographs), out, PrepareConfig(options=PrepareOptions(write_mode="raw"), workers=1))
    return out


@pytest.fixture(scope="session")
def jpeg_data(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("jpeg")
    prepare(folder(photographs), out, PrepareConfig(options=PrepareOptions(write_mode="jpg"), workers=1))
    return out


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
