"""Compares loaders whose files are not in memory: the first epoch, and data that are larger than the memory.

Each loader reads a copy of its files that is its own, because the kernel does not drop pages that another process has
mapped. The rows `READ_FILES` show what the disk gives to a process that does nothing else.
"""

from __future__ import annotations

import math
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.suites.harness.comparison import Comparison, Measure, Measurement, interleave
from bench.suites.harness.errors import NotInstalledError
from bench.suites.loader.disk import DiskConditions, PlainReading, started_reading
from bench.suites.loader.implementations import LOADERS, MARKED, LoaderWorkload
from bench.suites.loader.memory_group import memory_group
from bench.suites.loader.pictures import Pictures, repeated, training_files
from bench.suites.loader.worker import started_loader

READ_FILES = {
    "reading alone, FFCV file": (MARKED, False),
    "reading alone, FFCV file, random order": (MARKED, True),
    "reading alone, JPEG files": ("folder", False),
}
"""Input format, and whether images are read in random order, of what is read without being decoded."""
DATA = "MB of training images"
TIMES_MEMORY = 2.5  # the size of data that are larger than the memory that is left for them


@dataclass(frozen=True, kw_only=True)
class DiskWork:
    """What every loader does in a comparison."""

    names: tuple[str, ...]
    """Names of the loaders in `LOADERS`, ours first."""
    scratch: Path
    """An existing folder on the disk that is measured. It takes copies of the pictures, which remain there."""
    side: int
    """Side of the crops, in pixels."""
    batch: int
    """Images in a batch."""
    threads: int
    """Number of decoding threads."""
    repetitions: int
    """Repetitions that are kept. In each of them, every loader delivers one epoch."""


def compare_first_epochs(pictures: Pictures, work: DiskWork, console: Console) -> Comparison:
    """Compare loaders in epochs before which their files are dropped from memory, as before the first epoch.

    Raises:
        WorkerProcessError: The process of a loader ended, for example because the files could not be dropped.
    """
    return _compare(pictures, work, None, f"{pictures.name}-{work.side}-first-epoch", "from a cold page cache", console)


def compare_with_limit(pictures: Pictures, work: DiskWork, mib: int, console: Console) -> Comparison:
    """Compare loaders with data that are at least twice as large as the memory that is left for files.

    The pictures are copied as often as that takes. Each process has a control group whose limit is what the process was
    found to use itself and `mib` more.

    Args:
        pictures: The pictures.
        work: What every loader does.
        mib: Memory that is left for files, in MiB.
        console: Where progress is printed.

    Raises:
        NoControlGroupError: No control group can be made here. It is raised before pictures are copied.
        WorkerProcessError: The process of a loader ended, for example because its memory was short.
    """
    with memory_group():
        pass
    console.print("preparing data that are larger than the memory for them ...", highlight=False)
    times = math.ceil(TIMES_MEMORY * mib * 1024 / (pictures.kib_per_image(MARKED) * pictures.images))
    larger = repeated(pictures, work.scratch / "repeated", times=times)
    name = f"{pictures.name}-{work.side}-{mib}-mib"
    return _compare(larger, work, mib, name, f"{mib} MiB of memory for the files", console)


def _compare(
    pictures: Pictures, work: DiskWork, mib: int | None, name: str, condition: str, console: Console
) -> Comparison:
    threads = f"{work.threads} decoding thread{'s' if work.threads > 1 else ''}"
    title = f"{pictures.description}, to {work.side}, {threads}, {condition}"
    console.print(f"{title} ...", highlight=False)
    running: dict[str, Measure] = {}
    once: dict[str, Measurement] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack:

        def conditions(implementation: str, input_format: str) -> tuple[Path, DiskConditions]:
            own = work.scratch / f"{name} {implementation}"
            shutil.copytree(pictures.source(input_format), own)
            group = None if mib is None else stack.enter_context(memory_group())
            return own, DiskConditions(files=training_files(own), group=group, room=(mib or 0) * 2**20)

        for loader in work.names:
            own, disk = conditions(loader, LOADERS[loader].input_format)
            workload = LoaderWorkload(source=own, side=work.side, batch=work.batch, threads=work.threads)
            try:
                running[loader], first = stack.enter_context(
                    started_loader(loader, workload, disk.measure, group=disk.group)
                )
            except NotInstalledError as error:
                absent[loader] = str(error)
            else:
                once[loader] = {**first, DATA: _mb(disk)}
        for reading, (input_format, in_random_order) in READ_FILES.items():
            _, disk = conditions(reading, input_format)
            plain = PlainReading(images=pictures.images, in_random_order=in_random_order)
            running[reading] = stack.enter_context(started_reading(reading, plain, disk))
            once[reading] = {DATA: _mb(disk)}
        repetitions = interleave(running, repetitions=work.repetitions, console=console)
    return Comparison(name=name, title=title, repetitions=repetitions, once=once, absent=absent)


def _mb(disk: DiskConditions) -> float:
    return sum(file.stat().st_size for file in disk.files) / 1e6
