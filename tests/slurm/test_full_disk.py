"""A full disk in a real SLURM job: one sentence, no failed run, no requeue."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from reproduce.data import synthetic
from reproduce.data.writing import prepare

ROOT = Path(__file__).parents[2]
EXPERIMENT = {
    "name": "full",
    "data": {"path": "stripes"},
    "recipe": {"epochs": 1, "batch_size": 32, "learning_rate": 0.02, "resolution": 32},
    "arms": {"both": {"network": {"aux": "both"}}},
    "seeds": [0, 1],
    "resources": {"workers": 1, "cpus_per_worker": 2},
}
PROFILE = {"time": "20:00", "nodes": 1, "cpus_per_node": 2, "memory_gib": 3, "sbatch": ["--nodelist=n1"]}


@pytest.mark.long
def test_a_full_disk_ends_a_real_job_with_one_sentence_and_no_failed_run(cluster: Any) -> None:
    place = cluster.shared / "full"
    records = place / "records"
    (records / "runs").mkdir(parents=True)
    prepare(synthetic(classes=4, images=64, size=32, seed=0), place / "data" / "stripes")
    (place / "full.yaml").write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    (place / "lab.yaml").write_text(yaml.safe_dump(PROFILE), encoding="utf-8")
    deeper = [sys.executable, "-m", "bench.cli"]
    places = ["--records", records, "--data", place / "data"]
    environment = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": ""}
    cluster.on("n1", "mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", records / "runs")
    try:
        command = [*deeper, "slurm", "submit", "full.yaml", "--profile", "lab.yaml", "--no-report", *places]
        cluster.login(*command, cwd=place, env=environment)
        [submission] = (records / "experiments" / "full" / "slurm").iterdir()
        number = json.loads((submission / "jobs.json").read_text(encoding="utf-8"))["grid"]
        state = cluster.wait(number)
        log = (submission / f"grid-{number}.log").read_text(encoding="utf-8")
        answer = cluster.login(*deeper, "status", "full", "--json", *places, cwd=ROOT, host="n1")
    finally:
        cluster.on("n1", "umount", "--lazy", records / "runs")
    assert state == "FAILED", log
    fields = cluster.job(number)
    assert (fields["ExitCode"], fields["Restarts"]) == ("2:0", "0"), log
    assert "is full" in log
    assert "no run can go on, so the job is not requeued" in log
    assert "inline_container" not in log
    assert {run["state"] for run in json.loads(answer.stdout)["runs"]} <= {"interrupted", "waiting"}
