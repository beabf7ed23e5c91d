"""What a run's training is given and tells: where it runs, who is told of it, what it ends with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from reproduce.execution.validation import Table


class NotFiniteLoss(RuntimeError):  # noqa: N818 - it names what happened to the run
    """The loss became infinite or NaN; the message names the epoch and the step, both from 1."""


@dataclass(frozen=True)
class Context:
    """Where and as what a rank trains. `torch.distributed` is initialised by the caller if world_size > 1."""

    rank: int
    world_size: int
    device: torch.device
    threads: int
    """CPU threads of this rank, for torch and for the loader."""
    folder: Path
    """The run's record folder, the same for all ranks; holds checkpoint.pt."""
    data_root: Path
    stop_requested: Callable[[], bool]
    """Asked after every step (CUDA: every tenth); any rank's yes stops all."""
    checkpoint_every_s: float = 300
    compiled: bool = False
    """Whether the step's network is compiled, see `build_step`."""
    gpu_share: float = 1.0
    """Of its GPU, which a rank may share with those of other runs."""


class Observer(Protocol):
    """Told by rank 0 alone what happens."""

    @property
    def epochs_recorded(self) -> int:
        """How many epochs, from the first on, it has been told of in this and earlier attempts: it is told again
        of those that are in the checkpoint and not yet with it."""

    def progress(
        self, *, epoch: int, epochs: int, step: int, steps: int, images_per_s: float, loss: float, top1: float | None
    ) -> None:
        """At most once a second. Epoch from 0, steps done of the epoch's, images/s of all ranks over the epoch so far,
        mean training loss of the epoch so far, the last validation's top-1."""

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """An epoch (from 0) is complete and its checkpoint durable. Names of metrics: `reproduce.schema`."""

    def predictions(self, table: Table) -> None:
        """Final validation, see `validate`; told again when a finished run is trained again."""


class SilentObserver:
    """For the ranks that tell nobody, and for benchmarks."""

    epochs_recorded = 0

    def progress(self, **_: float | None) -> None: ...

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None: ...

    def predictions(self, table: Table) -> None: ...


@dataclass(frozen=True)
class Result:
    """`finished` is False where a stop was requested: the checkpoint holds where to go on, `metrics` is empty."""

    finished: bool
    metrics: dict[str, float]
