"""Which exit code a job gets."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bench.console.exit_codes import CANCELLED, DONE, FAILED, INTERRUPTED, WRONG_INPUT
from reproduce.limits import KillsForMemory

if TYPE_CHECKING:
    from tests.slurm.job.conftest import DriverDouble, RayDouble, Submission
    from tests.slurm.job.head_node.conftest import MakeHead


@pytest.mark.parametrize("code", [DONE, FAILED, WRONG_INPUT, INTERRUPTED, CANCELLED])
def test_the_exit_code_is_that_of_deeper_run(head: MakeHead, ray: RayDouble, driver: DriverDouble, code: int) -> None:
    driver.code = code
    assert head().run() == code
    assert ray.killed


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("time limit", INTERRUPTED),
        ("preempted", INTERRUPTED),
        ("cancelled", CANCELLED),
        ("requeued by SLURM", CANCELLED),
        ("terminated", CANCELLED),
    ],
)
def test_an_interrupted_job_is_requeued_unless_its_signal_meant_an_end(
    head: MakeHead, driver: DriverDouble, reason: str, code: int
) -> None:
    node = head(reason=reason)
    node.stop.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    driver.code, driver.until = INTERRUPTED, node.stop.file.exists
    assert node.run() == code
    assert node.stop.file.read_text(encoding="utf-8") == reason


def test_a_deeper_run_that_was_killed_is_tried_again_by_a_requeue(
    head: MakeHead, driver: DriverDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    driver.code = -signal.SIGKILL
    assert head().run() == INTERRUPTED
    assert "deeper run was killed by SIGKILL" in capsys.readouterr().err


LIMIT = KillsForMemory(machine=0, group=0, limit=3 * 2**30, peak=3 * 2**30)


@pytest.mark.parametrize(("killed", "code"), [(0, INTERRUPTED), (1, WRONG_INPUT)])
def test_a_deeper_run_that_the_kernel_killed_for_memory_is_not_requeued(
    head: MakeHead,
    submission: Submission,
    driver: DriverDouble,
    capsys: pytest.CaptureFixture[str],
    killed: int,
    code: int,
) -> None:
    driver.code = -signal.SIGKILL
    counts = iter([LIMIT, replace(LIMIT, machine=killed, group=killed)])
    assert replace(head(), count_kills=counts.__next__).run() == code
    limit = "the processes of this job may use 3.00 GiB of memory (peak: 3.00 GiB) on this node"
    assert (limit in capsys.readouterr().err) == bool(killed)
    assert submission.statuses() == {"heads": "waiting", "plain": "waiting"}


@pytest.mark.parametrize(("restarts", "code"), [(0, FAILED), (1, INTERRUPTED)])
def test_a_job_is_requeued_for_a_ray_that_does_not_start_only_if_it_has_started_before(
    head: MakeHead,
    submission: Submission,
    ray: RayDouble,
    driver: DriverDouble,
    capsys: pytest.CaptureFixture[str],
    restarts: int,
    code: int,
) -> None:
    ray.listens = False
    assert head(restarts=restarts).run() == code
    assert "Ray ended before it listened" in capsys.readouterr().err
    assert set(submission.statuses().values()) == {"waiting"}
    assert driver.command is None
    assert ray.killed


def test_a_job_whose_ray_ends_is_requeued_and_its_driver_killed(
    head: MakeHead, ray: RayDouble, driver: DriverDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.is_alive, driver.until = False, lambda: False
    assert head().run() == INTERRUPTED
    assert driver.killed
    assert "Ray has ended: INFO scripts.py" in capsys.readouterr().err
