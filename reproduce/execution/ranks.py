"""Communication between the ranks of one run. A run of a single rank communicates nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class Ranks:
    """Collectives over the default process group, which the caller has initialised if there is more than one rank.

    Every rank must make the same calls in the same order.
    """

    def __init__(self, rank: int, world_size: int, device: torch.device) -> None:
        self.rank, self.world_size, self.device = rank, world_size, device

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, ordered by rank, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[T | None] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def agree(self, flags: Sequence[bool], statistics: Sequence[Tensor] = ()) -> list[bool]:
        """Combine flags and average statistics over all ranks, in a single collective.

        Training mode does not read the running statistics of batch normalisation, so averaging them every few steps
        is enough. A checkpoint or a validation right after this call sees the same statistics on every rank.

        Args:
            flags: Flags of this rank.
            statistics: Tensors that become their means over the ranks, in place.

        Returns:
            Each flag, true if it is true on any rank.
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


def leave_process_group() -> NoReturn:
    """Destroy the process group and end the process with exit code 0, skipping the interpreter's own shutdown.

    DDP keeps gloo's threads alive beyond the process group. If one of them releases a tensor while the interpreter
    shuts down, it aborts the process (torch 2.14).
    """
    dist.destroy_process_group()
    os._exit(0)
