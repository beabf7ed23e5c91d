"""What is read from sinfo, squeue and sacct: from their text, and from those of a real SLURM."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurm import queries
from slurm.queries import NodeKind, SlurmError, SlurmJob, parse_accounting, parse_gpus, parse_jobs, parse_partitions

if TYPE_CHECKING:
    from cluster import Cluster

ROOT = Path(__file__).parents[2]

# SLURM 22.05.8
SINFO = """\
short|short*|up|1:00:00|1|4|16000|(null)|idle|cpu1
short|short*|up|1:00:00|2|4|16000|(null)|down*|cpu[2-3]
gpu|gpu|drain|2-00:00:00|2|64|500000|gpu:a100:4,nvme:1|mixed|gpu[1-2]
long|long|down|infinite|1|4|16000|(null)|idle|cpu1
empty|empty|up|1:30:00|0|0|0|(null)|n/a|
"""
SQUEUE = """\
10_1|PENDING|BeginTime||0:00|5:00|1|
10_0|RUNNING|None|cpu1|1:00:03|1-00:00:00|0|
11|PENDING|Dependency||0:00|UNLIMITED|0|
"""


def test_nodes_of_a_partition_are_grouped_by_kind() -> None:
    short, gpu, long, empty = parse_partitions(SINFO)
    assert short.nodes == (NodeKind(1, 4, 16000, 0, "idle", "cpu1"), NodeKind(2, 4, 16000, 0, "down", "cpu[2-3]"))
    assert (short.default, gpu.default) == (True, False)
    assert gpu.nodes == (NodeKind(2, 64, 500000, 4, "mixed", "gpu[1-2]"),)
    assert (short.max_seconds, gpu.max_seconds, long.max_seconds) == (3600, 2 * 86400, None)
    assert (gpu.state, long.state) == ("drain", "down")
    assert empty.nodes == ()


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", 0),
        ("gpu:4", 4),
        ("gpu:a100:4(S:0-1)", 4),
        ("gpu:a100:2(S:0,2),gpu:v100:3(S:1)", 5),
        ("nvme:7,gpu:1", 1),
        ("gpu", 1),
        ("gpu:a100", 1),
    ],
)
def test_gpus_are_counted_in_all_forms_of_generic_resources(gres: str, gpus: int) -> None:
    assert parse_gpus(gres) == gpus


def test_squeue_gives_state_reason_times_and_restarts() -> None:
    assert parse_jobs(SQUEUE) == [
        SlurmJob("10_1", "PENDING", "BeginTime", "", 0, 300, 1),
        SlurmJob("10_0", "RUNNING", "", "cpu1", 3603, 86400, 0),
        SlurmJob("11", "PENDING", "Dependency", "", 0, None, 0),
    ]


def test_sacct_gives_who_cancelled_a_job_and_a_line_for_each_of_its_starts() -> None:
    lines = [
        "17|REQUEUED|n1|00:00:03|00:10:00",
        "18|COMPLETED|n[1-2]|1-00:00:01|UNLIMITED",
        "17|PREEMPTED|n2|00:00:05|00:10:00",
        "17|CANCELLED by 1000|n1|00:00:20|00:10:00",
    ]
    assert parse_accounting("\n".join(lines)) == [
        SlurmJob("17", "CANCELLED", "by 1000", "n1", 20, 600, 2),
        SlurmJob("18", "COMPLETED", "", "n[1-2]", 86401, None, 0),
    ]


# --- when SLURM does not answer -----------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def test_a_missing_slurm_is_a_one_line_error(programs: Path) -> None:
    with pytest.raises(SlurmError, match=r"^SLURM: no sinfo on PATH; .*login node.*$"):
        queries.partitions()


def test_a_controller_that_refuses_is_quoted(programs: Path) -> None:
    program(programs, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmError, match=r"^SLURM: squeue: slurm_load_jobs error: Unable to contact slurm controller$"):
        queries.jobs(["17"])


def test_a_controller_that_hangs_is_an_error(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "ANSWER_TIMEOUT_S", 0.2)
    program(programs, "sinfo", "exec /bin/sleep 60")
    with pytest.raises(SlurmError, match="sinfo gave no answer"):
        queries.partitions()


def test_a_job_that_left_the_queue_is_looked_up_in_the_accounting(programs: Path) -> None:
    program(programs, "squeue", "echo '18|RUNNING|None|n1|0:03|10:00|0|'")
    program(programs, "sacct", "echo '17|TIMEOUT|n1|00:10:05|00:10:00'")
    assert [(job.id, job.state) for job in queries.jobs(["17", "18", "19"])] == [
        ("17", "TIMEOUT"),
        ("18", "RUNNING"),
        ("19", "UNKNOWN"),
    ]


def test_elements_of_an_array_are_sorted_by_number(programs: Path) -> None:
    program(programs, "squeue", 'for i in 10 2 1; do echo "7_$i|RUNNING|None|n1|0:03|10:00|0|"; done')
    assert [job.id for job in queries.jobs(["7"])] == ["7_1", "7_2", "7_10"]
    assert [job.id for job in queries.jobs(["7_2"])] == ["7_2"]


# --- a real SLURM ----------------------------------------------------------------------------------------


@pytest.fixture
def sleeping_array(cluster: Cluster) -> Iterator[str]:
    """The id of a running array of two elements."""
    command = ("sbatch", "--parsable", "--array=0-1", "--time=5", "--output=/dev/null", "--wrap=sleep 300")
    number = cluster.login(*command).stdout.strip()
    cluster.wait(f"{number}_0", {"RUNNING"})
    yield number
    cluster.login("scancel", number)


def evaluate_on(cluster: Cluster, expression: str) -> str:
    """What an expression of `slurm.queries` prints on the login node."""
    code = f"from slurm.queries import *; print({expression})"
    answer: subprocess.CompletedProcess[str] = cluster.login(sys.executable, "-c", code, cwd=ROOT)
    return answer.stdout.strip()


def test_partitions_of_a_real_cluster_are_read(cluster: Cluster) -> None:
    offered = "{p.name: (p.default, p.max_seconds, [(n.count, n.cpus, n.gpus) for n in p.nodes]) for p in partitions()}"
    found = eval(evaluate_on(cluster, offered))
    assert found["main"] == (True, 3600, [(2, 4, 2)])
    assert found["gpu"] == (False, 3600, [(1, 8, 4)])


def test_jobs_of_a_real_cluster_are_read(cluster: Cluster, sleeping_array: str) -> None:
    lines = evaluate_on(
        cluster, f"*((j.id, j.state, j.limit_s, j.restarts) for j in jobs(['{sleeping_array}', '999'])), sep='\\n'"
    )
    assert lines.splitlines() == [
        f"('{sleeping_array}_0', 'RUNNING', 300, 0)",
        f"('{sleeping_array}_1', 'RUNNING', 300, 0)",
        "('999', 'UNKNOWN', None, None)",
    ]
    assert evaluate_on(cluster, f"jobs(['{sleeping_array}_1'])[0].state, jobs(['999'])[0].state") == "RUNNING UNKNOWN"
