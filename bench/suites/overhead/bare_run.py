"""Trains a run without this project's orchestration and records, in a plain process or under torchrun.

    python -m bench.suites.overhead.bare_run RUN
    torchrun --nproc-per-node 2 -m bench.suites.overhead.bare_run RUN

RUN is the JSON file of a `BareRun`. The process calls the same `train` as `bench.orchestration.worker` and records
nothing, so that `deeper bench overhead` can compare the two.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bench.machine.children import end_with_parent
from reproduce.spec import Config, RunConfig

FIRST_STEP = "progress.json"  # a run with records has a file of this name once its first step has ended, too
RETURNED = "returned"


class BareRun(Config):
    """A run without records: its config, its folder and the resources of each rank."""

    run: RunConfig
    folder: Path
    """The folder of the run, which is created. Rank 0 creates the file `FIRST_STEP` in it after the first step. When
    `train` has returned, rank 0 writes the time, in seconds since the epoch, to the file `RETURNED`."""
    data_root: Path
    """The folder that the run's `data.path` is relative to."""
    threads: int
    """CPU threads of each rank."""
    gpu: bool
    """Whether each rank uses the GPU whose index is its local rank."""


def main(bare: BareRun) -> None:
    """Train the run in this process, which is one of its ranks.

    Rank, world size and local rank come from the variables `RANK`, `WORLD_SIZE` and `LOCAL_RANK`, which torchrun sets.
    Without them, the run has one rank. With several ranks, all of them call this function together, and it ends the
    process instead of returning.
    """
    import torch

    from reproduce.execution.ranks import leave_process_group
    from reproduce.training.interface import RankSetup, SilentObserver
    from reproduce.training.loop import train

    class Observer(SilentObserver):
        def progress(self, **_: float | None) -> None:
            (bare.folder / FIRST_STEP).touch()

    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size > 1:
        import torch.distributed as dist

        dist.init_process_group("nccl" if bare.gpu else "gloo")
    bare.folder.mkdir(parents=True, exist_ok=True)
    context = RankSetup(
        rank=rank,
        world_size=world_size,
        device=torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if bare.gpu else torch.device("cpu"),
        threads=bare.threads,
        folder=bare.folder,
        data_root=bare.data_root,
        stop_requested=lambda: False,
    )
    train(bare.run, context, Observer() if rank == 0 else SilentObserver())
    if rank == 0:
        (bare.folder / RETURNED).write_text(str(time.time()), encoding="utf-8")
    if world_size > 1:
        leave_process_group()


if __name__ == "__main__":
    end_with_parent()  # which is torchrun, if there are several ranks
    main(BareRun.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
