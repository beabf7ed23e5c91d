"""What the caller of `train` provides and receives: a rank's setup, an observer, and the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from reproduce.execution.validation import Table


class NonFiniteLossError(RuntimeError):
    """The loss became infinite or NaN; the message names the epoch and the step, both from 1."""


@dataclass(frozen=True)
class RankSetup:
    """Where one rank trains a run, and with what. The caller initialises `torch.distributed` if world_size > 1."""

    rank: int
    world_size: int
    device: torch.device
    threads: int
    """CPU threads of this rank, for torch and for the loader."""
    folder: Path
    """The folder of the run's record, the same for all ranks. It holds `checkpoint.pt`."""
    data_root: Path
    """The folder that the run's `data.path` is relative to."""
    stop_requested: Callable[[], bool]
    """Called after every step (every tenth on a GPU). If it returns True on any rank, all ranks stop."""
    checkpoint_every_s: float = 300
    compiled: bool = False
    """Whether the network is compiled, see `build_step`."""
    gpu_share: float = 1.0
    """Share of the GPU's memory for this rank, if other runs use the same GPU."""


class Observer(Protocol):
    """Receives what happens in a training. Rank 0 alone calls it."""

    @property
    def epochs_recorded(self) -> int:
        """How many epochs, counted from the first, it has received in this attempt and in earlier ones.

        It receives the epochs that are in the checkpoint beyond that number once more.
        """

    def progress(
        self, *, epoch: int, epochs: int, step: int, steps: int, images_per_s: float, loss: float, top1: float | None
    ) -> None:
        """Called at most once a second.

        Args:
            epoch: The current epoch, from 0.
            epochs: Number of epochs of the run.
            step: Completed steps of this epoch.
            steps: Number of steps of an epoch.
            images_per_s: Training images a second of all ranks, over the part of the epoch in this attempt.
            loss: Mean training loss of the epoch so far, of rank 0's images.
            top1: Accuracy at the last validation, 0 to 1; None before the first.
        """

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Called when an epoch (from 0) is complete and its checkpoint is durable; for names see `reproduce.schema`."""

    def predictions(self, table: Table) -> None:
        """Called with the predictions of the final validation; again if a finished run is trained again."""


class SilentObserver:
    """Ignores everything: for ranks other than 0, and for benchmarks."""

    epochs_recorded = 0

    def progress(self, **_: float | None) -> None: ...

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None: ...

    def predictions(self, table: Table) -> None: ...


@dataclass(frozen=True)
class TrainingResult:
    """How `train` ended."""

    finished: bool
    """False if a stop was requested. The run can then be continued from its checkpoint."""
    metrics: dict[str, float]
    """The final metrics of a finished run; empty otherwise."""
