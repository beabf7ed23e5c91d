"""Runs a loader in a worker process, so that its memory and its CPU time are its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import psutil

from bench.suites.harness.comparison import Measure, Measurement
from bench.suites.harness.errors import MeasurementError, NotInstalledError
from bench.suites.harness.memory import MEMORY, memory_gib
from bench.suites.harness.worker_process import received_requests, worker_process
from bench.suites.loader.implementations import LOADERS, Epochs, LoaderWorkload

if TYPE_CHECKING:
    from torch import Tensor

SPEED, EFFICIENCY = "images/s", "images per CPU-second"
START = "start to first batch, s"


@contextmanager
def started_loader(name: str, workload: LoaderWorkload, *, seconds: float) -> Iterator[tuple[Measure, Measurement]]:
    """Starts a loader in a process that ends with the block.

    A repetition consists of whole epochs. Its CPU time is that of all processes and threads of the loader, including
    the consumer and time spent in the kernel.

    Args:
        name: Name of the loader in `LOADERS`.
        workload: What it has to do.
        seconds: How long a repetition takes at least.

    Yields:
        The function that measures a repetition in images/s and images per CPU-second, and what the first epoch showed:
        seconds from the start of the process to its first batch, and peak memory in GiB.

    Raises:
        NotInstalledError: The packages of the loader are not installed.
        WorkerProcessError: The loader failed.
    """
    start = time.perf_counter()
    with worker_process(name, _serve, name, workload, seconds) as worker:
        problem = worker.receive()
        if isinstance(problem, NotInstalledError):
            raise problem
        start_up = {START: time.perf_counter() - start}
        yield worker.request, {**start_up, **worker.receive()}


def _serve(pipe: Connection, name: str, workload: LoaderWorkload, seconds: float) -> None:
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
    pipe.send({MEMORY: max([memory_gib(own), *(memory_gib(own) for _ in batches)])})
    for index in received_requests(pipe):
        pipe.send(_measure_repetition(epochs, index, seconds))


def _measure_repetition(epochs: Epochs, index: int, seconds: float) -> Measurement:
    images, wall, cpu = 0, 0.0, 0.0
    while wall < seconds:
        batches = epochs(index)
        wall_before, cpu_before = time.perf_counter(), _cpu_seconds()
        for pixels in batches:
            images += len(pixels)
        wall += time.perf_counter() - wall_before
        cpu += _cpu_seconds() - cpu_before
    return {SPEED: images / wall, EFFICIENCY: images / cpu}


def _check_batch(pixels: Tensor, name: str, workload: LoaderWorkload) -> None:
    """Makes sure that a loader delivers the kind of batch that all loaders have to deliver."""
    shape, dtype = tuple(pixels.shape), str(pixels.dtype).removeprefix("torch.")
    smallest, largest = float(pixels.min()), float(pixels.max())
    expected = (workload.batch, 3, workload.side, workload.side), LOADERS[name].dtype
    # The range of pixels that are normalised with ImageNet's mean and standard deviation.
    is_normalised = -2.2 <= smallest < largest <= 2.7 or dtype == "uint8"
    if (shape, dtype) != expected or not is_normalised:
        raise MeasurementError(
            f"{name}: a batch is {dtype} {shape} with pixels from {smallest:.3g} to {largest:.3g}, and not {expected}"
        )


def _cpu_seconds() -> float:
    """Returns the CPU time of this process and of all processes below it, in seconds."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(process.user + process.system for process in times)
