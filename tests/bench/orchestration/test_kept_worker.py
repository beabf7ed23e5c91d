"""A worker that is kept for one run after the other does not grow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RUNS = 50
CODE = """
import json, sys
from pathlib import Path

import psutil

from bench.orchestration.worker import Attempt, RankPlacement, Worker
from bench.planning.plan import make_plan
from reproduce.spec import ExperimentConfig, ResourcesConfig, validated

data, out, runs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
experiment = validated(
    ExperimentConfig,
    {
        "name": "kept",
        "data": {"path": data.name},
        "recipe": {"epochs": 1, "batch_size": 32, "learning_rate": 0.01, "resolution": 32},
        "arms": {"both": {"network": {"aux": "both"}}, "naive": {"network": {"reduction": "naive"}}},
        "seeds": list(range((runs + 1) // 2)),
    },
    where="",
)
worker = Worker(0, ResourcesConfig())
worker.join([RankPlacement("127.0.0.1", ())], 0)
resident = []
for run in make_plan(experiment, data.parent).runs[:runs]:
    outcome = worker.train(Attempt(run.config, out / run.key, data.parent))
    assert outcome.status == "finished", outcome
    resident.append(psutil.Process().memory_info().rss / 2**20)
print(json.dumps(resident))
"""


@pytest.mark.long
def test_the_memory_of_a_worker_after_fifty_runs_is_that_after_two(synthetic_data: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, synthetic_data, tmp_path, str(RUNS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    resident = json.loads(done.stdout.splitlines()[-1])
    assert len(resident) == RUNS
    assert max(resident[-5:]) < 1.1 * max(resident[:2]) + 20, resident
