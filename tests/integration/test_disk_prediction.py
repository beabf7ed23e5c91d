"""What `deeper plan` predicts of the disk is what a real grid takes, while its runs train and afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from bench.planning.disk import predict_disk
from bench.planning.plan import make_plan
from reproduce.data import synthetic
from reproduce.data.writing import prepare
from reproduce.spec import load_experiment

EXPERIMENT = {
    "name": "sizes",
    "data": {"path": "stripes"},
    "recipe": {"epochs": 4, "batch_size": 32, "learning_rate": 0.02, "resolution": 32},
    "resources": {"workers": 1, "cpus_per_worker": 1},
    "arms": {"none": {"network": {"aux": "none"}}, "averaged": {"recipe": {"averaging": "ema"}}},
    "seeds": [0],
}
BYTES_TOLERANCE = 0.05
FILES_TOLERANCE = 4
"""Code with uncommitted changes adds a file to each of the two runs."""
TRAINING_BYTES_TOLERANCE = 0.2
"""The prediction is an upper bound: all other runs have finished, and the run that trains writes a checkpoint beside
two others. A measurement every few milliseconds may miss the last bytes of that checkpoint."""


def size(folder: Path) -> tuple[int, int]:
    """Bytes and files below a folder from which files disappear."""
    sizes = []
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append((Path(path) / name).stat().st_size)
            except FileNotFoundError:
                continue
    return sum(sizes), len(sizes)


def test_the_predicted_size_of_a_grid_is_that_of_a_real_one_during_and_after_it(tmp_path: Path) -> None:
    prepare(synthetic(classes=4, images=96, size=32, seed=0), tmp_path / "data" / "stripes")
    file = tmp_path / "sizes.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    plan = make_plan(load_experiment(str(file)), tmp_path / "data")
    predicted = predict_disk(plan, plan.runs, {})

    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "bench.cli", "run", str(file), "--concurrent", "1"]
    most_bytes = most_files = 0
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            found = size(tmp_path / "records")
            most_bytes, most_files = max(most_bytes, found[0]), max(most_files, found[1])
            time.sleep(0.01)
    assert running.returncode == 0
    after_bytes, after_files = size(tmp_path / "records")
    training_bytes, training_files = predicted.while_training(1)
    assert abs(after_bytes - predicted.after_bytes) <= BYTES_TOLERANCE * after_bytes
    assert abs(after_files - predicted.after_files) <= FILES_TOLERANCE
    assert (1 - TRAINING_BYTES_TOLERANCE) * training_bytes <= most_bytes <= (1 + BYTES_TOLERANCE) * training_bytes
    assert abs(most_files - training_files) <= FILES_TOLERANCE
