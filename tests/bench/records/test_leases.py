"""Leases keep two drivers off one run, and queues hand out only runs whose lease is free."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.orchestration.run_queue import RunQueue
from bench.records import leases
from bench.records.leases import holder, try_acquire
from bench.records.states import run_folder
from reproduce.spec import PlannedRun

HOLD = """
import sys, time
from pathlib import Path
from bench.records.leases import try_acquire
assert try_acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_lease_is_held_by_one_driver_at_a_time(tmp_path: Path) -> None:
    lease = try_acquire(tmp_path / "run")
    assert lease is not None
    assert try_acquire(tmp_path / "run") is None
    lease.release()
    with try_acquire(tmp_path / "run") or pytest.fail("it was released"):
        assert try_acquire(tmp_path / "run") is None
    assert try_acquire(tmp_path / "run") is not None


def test_a_lease_says_who_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases.socket, "gethostname", lambda: "node1")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    (tmp_path / leases.LEASE).write_text("a longer text of the driver that held it before\n" * 2, encoding="utf-8")
    assert try_acquire(tmp_path)
    assert holder(tmp_path) == f"node1 (process {os.getpid()}, SLURM job 17)"


def test_an_element_of_a_job_array_is_told_by_the_id_that_users_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("JOB_ID", "35"), ("ARRAY_JOB_ID", "33"), ("ARRAY_TASK_ID", "1")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert try_acquire(tmp_path)
    assert "SLURM job 33_1)" in holder(tmp_path)


def test_a_lease_ends_with_a_killed_driver(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"held\n"
        assert try_acquire(tmp_path) is None
        driver.kill()
    assert try_acquire(tmp_path) is not None


def test_a_lease_that_cannot_be_written_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(*_: object) -> int:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(leases.os, "pwrite", pwrite)
        with pytest.raises(OSError, match="No space left"):
            try_acquire(tmp_path)
    assert try_acquire(tmp_path) is not None


@pytest.fixture
def runs(planned: Callable[..., PlannedRun]) -> list[PlannedRun]:
    return [planned(seed) for seed in range(3)]


def test_a_queue_hands_out_runs_in_their_order_and_each_once(runs: list[PlannedRun], tmp_path: Path) -> None:
    queue = RunQueue(runs, tmp_path)
    claims = [queue.claim() for _ in runs]
    assert [claim[0] for claim in claims if claim] == runs
    assert queue.claim() is None
    assert queue.unclaimed == []


def test_threads_never_claim_the_same_run(planned: Callable[..., PlannedRun], tmp_path: Path) -> None:
    runs = [planned(seed) for seed in range(40)]
    queue = RunQueue(runs, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: queue.claim(), runs))
    assert sorted(claim[0].seed for claim in claims if claim) == list(range(40))


def test_a_run_of_another_driver_is_passed_over_until_its_lease_is_free(runs: list[PlannedRun], tmp_path: Path) -> None:
    held = try_acquire(run_folder(tmp_path, runs[0].key))
    assert held is not None
    queue = RunQueue(runs, tmp_path)
    first, second = queue.claim(), queue.claim()
    assert first is not None
    assert second is not None
    assert [first[0], second[0]] == runs[1:]
    assert queue.claim() is None
    assert queue.unclaimed == runs[:1]
    held.release()
    last = queue.claim()
    assert last is not None
    assert last[0] == runs[0]


def test_a_run_whose_lease_cannot_be_asked_for_leaves_the_queue(runs: list[PlannedRun], tmp_path: Path) -> None:
    run_folder(tmp_path, runs[0].key).parent.mkdir(parents=True)
    run_folder(tmp_path, runs[0].key).write_text("a file in place of the folder", encoding="utf-8")
    queue = RunQueue(runs, tmp_path)
    with pytest.raises(FileExistsError):
        queue.claim()
    claimed = queue.claim()
    assert claimed is not None
    assert claimed[0] == runs[1]
