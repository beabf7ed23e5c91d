"""A run to record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.records.record import Record
from reproduce.spec import DataConfig, NetworkConfig, RecipeConfig, RunConfig, Seeds


@pytest.fixture
def config() -> RunConfig:
    return RunConfig(
        data=DataConfig(path="tiny"),
        data_hash="abc",
        network=NetworkConfig(classes=10, resolution=64),
        recipe=RecipeConfig(epochs=3, batch_size=8, learning_rate=0.1),
        seeds=Seeds.of(0),
        workers=1,
    )


@pytest.fixture
def begun(config: RunConfig) -> Callable[..., Record]:
    """Begins an attempt at the run in a folder."""

    def begin(folder: Path, **options: Any) -> Record:
        record = Record(folder)
        record.begin(config, environment={"machine": {"hostname": "h"}}, world_size=1, device="cpu", **options)
        return record

    return begin
