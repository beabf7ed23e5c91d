"""What a task of a job reads from SLURM's variables and answers."""

from __future__ import annotations

import pytest

from slurm.job.allocation import NoAllocation, allocation, expand, place, reason_of

STEP = {
    "SLURM_JOB_ID": "17",
    "SLURM_PROCID": "1",
    "SLURM_STEP_NODELIST": "n1,n2",
    "SLURM_CPUS_PER_TASK": "8",
    "SLURM_RESTART_COUNT": "2",
}


def test_cpus_gpus_and_memory_are_those_that_were_granted() -> None:
    granted = allocation(
        {**STEP, "SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1", "SLURM_MEM_PER_NODE": "1000"}
    )
    assert (granted.host, granted.cpus, granted.gpus, granted.restarts) == ("n2", 8, 2, 2)
    assert granted.memory_bytes == int(0.8 * 1000 * 2**20)


def test_devices_of_the_machine_count_for_nothing_where_none_were_granted() -> None:
    assert allocation({**STEP, "CUDA_VISIBLE_DEVICES": "0,1"}).gpus == 0


def test_an_element_of_an_array_is_not_taken_for_the_whole_array() -> None:
    assert allocation(STEP).name == "17"
    assert allocation({**STEP, "SLURM_ARRAY_JOB_ID": "15", "SLURM_ARRAY_TASK_ID": "3"}).name == "15_3"


def test_outside_srun_it_says_how_it_is_started() -> None:
    with pytest.raises(NoAllocation, match=r"SLURM_JOB_ID: not set; the launcher is started by srun"):
        allocation({})


def test_a_plain_node_list_needs_no_slurm() -> None:
    assert expand("n1,n2") == ("n1", "n2")


def test_a_single_node_talks_to_itself_over_loopback() -> None:
    assert (place(None).address, place(None).interface) == ("127.0.0.1", "lo")


def test_an_interface_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"interface: 'ib9' has no IPv4 address on .*; .*lo.* have"):
        place(None, "ib9")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("JobState=RUNNING Reason=None Restarts=0 PreemptTime=2026-11-24T09:00:00", "preempted"),
        ("JobState=COMPLETING Reason=TimeLimit Restarts=0", "time limit"),
        ("JobState=COMPLETING Reason=None Restarts=1 PreemptTime=None", "requeued by SLURM"),
        ("JobState=COMPLETING Reason=None Restarts=0", "cancelled"),
        ("", "terminated"),
    ],
)
def test_slurms_word_tells_why_a_signal_came(line: str, reason: str) -> None:
    assert reason_of(line, restarts=0) == reason
