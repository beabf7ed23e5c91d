"""Measures a loader in a worker process, whose memory and CPU time are those of the loader alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import psutil

from bench.suites.harness.comparison import Measure, Measurement
from bench.suites.harness.cpu_time import cpu_seconds
from bench.suites.harness.errors import MeasurementError, NotInstalledError
from bench.suites.harness.memory import MEMORY, memory_gib
from bench.suites.harness.worker_process import received_requests, worker_process
from bench.suites.loader.entropy import EFFICIENCY, SPEED
from bench.suites.loader.implementations import LOADERS, Epochs, LoaderWorkload
from bench.suites.loader.memory_group import MemoryGroup

if TYPE_CHECKING:
    from torch import Tensor

START = "start to first batch, s"
DELIVERED = "images in the first epoch"
EpochsMeasure = Callable[[Epochs, int], Measurement]
"""Measures the repetition with the given index in the process of a loader, which sends it to the benchmark."""


@contextmanager
def started_loader(
    name: str, workload: LoaderWorkload, measure: EpochsMeasure, *, group: MemoryGroup | None = None
) -> Iterator[tuple[Measure, Measurement]]:
    """Start a loader in a worker process, read its first epoch, and yield a function that measures repetitions.

    The process ends when the block is left.

    Args:
        name: Name of the loader in `LOADERS`.
        workload: The pictures that it reads, and the batches that it makes of them.
        measure: Measures a repetition in the worker process, for example `whole_epochs`. It is pickled.
        group: The control group that the worker process joins before it builds the loader.

    Yields:
        The `Measure` of the loader, with the keys of `measure`; and the measurement of its first epoch: the seconds
        from the start of the process to its first batch (`START`), the peak memory in GiB (`MEMORY`), and the number of
        images (`DELIVERED`).

    Raises:
        NotInstalledError: The packages of the loader are not installed.
        WorkerProcessError: The process ended before it replied, for example because a batch was wrong.
    """
    start = time.perf_counter()
    with worker_process(name, _serve, name, workload, measure, group) as worker:
        problem = worker.receive()
        if isinstance(problem, NotInstalledError):
            raise problem
        start_up = {START: time.perf_counter() - start}
        yield worker.request, {**start_up, **worker.receive()}


def whole_epochs(epochs: Epochs, index: int, *, seconds: float) -> Measurement:
    """Measure whole epochs from files that the page cache holds.

    Args:
        epochs: Starts an epoch of the loader.
        index: Index of the repetition.
        seconds: Shortest duration of the repetition, in seconds.

    Returns:
        The keys `SPEED` and `EFFICIENCY`. CPU time is that of all processes and threads of the loader, including the
        consumer and time spent in the kernel.
    """
    images, wall, cpu = 0, 0.0, 0.0
    while wall < seconds:
        batches = epochs(index)
        wall_before, cpu_before = time.perf_counter(), cpu_seconds()
        for pixels in batches:
            images += len(pixels)
        wall += time.perf_counter() - wall_before
        cpu += cpu_seconds() - cpu_before
    return {SPEED: images / wall, EFFICIENCY: images / cpu}


def _serve(
    pipe: Connection,
    name: str,
    workload: LoaderWorkload,
    measure: EpochsMeasure,
    group: MemoryGroup | None,
) -> None:
    """Build a loader, read its first epoch, and reply to requests, in the worker process.

    Sends None after the first batch (or `NotInstalledError`, and ends), then the peak memory and the images of the
    first epoch. The reply to the index of a repetition is its measurement.
    """
    if group is not None:
        group.join()
    try:
        epochs = LOADERS[name].build(workload)
    except NotInstalledError as error:
        pipe.send(error)
        return
    import torch

    torch.set_num_threads(workload.threads)  # of the consumer; after the build, because importing FFCV sets it too
    batches = epochs(0)
    _check_batch(next(batches), name, workload)
    pipe.send(None)
    own = psutil.Process()
    peak, images = memory_gib(own), workload.batch
    for pixels in batches:
        peak, images = max(peak, memory_gib(own)), images + len(pixels)
    pipe.send({MEMORY: peak, DELIVERED: float(images)})
    for index in received_requests(pipe):
        pipe.send(measure(epochs, index))


def _check_batch(pixels: Tensor, name: str, workload: LoaderWorkload) -> None:
    """Check that a batch has the shape, type and range of pixels that the loader has to deliver.

    Raises:
        MeasurementError: The batch has another shape, type or range.
    """
    shape, dtype = tuple(pixels.shape), str(pixels.dtype).removeprefix("torch.")
    smallest, largest = float(pixels.min()), float(pixels.max())
    expected = (workload.batch, 3, workload.side, workload.side), LOADERS[name].dtype
    # The range of pixels that are normalised with ImageNet's mean and standard deviation.
    is_normalised = -2.2 <= smallest < largest <= 2.7 or dtype == "uint8"
    if (shape, dtype) != expected or not is_normalised:
        raise MeasurementError(
            f"{name}: a batch is {dtype} {shape} with pixels from {smallest:.3g} to {largest:.3g}, and not {expected}"
        )
