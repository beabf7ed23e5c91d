"""What is found on the nodes of a trial decides their verdicts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slurm.trial.gpus import tflop_rate
from slurm.trial.verdicts import LOST, UNFINISHED, judge

VERSIONS = {"python": "3.11.2", "code": "0123", "torch": "2.14"}
FOUND = {
    "problems": [],
    "cpus": 8,
    "gpus": ["H100"],
    "versions": VERSIONS,
    "clock_s": 0.01,
    "file_clock_s": -0.2,
    "locks": True,
    "link_mib_s": 1000.0,
    "records_mib_s": 500.0,
    "images_s": 4000.0,
    "records_free_gib": 100.0,
    "shared_memory_mib": 4096.0,
}


def results(**nodes: dict[str, Any] | None) -> dict[str, Any]:
    """Results of nodes that differ from a sound one in the given values; None for a node that took no part."""
    return {
        "hosts": list(nodes),
        "nodes": {host: {**FOUND, **changed} for host, changed in nodes.items() if changed is not None},
        "asked": {"cpus": 8, "gpus": 1, "object_store_mib": 512},
    }


def test_sound_nodes_are_ok() -> None:
    assert [(verdict.host, verdict.word) for verdict in judge(results(n1={}, n2={}), VERSIONS)] == [
        ("n1", "ok"),
        ("n2", "ok"),
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"versions": {**VERSIONS, "torch": "2.13"}}, "torch is 2.13, and 2.14 elsewhere"),
        ({"clock_s": -7.3}, "its clock is -7.3 s off the head node's"),
        ({"file_clock_s": 31.0}, "its clock is +31.0 s off that of the shared file system"),
        ({"locks": False}, "a file that another node has locked is not locked here"),
        ({"cpus": 4}, "it has 4 CPUs, and the profile asks for 8"),
        ({"granted_gpus": 0, "gpus": []}, "SLURM grants 0 GPUs, and the profile asks for 1"),
        ({"gpus": [], "gpus_absent": "no driver"}, "torch sees 0 of the 1 GPUs that SLURM grants: no driver"),
        ({"shared_memory_mib": 64.0}, "/dev/shm has 64 MiB free, and Ray takes 512"),
        ({"records_free_gib": 0.25}, "the disk of records has 0.2 GiB free"),
        ({"problems": ["disks: Read-only file system"]}, "disks: Read-only file system"),
        ({UNFINISHED: "training"}, "it ended in the step 'training' or waits there for another node"),
        (None, "it took no part"),
    ],
)
def test_a_spoilt_node_is_unfit_and_the_others_are_ok(changed: dict[str, Any] | None, said: str) -> None:
    verdicts = judge(results(n1={}, n2=changed, n3={}), VERSIONS)
    assert [verdict.word for verdict in verdicts] == ["ok", "unfit", "ok"]
    assert said in str(verdicts[1])


@pytest.mark.parametrize(("name", "unit"), [("link_mib_s", "MiB/s to the head node"), ("images_s", "images/s loaded")])
def test_a_rate_far_below_the_others_is_slow(name: str, unit: str) -> None:
    verdicts = judge(results(n1={}, n2={}, n3={name: 100.0}), VERSIONS)
    assert [verdict.word for verdict in verdicts] == ["ok", "ok", "slow"]
    assert f"100 {unit}, where the median is " in str(verdicts[2])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gpus": ["A100"]}, "its GPUs are A100, and H100 elsewhere"),
        ({"gpu_tflop_s": 90.0}, "90 TFLOP/s on its slowest GPU, where the median is 600"),
        ({"devices_absent": ["no NVML: it is not there"]}, "telemetry lacks a GPU: no NVML: it is not there"),
        (
            {"occupied": [{"uuid": "GPU-7", "processes": 1, "memory_gib": 70.2}]},
            "1 processes already compute on GPU-7, with 70 GiB in use",
        ),
    ],
)
def test_a_gpu_that_is_other_than_those_elsewhere_is_remarked(changed: dict[str, Any], said: str) -> None:
    verdicts = judge(
        results(n1={"gpu_tflop_s": 600.0}, n2={"gpu_tflop_s": 600.0}, n3={"gpu_tflop_s": 600.0, **changed})
    )
    assert [verdict.word for verdict in verdicts] == ["ok", "ok", "slow"]
    assert said in str(verdicts[2])


def test_the_rate_of_matrix_products_is_positive() -> None:
    assert tflop_rate(torch.device("cpu"), side=64) > 0


def test_without_a_reference_the_commonest_version_counts() -> None:
    other = {"versions": {**VERSIONS, "code": "4567"}}
    assert [verdict.word for verdict in judge(results(n1=other, n2={}, n3={}))] == ["unfit", "ok", "ok"]


@pytest.mark.parametrize(
    "other",
    [None, {UNFINISHED: "training"}, {"problems": ["training: this node has too little memory"]}],
)
def test_a_node_that_lost_one_with_a_problem_is_ok(other: dict[str, Any] | None) -> None:
    left, culprit = judge(results(n1={LOST: "training: the connection was lost"}, n2=other), VERSIONS)
    assert (left.word, culprit.word) == ("ok", "unfit")


def test_a_connection_that_is_lost_for_no_known_reason_is_a_problem() -> None:
    verdicts = judge(results(n1={LOST: "training: the connection was lost"}, n2={}), VERSIONS)
    assert [verdict.problems for verdict in verdicts] == [("training: the connection was lost",), ()]
