"""One of two ranks, each in its own process, of which rank 1 is slow: in computing, then in loading.

Usage: slow_rank.py RANK FOLDER DATA_ROOT
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.orchestration.session import train_and_record
from reproduce.data import load_manifest
from reproduce.data.loading.loaders import TrainLoader
from reproduce.execution.ranks import leave_process_group
from reproduce.models import GoogLeNet
from reproduce.spec import DataConfig, NetworkConfig, RecipeConfig, RunConfig, Seeds
from reproduce.training.interface import RankSetup, SilentObserver
from reproduce.training.loop import train

SLOWNESS_S = 0.5
load_epoch = TrainLoader.epoch


def compute_slowly(module: torch.nn.Module, _: Any) -> None:
    if isinstance(module, GoogLeNet):
        time.sleep(SLOWNESS_S)


def load_slowly(*arguments: Any) -> Iterator[Any]:
    for batch in load_epoch(*arguments):
        time.sleep(SLOWNESS_S)
        yield batch


def main(rank: int, folder: Path, data: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for seed, name in enumerate(("computing", "loading")):
        run = RunConfig(
            data=DataConfig(path=data.name),
            data_hash=load_manifest(data).hash,
            network=NetworkConfig(classes=4, resolution=32),
            recipe=RecipeConfig(epochs=1, batch_size=24, resolution=32, learning_rate=0.01),
            seeds=Seeds.of(seed),
            workers=2,
        )
        hook = None
        if rank == 1 and name == "computing":
            hook = torch.nn.modules.module.register_module_forward_pre_hook(compute_slowly)
        if rank == 1 and name == "loading":
            TrainLoader.epoch = load_slowly  # type: ignore[method-assign]
        setup = RankSetup(rank, 2, torch.device("cpu"), 1, folder / name, data.parent, stop_requested=lambda: False)
        (folder / name).mkdir(exist_ok=True)
        if rank == 0:
            train_and_record(run, setup, hosts=("n1", "n2"))
        else:
            train(run, setup, SilentObserver())
        if hook is not None:
            hook.remove()
    leave_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
