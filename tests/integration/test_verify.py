"""A result is repeated by `deeper verify` on the machine that made it, and is equal bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from reproduce.data import synthetic
from reproduce.data.writing import prepare

EXPERIMENT = {
    "name": "repeated",
    "data": {"path": "stripes"},
    "recipe": {"epochs": 1, "batch_size": 16, "learning_rate": 0.02, "resolution": 32},
    "resources": {"workers": 1, "cpus_per_worker": 1},
    "arms": {"none": {"network": {"aux": "none"}}},
    "seeds": [0, 1],
}


def deeper(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "bench.cli", *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, encoding="utf-8", timeout=600
    )


def test_a_result_is_equal_bit_for_bit_on_the_machine_that_made_it(tmp_path: Path) -> None:
    prepare(synthetic(classes=4, images=64, size=32, seed=0), tmp_path / "data" / "stripes")
    (tmp_path / "repeated.yaml").write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    assert deeper(tmp_path, "run", "repeated.yaml", "--no-publish").returncode == 0
    shutil.move(tmp_path / "records", tmp_path / "result")
    done = deeper(tmp_path, "verify", "result", "--seed", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (run,) = found["runs"]
    assert {one["verdict"] for one in run["metrics"]} == {"equal bit for bit"}
    assert len(run["metrics"]) == 5
    assert run["predictions"] == {"images": 16, "same": 16}
    again = deeper(tmp_path, "verify", "result", "--seed", "1")
    assert (again.returncode, "starting Ray" in again.stdout) == (0, False), "what was trained is not trained again"
