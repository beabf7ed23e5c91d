"""GPUs that a real SLURM grants: its device files are made by mknod, and NVML is a double. Ray and the runs are real.

Torch sees no GPU here, so that the workers train on the CPU; all else takes the GPUs for real.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import HOSTS
from patching import write_change
from user_folder import RECIPE, UserFolder, user_folder

from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
FIRST, SECOND = "GPU-fa0e0000-0000-0000-0000-000000000000", "GPU-fa1e0000-0000-0000-0000-000000000000"
MIG = "MIG-fa6e0000-0000-0000-0000-000000000000"

ON_CPU = """
def change(module):
    import torch

    module.Worker.device = lambda worker: torch.device("cpu")
"""
ONE_GPU = {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 1}


@pytest.fixture(scope="module")
def user(cluster: Any) -> UserFolder:
    return user_folder(cluster, "gpus")


@pytest.fixture(scope="module")
def setup(user: UserFolder, nvml_double: Path) -> list[str]:
    """Lines of a profile with which a node has NVML and trains on the CPU."""
    doubles = user.folder / "doubles"
    shutil.copytree(nvml_double, doubles)
    write_change(doubles, "bench.orchestration.worker", ON_CPU)
    return [f"export LD_LIBRARY_PATH={doubles} PYTHONPATH={doubles}:{ROOT}"]


@pytest.fixture
def first_gpu_is_taken(user: UserFolder) -> Iterator[None]:
    """Another job has the first GPU of n1."""
    command = ("sbatch", "--parsable", "--nodelist=n1", "--gpus-per-node=1", "--output=/dev/null", "--wrap=sleep 3000")
    other = user.cluster.login(*command).stdout.strip()
    user.cluster.wait(other, {"RUNNING"})
    yield
    user.cluster.login("scancel", other)
    user.cluster.wait(other)


def sampled(user: UserFolder, name: str) -> dict[str, tuple[list[str], str | None]]:
    """By host, the devices of which the run's telemetry is there, and what is said to be missing."""
    found = {}
    for run in user.runs(name).values():
        start, *_, end = user.events(run["key"])
        assert (run["state"], start["resources"]["gpus_per_worker"]) == ("finished", 1)
        found[start["environment"]["machine"]["hostname"]] = (end["telemetry"]["gpus"], end["telemetry"]["gpu_absent"])
    return found


def test_each_run_is_measured_on_the_gpu_that_slurm_gave_its_job(
    user: UserFolder, setup: list[str], first_gpu_is_taken: None
) -> None:
    user.write("granted", resources=ONE_GPU, seeds=[0, 1], recipe={**RECIPE, "epochs": 1})
    job = user.submit("granted", "--no-report", gpus_per_node=1, cpus_per_node=1, setup=setup)["grid"]
    user.ended("granted", job)
    assert sampled(user, "granted") == {"n1": ([SECOND], None), "n2": ([FIRST], None)}


@pytest.mark.long
def test_gpus_that_a_site_names_by_uuid_keep_their_names_and_mig_instances_say_what_is_missing(
    user: UserFolder, setup: list[str]
) -> None:
    """SLURM names MIG instances by UUID where it asks NVML for them, which it cannot here; a task's prologue does."""
    prologue = user.folder / "prologue.sh"
    names = {"0": SECOND, "1": MIG}
    cases = "".join(f"n{int(index) + 1}) echo export CUDA_VISIBLE_DEVICES={name} ;;\n" for index, name in names.items())
    prologue.write_text(f"#!/bin/sh\ncase $(hostname) in\n{cases}esac\n", encoding="utf-8")
    prologue.chmod(0o755)
    user.write("by-uuid", resources=ONE_GPU, seeds=[2, 3], recipe={**RECIPE, "epochs": 1})
    with_prologue = [*setup, f"export SLURM_TASK_PROLOG={prologue}"]
    job = user.submit("by-uuid", "--no-report", gpus_per_node=1, cpus_per_node=1, setup=with_prologue)["grid"]
    user.ended("by-uuid", job)
    silent = f"NVML does not tell how busy {MIG} is"
    assert sampled(user, "by-uuid") == {"n1": ([SECOND], None), "n2": ([MIG], silent)}


@pytest.mark.long
def test_all_gpus_of_a_node_are_used_at_once(user: UserFolder, setup: list[str]) -> None:
    user.write("both-gpus", resources=ONE_GPU, seeds=[4, 5], recipe=RECIPE)
    job = user.submit("both-gpus", "--no-report", nodes=1, gpus_per_node=2, setup=setup)["grid"]
    user.ended("both-gpus", job)
    devices = [user.events(run["key"])[-1]["telemetry"]["gpus"] for run in user.runs("both-gpus").values()]
    assert sorted(devices) == [[FIRST], [SECOND]]


def test_the_check_names_a_node_whose_gpus_cannot_be_used(user: UserFolder, setup: list[str]) -> None:
    """NVML answers on both nodes, but torch sees no GPU on either; on n1 another process computes on the GPU."""
    records = user.folder / "check-records"
    records.mkdir()
    taken = 'if [ "$(hostname)" = n1 ]; then export FAKE_NVML_PROCESSES=2; else export FAKE_NVML_PROCESSES=0; fi'
    wrapper = user.folder / "python.sh"
    wrapper.write_text(f'#!/bin/bash\n{taken}\nexec {sys.executable} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    profile = {"time": "10:00", "nodes": 2, "cpus_per_node": 1, "gpus_per_node": 2, "python": str(wrapper)}
    path = user.folder / "check.yaml"
    path.write_text(yaml.safe_dump({**profile, "setup": setup}), encoding="utf-8")
    user.write("checked")  # its network is small: without an experiment the nodes train at 224 px
    command = [sys.executable, "-m", "bench.cli", "slurm", "check", "checked.yaml", "--profile", path, "--seconds", "1"]
    place = ["--json", "--records", records, "--data", user.folder / "data"]
    answer = user.cluster.login(*command, *place, cwd=user.folder, timeout=PATIENCE_S, check=False)
    assert answer.returncode == 1, answer.stderr
    verdicts = {verdict["host"]: verdict for verdict in json.loads(answer.stdout)}
    assert set(verdicts) == set(HOSTS)
    for verdict in verdicts.values():
        [problem] = verdict["problems"]
        assert problem.startswith("torch sees 0 of the 2 GPUs that SLURM grants")
        assert verdict["found"]["devices"] == ["FAKE device"] * 2
    assert f"2 processes already compute on {FIRST}, with 2 GiB in use" in verdicts["n1"]["remarks"]
    assert not [remark for remark in verdicts["n2"]["remarks"] if "compute on" in remark]
