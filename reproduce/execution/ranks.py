"""Communicate between the ranks of one run. With a single rank, nothing is communicated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class Ranks:
    """The collective operations of one run over the default process group.

    Every method is collective: all ranks must make the same calls in the same order, and an operation
    completes only once all have called it. With one rank, the methods return at once and need no process group.

    Args:
        rank: The number of this rank, from 0.
        world_size: The number of ranks. If it is above 1, the caller must initialise the process group beforehand.
        device: The device of this rank's tensors.
    """

    def __init__(self, rank: int, world_size: int, device: torch.device) -> None:
        self.rank, self.world_size, self.device = rank, world_size, device

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor elementwise over all ranks, in place, and return it. All ranks pass the same shape and dtype."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, ordered by rank, on every rank. Values are pickled."""
        if self.world_size == 1:
            return [value]
        values: list[T | None] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def agree(self, flags: Sequence[bool], statistics: Sequence[Tensor] = ()) -> list[bool]:
        """Combine flags and average statistics over all ranks, in a single collective operation.

        Training mode does not read the running statistics of batch normalisation, so averaging them every few steps
        is enough. A checkpoint or a validation right after this call sees the same statistics on every rank.

        Args:
            flags: Flags of this rank, as many as on every other rank.
            statistics: Tensors on this rank's device. Each is replaced, in place, by its mean over the ranks.

        Returns:
            One value for each flag, in order: True if the flag is True on any rank. The same on every rank.
        """
        if self.world_size == 1:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.float32, device=self.device)
        message = torch.cat([votes, *(tensor.flatten() for tensor in statistics)])
        dist.all_reduce(message)
        means = message[len(flags) :] / self.world_size
        for tensor in statistics:
            mean, means = means[: tensor.numel()], means[tensor.numel() :]
            tensor.copy_(mean.view_as(tensor))
        return [count > 0 for count in message[: len(flags)].tolist()]


def failed_elsewhere(error: BaseException) -> bool:
    """Return whether a collective operation raised this error, most likely because another rank has ended."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def leave_process_group() -> NoReturn:
    """Destroy the process group and end the process at once with exit code 0. It never returns.

    It skips the interpreter's shutdown, and with it `finally` blocks, exit handlers and the flushing of files. DDP
    keeps gloo's threads alive beyond the process group; if one of them releases a tensor during the shutdown, it aborts
    the process (torch 2.14).
    """
    dist.destroy_process_group()
    os._exit(0)
