"""A contestant in a process of its own, which answers rounds over a pipe: its memory and CPU time are its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import psutil

from bench.suites.harness.child import child, requests
from bench.suites.harness.comparison import Contestant, Figures
from bench.suites.harness.memory import MEMORY, memory_gib
from bench.suites.loader.implementations import CONTESTANTS, AbsentError, Epochs, Task

if TYPE_CHECKING:
    from torch import Tensor

SPEED, EFFICIENCY = "images/s", "images per CPU-second"
START = "start to first batch, s"


@contextmanager
def started(name: str, task: Task, *, seconds: float) -> Iterator[tuple[Contestant, Figures]]:
    """Start a contestant; gives its rounds of at least so many seconds, and what its first epoch cost.

    A round is made of whole epochs. CPU time is that of all its processes and threads, consumer and system included.
    Raises `AbsentError` where the peer is not installed, RuntimeError where it fails.
    """
    start = time.perf_counter()
    with child(name, _serve, name, task, seconds) as one:
        absent = one.answer()
        if isinstance(absent, AbsentError):
            raise absent
        first = {START: time.perf_counter() - start}
        yield one.ask, {**first, **one.answer()}


def _serve(pipe: Connection, name: str, task: Task, seconds: float) -> None:
    try:
        epochs = CONTESTANTS[name].build(task)
    except AbsentError as error:
        pipe.send(error)
        return
    import torch

    torch.set_num_threads(task.threads)  # of the consumer; after the build, since importing FFCV sets it too
    batches = epochs(0)
    _check(next(batches), name, task)
    pipe.send(None)
    own = psutil.Process()
    pipe.send({MEMORY: max([memory_gib(own), *(memory_gib(own) for _ in batches)])})
    for index in requests(pipe):
        pipe.send(_round(epochs, index, seconds))


def _round(epochs: Epochs, index: int, seconds: float) -> Figures:
    images, wall, cpu = 0, 0.0, 0.0
    while wall < seconds:
        batches = epochs(index)
        wall_before, cpu_before = time.perf_counter(), _cpu_time()
        for pixels in batches:
            images += len(pixels)
        wall += time.perf_counter() - wall_before
        cpu += _cpu_time() - cpu_before
    return {SPEED: images / wall, EFFICIENCY: images / cpu}


def _check(pixels: Tensor, name: str, task: Task) -> None:
    """Every contestant has to deliver the same kind of batch."""
    shape, dtype = tuple(pixels.shape), str(pixels.dtype).removeprefix("torch.")
    low, high = float(pixels.min()), float(pixels.max())
    expected = (task.batch, 3, task.side, task.side), CONTESTANTS[name].dtype
    in_range = -2.2 <= low < high <= 2.7 or dtype == "uint8"  # of pixels normalised with ImageNet's mean and std
    if (shape, dtype) != expected or not in_range:
        raise RuntimeError(f"{name}: a batch {dtype} {shape} from {low:.3g} to {high:.3g}; {expected} is the task")


def _processes() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _cpu_time() -> float:
    times = [process.cpu_times() for process in _processes()]
    return time.process_time() + sum(process.user + process.system for process in times)
