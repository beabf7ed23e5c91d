"""Tiny runs on the data set of conftest.py, and an observer that keeps what it receives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from reproduce.spec import DataConfig, NetworkConfig, RecipeConfig, RunConfig, Seeds
from reproduce.training.interface import RankSetup


class Recorder:
    """Keeps everything, over several attempts, as a record does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.epochs: list[dict[str, float]] = []
        self.history_on_disk: list[int] = []
        self.table: dict[str, Any] = {}

    @property
    def epochs_recorded(self) -> int:
        return len(self.epochs)

    def progress(self, **_: Any) -> None:
        pass

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        assert epoch == len(self.epochs)
        self.epochs.append(metrics)
        self.history_on_disk.append(len(torch.load(self.folder / "checkpoint.pt", weights_only=True)["history"]))

    def predictions(self, table: dict[str, Any]) -> None:
        self.table = table


class StopAt:
    """Requests a stop at given calls, counted over attempts."""

    def __init__(self, *calls: int) -> None:
        self.calls, self.count = calls, 0

    def __call__(self) -> bool:
        self.count += 1
        return self.count in self.calls


def tiny_run(*, workers: int = 1, **recipe: Any) -> RunConfig:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 12, "resolution": 32, "learning_rate": 0.01}
    return RunConfig(
        data=DataConfig(path="tiny"),
        data_hash="tiny",
        network=NetworkConfig(classes=3, resolution=recipe.get("resolution", 32)),
        recipe=RecipeConfig(**settings | recipe),
        seeds=Seeds.of(1),
        workers=workers,
    )


def rank_setup(
    folder: Path, data_root: Path, stop: Callable[[], bool] = lambda: False, rank: int = 0, world_size: int = 1
) -> RankSetup:
    folder.mkdir(exist_ok=True)
    return RankSetup(
        rank=rank,
        world_size=world_size,
        device=torch.device("cpu"),
        threads=1,
        folder=folder,
        data_root=data_root,
        stop_requested=stop,
    )


def assert_same_end(one: Path, other: Path) -> None:
    """The checkpoints agree bit for bit, except for times and memory."""

    def content(folder: Path) -> dict[str, Any]:
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        assert state.pop("finished")
        del state["key"]  # `assert_close` knows no strings
        state["history"] = [
            {name: value for name, value in metrics.items() if not name.startswith(("throughput/", "memory/"))}
            for metrics in state["history"]
        ]
        return state

    torch.testing.assert_close(content(one), content(other), rtol=0, atol=0, equal_nan=True)
