"""A run without this project around it, and the suites `overhead` and `scaling` in their smallest form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.suites.overhead.bare_run import FIRST_STEP, RETURNED, BareRun
from reproduce.spec import DataConfig, NetworkConfig, RecipeConfig, RunConfig, Seeds


def deeper(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.cli", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=3600, check=False, encoding="utf-8"
    )


def test_torchrun_trains_the_same_run_on_two_ranks(synthetic_data: Path, tmp_path: Path) -> None:
    run = RunConfig(
        data=DataConfig(path=synthetic_data.name),
        data_hash="-",
        network=NetworkConfig(classes=4, resolution=32),
        recipe=RecipeConfig(epochs=1, batch_size=32, learning_rate=0.01, resolution=32),
        seeds=Seeds.of(0),
        workers=2,
    )
    bare = BareRun(run=run, folder=tmp_path, data_root=synthetic_data.parent, threads=1, gpu=False)
    (tmp_path / "run.json").write_text(bare.model_dump_json(), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*launcher, "-m", "bench.suites.overhead.bare_run", str(tmp_path / "run.json")], check=True, timeout=200
    )
    assert (tmp_path / FIRST_STEP).stat().st_mtime <= float((tmp_path / RETURNED).read_text(encoding="utf-8"))


@pytest.mark.long
def test_overhead_compares_a_run_and_each_record(tmp_path: Path) -> None:
    done = deeper(tmp_path, "bench", "overhead", "--repetitions", "1", "--images", "64", "--output", "overhead.json")
    assert done.returncode in (0, 1), done.stderr  # goals are for quiet machines
    run, costs = json.loads((tmp_path / "overhead.json").read_text(encoding="utf-8"))["comparisons"]
    assert list(run["rounds"]) == ["deeper", "plain process", "torchrun"]
    assert run["once"]["deeper"]["peak memory, GiB"] > run["once"]["plain process"]["peak memory, GiB"] > 0.1
    assert "telemetry, 10 Hz" in costs["rounds"]
    assert costs["once"]["a checkpoint each second"]["seconds a checkpoint"] > 0
