"""Why a signal came, and how it is passed on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from slurm.job.node.allocation import Allocation
from slurm.job.termination import StopRequest, parse_termination_reason, termination_reason

ALLOCATION = Allocation("17", "15_3", 1, rank=0, hosts=("n1",), cpus=1, gpus=0, memory_bytes=None)


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
def test_slurms_description_of_a_job_tells_why_a_signal_came(line: str, reason: str) -> None:
    assert parse_termination_reason(line, restarts=0) == reason


def test_slurm_is_asked_by_the_id_that_the_queue_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show job -o 15_3" ] && echo "Restarts=2"\n', encoding="utf-8")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert termination_reason(ALLOCATION) == "requeued by SLURM"


def test_without_an_answer_of_slurm_the_job_counts_as_terminated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert termination_reason(ALLOCATION) == "terminated"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_by_the_stop_file_with_its_reason(tmp_path: Path, number: signal.Signals) -> None:
    stop = StopRequest(tmp_path / "stop", lambda: "preempted")
    stop.listen()
    assert not stop.is_set()
    os.kill(os.getpid(), number)
    assert stop.is_set()
    assert (tmp_path / "stop").read_text(encoding="utf-8") == "preempted"
    assert stop.reason == "preempted"


def test_the_batch_scripts_stop_file_counts_without_a_signal(tmp_path: Path) -> None:
    stop = StopRequest(tmp_path / "stop", lambda: "never asked")
    (tmp_path / "stop").write_text("time limit", encoding="utf-8")
    assert stop.is_set()
    assert stop.reason is None


def test_a_signal_after_the_stop_file_leaves_the_file_alone(tmp_path: Path) -> None:
    stop = StopRequest(tmp_path / "stop", lambda: "cancelled")
    stop.listen()
    (tmp_path / "stop").write_text("time limit", encoding="utf-8")
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.is_set()
    assert (tmp_path / "stop").read_text(encoding="utf-8") == "time limit"
    assert stop.reason == "cancelled"
