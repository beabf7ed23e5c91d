"""Data sets that tests share; made once a session, in the session's temporary folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from reproduce.data import PrepareOptions, folder, synthetic
from reproduce.data.writing import PrepareConfig, prepare

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

SLOWEST = ("slurm", "integration")
"""Folders of tests; those of the first take longest, and mostly wait."""

# A shell's background jobs (make test &) ignore Ctrl-C, and so would all processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of the slowest tests first, so that no worker of pytest-xdist begins one at the end."""
    items.sort(key=lambda item: next((n for n, part in enumerate(SLOWEST) if part in item.path.parts), len(SLOWEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """Give each worker of pytest-xdist whole files, and one of them all files that need the cluster of SLURM."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:  # xdist lets schedulers override it
            return "tests/slurm" if nodeid.startswith("tests/slurm/") else super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Undo what the tested code sets in this process's environment for its own process."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for 1 MiB."""
    place = tmp_path / "small-disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="session", autouse=True)
def _own_stamps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests note about their data sets and networks out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        stamps = tmp_path_factory.mktemp("cache")
        patch.setattr("reproduce.data.verification.cache", lambda: stamps)
        patch.setattr("bench.planning.costs.cache", lambda: stamps)
        yield


@pytest.fixture(scope="session")
def synthetic_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder: 4 classes, 96 training and 24 validation images of 40 x 40 pixels, stored raw."""
    out = tmp_path_factory.mktemp("synthetic")
    prepare(synthetic(classes=4, images=96, size=40), out, PrepareConfig(workers=1))
    return out


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageNet-style folder of 3 classes: RGB, grayscale and CMYK JPEGs and PNGs of several kinds and sizes."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 3)):
        for label, name in enumerate(("bee", "ant", "cat")):
            place = root / split / name
            place.mkdir(parents=True)
            for number in range(count):
                width, height = random.integers(100, 180, size=2).tolist()
                coarse = random.integers(0, 256, size=(6, 6, 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
                if number == 0:
                    image.save(place / "rgb.JPEG", quality=92)
                elif number == 1:
                    image.convert("L").save(place / "gray.jpg")
                elif number == 2:
                    image.convert("CMYK").save(place / "cmyk.jpg")
                elif label == 0:
                    image.convert("RGBA").save(place / "alpha.png")
                else:
                    image.convert("P").save(place / "palette.png")
    return root


@pytest.fixture(scope="session")
def photo_data(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`image_folder` prepared, stored as JPEG in the images' own sizes."""
    out = tmp_path_factory.mktemp("photos")
    prepare(folder(image_folder), out, PrepareConfig(options=PrepareOptions(write_mode="jpg"), workers=1))
    return out


@pytest.fixture(scope="session")
def nvml_double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for LD_LIBRARY_PATH whose NVML is nvml_double.c."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc to build the double of NVML")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = Path(__file__).parent / "bench" / "nvml_double.c"
    subprocess.run(["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library.parent
