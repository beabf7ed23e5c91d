"""Measures epochs that read from the disk: of a loader, and of a process that reads the same bytes and does no more."""

# mypy: allow-untyped-calls

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from bench.suites.harness.comparison import Measure, Measurement
from bench.suites.harness.cpu_time import cpu_seconds
from bench.suites.harness.errors import MeasurementError
from bench.suites.harness.worker_process import received_requests, worker_process
from bench.suites.loader.entropy import EFFICIENCY, SPEED
from bench.suites.loader.memory_group import MemoryGroup
from bench.suites.loader.page_cache import drop_pages, resident_share

READ, RATE, RESIDENT = "MB read from the disk", "MB/s from the disk", "% of the data in memory afterwards"
MOST_RESIDENT = 0.75  # of data that are at least twice as large as the memory that is left for them
CHUNK = 2**20  # bytes that are read at once

Epoch = Callable[[int], Iterable[Sized]]
"""Starts the epoch with the given index. The sizes of what it yields add up to its images."""


@dataclass(frozen=True, kw_only=True)
class DiskConditions:
    """What has to be read from the disk in an epoch: everything, or what does not stay in a limited memory."""

    files: Sequence[Path]
    """All files that are read. No other process may have mapped them."""
    group: MemoryGroup | None = None
    """The group of the process, whose memory is limited from repetition 0. None: memory is not limited, and the pages
    of the files are dropped before each epoch."""
    room: int = 0
    """Bytes of memory that the group leaves for files, beside what the processes use themselves."""

    def measure(self, epoch: Epoch, index: int) -> Measurement:
        """Measure one epoch in this process and its children.

        Args:
            epoch: Starts the epoch. The time of the call itself is not measured.
            index: Index of the repetition. Repetition 0 of a group begins with an epoch that is not measured and finds
                out how much memory the processes use.

        Returns:
            The keys `SPEED`, `EFFICIENCY`, `READ`, `RATE` and `RESIDENT`.

        Raises:
            MeasurementError: Pages that had to be dropped are still in memory, or too many are in memory afterwards.
        """
        if self.group is None or index == 0:
            drop_pages(self.files)  # which count for the group that reads them first
        if self.group is None:
            return self._measure(epoch, index)
        if index == 0:
            self.group.limit(self.room + max(self.group.used_beside_files() for _ in epoch(index)))
        measurement = self._measure(epoch, index)
        if measurement[RESIDENT] > 100 * MOST_RESIDENT:
            raise MeasurementError(
                f"{measurement[RESIDENT]:.0f} % of the data are in memory after an epoch, and not at most "
                f"{100 * MOST_RESIDENT:.0f} %, although {self.group.folder} limits it"
            )
        return measurement

    def _measure(self, epoch: Epoch, index: int) -> Measurement:
        read_before = bytes_read()
        items = epoch(index)
        wall_before, cpu_before = time.perf_counter(), cpu_seconds()
        images = sum(map(len, items))
        wall, cpu = time.perf_counter() - wall_before, cpu_seconds() - cpu_before
        read = (bytes_read() - read_before) / 1e6
        return {
            SPEED: images / wall,
            EFFICIENCY: images / cpu,
            READ: read,
            RATE: read / wall,
            RESIDENT: 100 * resident_share(self.files),
        }


@dataclass(frozen=True, kw_only=True)
class PlainReading:
    """Reads files and does nothing with them: what the disk gives."""

    images: int
    """Number of images in the files."""
    in_random_order: bool
    """Read image by image in random order, and not file by file in large pieces from the beginning to the end."""

    def epochs(self, files: Sequence[Path]) -> Epoch:
        """Return the function that reads the files once, in an order that the index of the epoch determines."""
        pieces = _images(files) if self.in_random_order else [(file, 0, file.stat().st_size) for file in files]

        def epoch(index: int) -> Iterator[Sized]:
            order = random.Random(index).sample(pieces, len(pieces)) if self.in_random_order else pieces
            for file, start, size in order:
                with file.open("rb", buffering=0) as opened:
                    if self.in_random_order:
                        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                    for position in range(start, start + size, CHUNK):
                        os.pread(opened.fileno(), min(CHUNK, start + size - position), position)
            yield range(self.images)

        return epoch


@contextmanager
def started_reading(name: str, reading: PlainReading, conditions: DiskConditions) -> Iterator[Measure]:
    """Start a process that reads files and does nothing with them, and yield a function that measures repetitions.

    Args:
        name: Name of the process, which error messages mention.
        reading: The order in which it reads.
        conditions: The files, and what of them may stay in memory.

    Yields:
        The `Measure`, with the keys of `DiskConditions.measure`.

    Raises:
        WorkerProcessError: The process ended, for example because pages could not be dropped.
    """
    with worker_process(name, _serve, reading, conditions) as worker:
        yield worker.request


def bytes_read() -> int:
    """Return how many bytes disks have delivered for this process and all its descendants."""
    own = psutil.Process()
    return sum(process.io_counters().read_bytes for process in (own, *own.children(recursive=True)))


def _serve(pipe: Connection, reading: PlainReading, conditions: DiskConditions) -> None:
    if conditions.group is not None:
        conditions.group.join()
    epochs = reading.epochs(conditions.files)
    for index in received_requests(pipe):
        pipe.send(conditions.measure(epochs, index))


def _images(files: Sequence[Path]) -> list[tuple[Path, int, int]]:
    """Return file, position and size in bytes of every image."""
    from reproduce.data.loading.engine import Reader

    found = []
    for file in files:
        if file.suffix == ".beton":
            table = Reader(str(file)).alloc_table
            found += [(file, int(start), int(size)) for start, size in zip(table["ptr"], table["size"], strict=True)]
        else:
            found.append((file, 0, file.stat().st_size))
    return found
