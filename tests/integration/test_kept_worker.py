"""A worker process is kept from run to run, and the twentieth run finds it as the second did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench.records.states import read_events
from reproduce import schema
from reproduce.data import synthetic
from reproduce.data.writing import prepare

RUNS = 20
GROWTH = 1.05
"""The recorded memory of equal runs differs by up to 4 %. Of 50 runs, measured by hand, the last ones had 1.00 times
that of the second to the sixth."""
EXPERIMENT = {
    "name": "kept",
    "data": {"path": "stripes"},
    "recipe": {"epochs": 1, "batch_size": 8, "learning_rate": 0.02, "resolution": 32},
    "resources": {"workers": 1, "cpus_per_worker": 1},
    "arms": {"none": {"network": {"aux": "none"}}},
    "seeds": list(range(RUNS)),
}


@pytest.mark.long
def test_the_memory_of_a_kept_worker_does_not_grow_with_the_runs(tmp_path: Path) -> None:
    prepare(synthetic(classes=4, images=48, size=32, seed=0), tmp_path / "data" / "stripes")
    file = tmp_path / "kept.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "bench.cli", "run", str(file), "--concurrent", "1", "--telemetry-hz", "20"]
    subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, check=True)

    folders = sorted((tmp_path / "records" / "runs").iterdir(), key=lambda folder: float(read_events(folder)[0]["t"]))
    memory = [pd.read_parquet(folder / schema.ARTIFACT_TELEMETRY)["rss_gib"].max() for folder in folders]
    assert len(memory) == RUNS
    assert 0.2 < max(memory[-5:]) < GROWTH * max(memory[1:6])
