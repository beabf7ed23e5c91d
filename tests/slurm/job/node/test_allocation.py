"""What a node of a job was granted, by SLURM's environment variables."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from slurm.job.node.allocation import NoAllocationError, expand_node_list, read_allocation

STEP = {
    "SLURM_JOB_ID": "17",
    "SLURM_PROCID": "1",
    "SLURM_STEP_NODELIST": "n1,n2",
    "SLURM_CPUS_PER_TASK": "8",
    "SLURM_RESTART_COUNT": "2",
}


def test_cpus_gpus_and_memory_are_those_that_were_granted() -> None:
    allocation = read_allocation(
        {**STEP, "SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1", "SLURM_MEM_PER_NODE": "1000"}
    )
    assert (allocation.host, allocation.cpus, allocation.gpus, allocation.restarts) == ("n2", 8, 2, 2)
    assert allocation.memory_bytes == int(0.8 * 1000 * 2**20)
    assert allocation.peers == ["n1"]


def test_mig_instances_that_slurm_names_by_uuid_count_as_gpus() -> None:
    """What SLURM sets where NVML has told it the instances (AutoDetect=nvml): gpu_nvml.c and gres_common.c."""
    names = "MIG-fa6e0000-0000-0000-0000-000000000000,MIG-fa6e0000-0000-0000-0000-000000000001"
    granted = {"SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_GPUS": "0,1", "GPU_DEVICE_ORDINAL": "0,1"}
    assert read_allocation({**STEP, **granted, "CUDA_VISIBLE_DEVICES": names}).gpus == 2


def test_gpus_of_the_machine_do_not_count_without_a_grant() -> None:
    assert read_allocation({**STEP, "CUDA_VISIBLE_DEVICES": "0,1"}).gpus == 0


def test_the_queue_id_of_an_array_element_does_not_name_the_whole_array() -> None:
    assert read_allocation(STEP).queue_id == "17"
    assert read_allocation({**STEP, "SLURM_ARRAY_JOB_ID": "15", "SLURM_ARRAY_TASK_ID": "3"}).queue_id == "15_3"


@pytest.mark.parametrize("missing", ["SLURM_JOB_ID", "SLURM_PROCID", "SLURM_STEP_NODELIST"])
def test_outside_srun_the_message_says_how_to_start_the_launcher(missing: str) -> None:
    environment = {name: value for name, value in STEP.items() if name != missing}
    with pytest.raises(NoAllocationError, match=f"{missing}: not set; the launcher is started by srun"):
        read_allocation(environment)


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("n1,n2", ["n1", "n2"]),
        ("n[1-3,7]", ["n1", "n2", "n3", "n7"]),
        ("gpu[08-10],login", ["gpu08", "gpu09", "gpu10", "login"]),
        ("rack[1-2]n[09-10],x", ["rack1n09", "rack1n10", "rack2n09", "rack2n10", "x"]),
    ],
)
def test_a_list_of_nodes_is_expanded_as_scontrol_does_it(nodes: str, names: list[str], tmp_path: Path) -> None:
    assert list(expand_node_list(nodes)) == names
    if shutil.which("scontrol") is None:
        pytest.skip("no scontrol on PATH to compare with")
    (tmp_path / "slurm.conf").write_text("ClusterName=none\nSlurmctldHost=none\n", encoding="utf-8")
    environment = {**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf")}
    command = ["scontrol", "show", "hostnames", nodes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, encoding="utf-8")
    assert done.stdout.split() == names
