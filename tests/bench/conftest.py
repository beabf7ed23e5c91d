"""Runs to record, shared by the tests of records' readers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.records.record import Record
from bench.records.states import run_folder
from bench.tracking.sending import Sender
from reproduce.spec import DataConfig, NetworkConfig, PlannedRun, RecipeConfig, RunConfig, Seeds

ENVIRONMENT = {
    "commit": "c0ffee",
    "dirty": False,
    "packages": {"torch": "2.14.1"},
    "machine": {"hostname": "h", "python": "3.11.7", "cpu": "a CPU", "cores": 2},
    "gpus": [],
    "gpu_absent": "no NVML",
}


def plan_run(seed: int, *, experiment: str = "first", arm: str = "full") -> PlannedRun:
    config = RunConfig(
        data=DataConfig(path="tiny"),
        data_hash="abc",
        network=NetworkConfig(classes=10, resolution=64, aux="both" if arm == "full" else "none"),
        recipe=RecipeConfig(epochs=3, batch_size=8, learning_rate=0.1),
        seeds=Seeds.of(seed),
        workers=1,
    )
    return PlannedRun(experiment=experiment, arm=arm, seed=seed, config=config)


def begin_run(records: Path, run: PlannedRun) -> Record:
    record = Record(run_folder(records, run.key))
    record.begin(run.config, environment=ENVIRONMENT, world_size=1, device="cpu")
    return record


@pytest.fixture(scope="session")
def planned() -> Callable[..., PlannedRun]:
    return plan_run


@pytest.fixture
def begin() -> Callable[[Path, PlannedRun], Record]:
    return begin_run


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store in SQLite without runs, to be copied, since creating its tables takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    Sender(f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def with_nvml_double(nvml_double: Path) -> Callable[..., Any]:
    """Runs a script with arguments in a process that has the double of NVML, and returns the JSON that it prints."""

    def run(script: str, *arguments: str, **environment: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env={**os.environ, "LD_LIBRARY_PATH": str(nvml_double), **environment},
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
            timeout=300,
        )
        return json.loads(done.stdout)

    return run
