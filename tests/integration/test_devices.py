"""From Ray's devices to a run's record. What Ray gives a worker is real, and so is the run; only NVML is a double.

Ray assigns as many GPUs as it is told to have, on any machine (`ray.init(num_gpus=2)`); the worker trains on the CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from reproduce import schema
from reproduce.data import synthetic
from reproduce.data.writing import prepare
from tests.patience import PATIENCE_S

FIRST, SECOND = "GPU-fa0e0000-0000-0000-0000-000000000000", "GPU-fa1e0000-0000-0000-0000-000000000000"
MIG = "MIG-fa6e0000-0000-0000-0000-000000000000"

EXPERIMENT: dict[str, Any] = {
    "name": "on-devices",
    "data": {"path": "stripes"},
    "recipe": {"epochs": 1, "batch_size": 32, "learning_rate": 0.02, "resolution": 32},
    "arms": {"none": {"network": {"aux": "none"}}},
    "seeds": [0, 1],
}

SCRIPT = """
import json, os, sys
from pathlib import Path

import ray

from bench.orchestration.cluster import capacity
from bench.orchestration.worker import Attempt, Worker
from bench.orchestration.worker_group import WorkerGroup
from bench.planning.plan import make_plan
from bench.records.states import read_events, run_folder
from reproduce.spec import load_experiment


class OnCpu(Worker):
    def device(self):
        import torch

        return torch.device("cpu")

    def sees(self):
        return {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")}


place = Path(sys.argv[1])
experiment = load_experiment(place / "on-devices.yaml")
runs = make_plan(experiment, place / "data").runs
ray.init(
    address="local",  # other tests have clusters of their own, which Ray would connect to
    num_cpus=8,
    num_gpus=2,
    include_dashboard=False,
    log_to_driver=False,
    object_store_memory=256 * 2**20,
)
answer = {"capacity": capacity(experiment.resources), "runs": []}
# Both groups at once, so that each has a device of its own.
groups = [WorkerGroup.start(experiment.resources, worker_class=OnCpu) for _ in runs]
for run, group in zip(runs, groups):
    folder = run_folder(place / "records", run.key)
    outcome = group.train(Attempt(run.config, folder, place / "data"))
    events = read_events(folder)
    sees = ray.get(group.workers[0].sees.remote())
    answer["runs"].append({"outcome": outcome.status, "start": events[0], "end": events[-1], "sees": sees})
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("devices")
    source = synthetic(classes=4, images=64, size=32, seed=0)
    prepare(source, folder / "stripes")
    return folder


def train(data: Path, place: Path, library: Path, share: float, **environment: str) -> Any:
    """Both runs of the experiment, each with `share` of a GPU."""
    (place / "data").symlink_to(data)
    resources = {"gpus_per_worker": share, "cpus_per_worker": 1}
    (place / "on-devices.yaml").write_text(yaml.safe_dump({**EXPERIMENT, "resources": resources}), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(place)],
        env={**kept, "LD_LIBRARY_PATH": str(library), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [run["outcome"] for run in answer["runs"]] == ["finished", "finished"]
    return answer


def sampled(answer: Any) -> list[list[str]]:
    """By run, the devices that its telemetry covers."""
    return [run["end"]["telemetry"]["gpus"] for run in answer["runs"]]


def test_whole_gpus_are_sampled_under_the_numbers_that_ray_gives(data: Path, tmp_path: Path, nvml_double: Path) -> None:
    answer = train(data, tmp_path, nvml_double, 1)
    assert answer["capacity"] == 2
    assert sorted(sampled(answer)) == [[FIRST], [SECOND]]
    for run in answer["runs"]:
        telemetry, metrics = run["end"]["telemetry"], run["end"]["metrics"]
        assert telemetry["gpu_absent"] is None
        assert (telemetry["gpu_share"], run["start"]["resources"]["gpus_per_worker"]) == (1, 1)
        assert metrics[schema.GPU_BUSY_PERCENT] == 80
        assert metrics[schema.GPU_ENERGY_J] > 0
        assert run["sees"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID", "CUDA counts as Ray and NVML do"
        assert [FIRST, SECOND][int(run["sees"]["CUDA_VISIBLE_DEVICES"])] == telemetry["gpus"][0]


def test_runs_that_share_a_gpu_say_so_and_claim_no_energy_for_themselves(
    data: Path, tmp_path: Path, nvml_double: Path
) -> None:
    answer = train(data, tmp_path, nvml_double, 0.25, CUDA_VISIBLE_DEVICES=f"{SECOND},{MIG}")
    assert answer["capacity"] == 8
    first, second = answer["runs"]
    assert sampled(answer) == [[SECOND], [SECOND]], "Ray fills a device before it takes the next"
    for run in (first, second):
        metrics = run["end"]["metrics"]
        assert run["start"]["resources"]["gpus_per_worker"] == run["end"]["telemetry"]["gpu_share"] == 0.25
        assert metrics[schema.SHARED_GPU_BUSY_PERCENT] == 80
        assert not {schema.GPU_BUSY_PERCENT, schema.GPU_ENERGY_J} & set(metrics)


@pytest.mark.long
@pytest.mark.parametrize(
    ("visible", "devices", "absent"),
    [
        ("1,0", [FIRST, SECOND], [None, None]),
        (f"{FIRST},{SECOND}", [FIRST, SECOND], [None, None]),
        (f"{SECOND},{MIG}", [SECOND, MIG], [None, f"NVML does not tell how busy {MIG} is"]),
        ("0,7", [FIRST], [None, f"NVML does not know device 7; it has {FIRST}, {SECOND}"]),
    ],
)
def test_devices_keep_the_names_that_the_cluster_was_started_with(
    data: Path, tmp_path: Path, nvml_double: Path, visible: str, devices: list[str], absent: list[str | None]
) -> None:
    answer = train(data, tmp_path, nvml_double, 1, CUDA_VISIBLE_DEVICES=visible)
    assert sorted(uuid for uuids in sampled(answer) for uuid in uuids) == sorted(devices)
    said = [run["end"]["telemetry"]["gpu_absent"] for run in answer["runs"]]
    assert sorted(said, key=str) == sorted(absent, key=str)
