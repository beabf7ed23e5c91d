"""What the ranks of one run tell each other; with a single rank nothing is sent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class Ranks:
    """Collectives over the process group that the caller has initialised. All ranks call each of them alike."""

    def __init__(self, rank: int, world_size: int, device: torch.device) -> None:
        self.rank, self.world_size, self.device = rank, world_size, device

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum of a tensor over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[T | None] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def agree(self, flags: Sequence[bool], statistics: Sequence[Tensor] = ()) -> list[bool]:
        """Each flag, true where it is true on any rank; `statistics` become their means over the ranks, in place.

        One collective for both. Running statistics change nothing in training mode, so it is enough to average
        them now and then; a checkpoint or validation right after this call sees the same ones on every rank.
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
    """Destroy the process group and end the process, with exit code 0 and without the interpreter's own end.

    DDP keeps gloo's threads alive beyond the group, and one of them that lets go of a tensor while the interpreter ends
    aborts the process (torch 2.14).
    """
    dist.destroy_process_group()
    os._exit(0)
