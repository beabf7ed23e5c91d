"""What a node measures by itself: its versions, its disks, and how fast it loads images."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import time
from importlib.metadata import version
from pathlib import Path

from reproduce.code import code_hash
from slurm.job.node.allocation import Allocation

PACKAGES = ("torch", "ray", "ffcv", "numpy")
WRITTEN_MIB = 128
MIB, GIB = 2**20, 2**30
BATCH, SIDE = 32, 224
SHARED_MEMORY = Path("/dev/shm")


def versions() -> dict[str, str]:
    """Return what has to be the same on all nodes: versions of Python and of packages, and the hash of the code."""
    return {"python": platform.python_version(), "code": code_hash()[:12], **{name: version(name) for name in PACKAGES}}


def write_rate(folder: Path) -> float:
    """Write a file to a folder, and remove it.

    Returns:
        MiB/s, until the file is on the disk.

    Raises:
        OSError: It cannot be written.
    """
    path = folder / f".trial-{socket.gethostname()}-{os.getpid()}"
    block = os.urandom(MIB)
    try:
        start = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(WRITTEN_MIB):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return WRITTEN_MIB / (time.perf_counter() - start)
    finally:
        path.unlink(missing_ok=True)


def file_clock_offset_s(folder: Path) -> float:
    """Return by how many seconds this node's clock is ahead of the one that stamps files in a folder.

    Raises:
        OSError: The folder cannot be written.
    """
    path = folder / f".clock-{socket.gethostname()}-{os.getpid()}"
    try:
        before = time.time()
        path.write_bytes(b"now")
        after = time.time()
        return (before + after) / 2 - path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)


def free_gib(folder: Path) -> float:
    """Return the free space on the disk of a folder."""
    return shutil.disk_usage(folder).free / GIB


def loading_rate(data: Path, allocation: Allocation, seconds: float) -> float:
    """Load random crops of 224 x 224 pixels of a data set's training images, with all CPUs of this node.

    Args:
        data: A prepared data set.
        allocation: What SLURM granted on this node.
        seconds: How long to measure. The first batch comes before.

    Returns:
        Images per second.

    Raises:
        DataError: The data set is missing, damaged, or has fewer than 32 training images.
    """
    from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig

    config = TrainLoaderConfig(
        batch_size=BATCH, threads=allocation.cpus, seed_order=allocation.rank, seed_augmentation=allocation.rank
    )
    loader = TrainLoader(data, config)
    next(iter(loader.epoch(0, SIDE)))  # compiles
    images, start, epoch = 0, time.perf_counter(), 0
    while True:
        for batch, _ in loader.epoch(epoch, SIDE):
            images += len(batch)
            if time.perf_counter() - start > seconds:
                return images / (time.perf_counter() - start)
        epoch += 1
