"""The types at the interface of `train`: the setup of a rank, the observer of a training, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from reproduce.execution.validation import Table
from reproduce.training.graphs.switch import GraphUse


class NonFiniteLossError(RuntimeError):
    """Raised on all ranks when a loss is infinite or NaN. The message names the epoch and the step, both from 1."""


@dataclass(frozen=True)
class RankSetup:
    """The resources and folders with which one rank trains a run.

    If `world_size` is above 1, the caller must initialise the default process group of `torch.distributed` beforehand.
    """

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
    """Returns whether this rank has been asked to stop. If it returns True on any rank, all ranks stop. It is called
    after every step (on a GPU after every tenth step and the last one of an epoch) and before the batches of a
    validation, and must return at once."""
    checkpoint_every_s: float = 300
    """Least number of seconds between two checkpoints within an epoch. The end of an epoch always writes one."""
    compiled: bool = False
    """Whether torch.compile compiles the parts of the network, see `build_step`."""
    gpu_share: float = 1.0
    """Share of the GPU's memory that this rank may use, above 0 and at most 1. Below 1, other runs use the same GPU."""


class Observer(Protocol):
    """Receives the progress and the results of a training. It is called on rank 0 only."""

    @property
    def epochs_recorded(self) -> int:
        """Number of epochs that the observer has received, in this attempt and in earlier ones.

        `train` passes it every later epoch in turn, including epochs that the checkpoint of an earlier attempt already
        contains.
        """

    def progress(
        self, *, epoch: int, epochs: int, step: int, steps: int, images_per_s: float, loss: float, top1: float | None
    ) -> None:
        """Receive the progress of the current epoch. It is called at most once a second.

        Args:
            epoch: The current epoch, from 0.
            epochs: Number of epochs of the run.
            step: Completed steps of this epoch.
            steps: Number of steps of an epoch.
            images_per_s: Training images per second of all ranks, estimated as the rate of rank 0 times the world size.
                It covers the part of the epoch that this attempt has trained.
            loss: Mean total training loss over rank 0's images of this epoch so far.
            top1: Accuracy at the last validation, 0 to 1. None before the first validation.
        """

    def graph(self, use: GraphUse) -> None:
        """Receive whether steps replay a CUDA graph: after each warm-up of a run that was asked to, on a GPU.

        Args:
            use: What holds from now on.
        """

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Receive the metrics of a complete epoch whose checkpoint is durable.

        Args:
            epoch: The epoch, from 0.
            metrics: Its metrics by their names in `reproduce.schema`.
        """

    def predictions(self, table: Table) -> None:
        """Receive the predictions of the final validation, in the columns of `Validation.predictions`.

        If `train` is called for a run whose checkpoint is finished, it validates again and calls this method again.
        """


class SilentObserver:
    """An `Observer` that ignores everything, for ranks other than 0 and for benchmarks."""

    epochs_recorded = 0

    def progress(self, **_: float | None) -> None: ...

    def graph(self, use: GraphUse) -> None: ...

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None: ...

    def predictions(self, table: Table) -> None: ...


@dataclass(frozen=True)
class TrainingResult:
    """The result of `train` on one rank."""

    finished: bool
    """True if the run was trained to its end. False if it was stopped; it can then be resumed from its checkpoint."""
    metrics: dict[str, float]
    """The final metrics of a finished run by their names in `reproduce.schema`. Empty if the run was stopped."""
