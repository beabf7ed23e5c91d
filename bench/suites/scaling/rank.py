"""One rank of the benchmark of scaling: it takes training steps and all-reduces together with all other ranks."""

from __future__ import annotations

import time
from statistics import median

import torch
import torch.distributed as dist

from bench.suites.harness.ceilings import synchronise
from bench.suites.harness.inputs import random_batch
from reproduce.spec import RunConfig
from reproduce.training.step import build_step

SIZES = tuple(4096 * 8**power for power in range(5))  # bytes; DDP's buckets hold up to 25 MiB
ALL_REDUCES = 10  # of each size


class TimedRank:
    """A rank with two training steps of its own, one that averages gradients over the ranks and one that does not.

    The constructor, which builds and warms up both, and all methods are collective: every rank of the default process
    group makes the same calls in the same order.

    Args:
        rank: The number of this rank, from 0.
        run: What is trained: network, recipe and number of ranks. `recipe.batch_size` is the images of one rank.
        device: The device of this rank.
    """

    def __init__(self, rank: int, run: RunConfig, device: torch.device) -> None:
        self.rank, self.run, self.device = rank, run, device
        self._images, self._labels = random_batch(run, device)
        self._steps = {connected: build_step(run, device=device, distributed=connected) for connected in (True, False)}
        for step in self._steps.values():
            step.warm_up(self._images, self._labels)

    def steps(self, count: int, taking_part: int, connected: bool, threads: int) -> float | None:
        """Take `count` steps after a barrier of all ranks.

        Args:
            count: Number of steps.
            taking_part: Number of ranks that take steps; the ranks from this number upwards stay idle.
            connected: Whether gradients are averaged over the ranks. If so, all ranks have to take part.
            threads: CPU threads of this rank.

        Returns:
            Seconds of all steps together, or None on an idle rank.
        """
        torch.set_num_threads(threads)
        dist.barrier()
        if self.rank >= taking_part:
            return None
        start = time.perf_counter()
        for _ in range(count):
            self._steps[connected](self._images, self._labels, self.run.recipe.learning_rate)
        synchronise(self.device)
        return time.perf_counter() - start

    def all_reduce(self, size: int) -> float:
        """Return the median seconds of an all-reduce of `size` bytes."""
        tensor = torch.zeros(size // 4, device=self.device)
        seconds = []
        for _ in range(ALL_REDUCES):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(tensor)
            synchronise(self.device)
            seconds.append(time.perf_counter() - start)
        return median(seconds)
