"""The worker function of a run without the suite: what `deeper bench overhead` compares with, plain and under torchrun.

    python -m bench.suites.overhead.bare TASK
    torchrun --nproc-per-node 2 -m bench.suites.overhead.bare TASK

TASK is a JSON file of a `Task`. The process trains the run as `bench.orchestration.worker` does and records nothing.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from reproduce.spec import Config, RunConfig

FIRST_STEP, RETURNED = "progress.json", "returned"  # the first is the name that `bench.records.states` gives it


class Task(Config):
    """A run, and where it is trained."""

    run: RunConfig
    folder: Path
    """Gets `FIRST_STEP` at the end of the first step and `RETURNED`, epoch seconds, once `train` has returned."""
    data_root: Path
    threads: int
    """Of a rank."""
    gpu: bool
    """Whether each rank has one of its own, by its local rank."""


def main(task: Task) -> None:
    import torch

    from reproduce.execution.ranks import leave_process_group
    from reproduce.training.interface import RankSetup, SilentObserver
    from reproduce.training.loop import train

    class Observer(SilentObserver):
        def progress(self, **_: float | None) -> None:
            (task.folder / FIRST_STEP).touch()

    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size > 1:
        import torch.distributed as dist

        dist.init_process_group("nccl" if task.gpu else "gloo")
    task.folder.mkdir(parents=True, exist_ok=True)
    context = RankSetup(
        rank=rank,
        world_size=world_size,
        device=torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if task.gpu else torch.device("cpu"),
        threads=task.threads,
        folder=task.folder,
        data_root=task.data_root,
        stop_requested=lambda: False,
    )
    train(task.run, context, Observer() if rank == 0 else SilentObserver())
    if rank == 0:
        (task.folder / RETURNED).write_text(str(time.time()), encoding="utf-8")
    if world_size > 1:
        leave_process_group()


if __name__ == "__main__":
    main(Task.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
