"""The orchestrator: how many runs at once, stops, lost nodes, and what leaves its block."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from bench.orchestration.executor import ExecutionOptions
from bench.orchestration.orchestrator import Orchestrator
from bench.orchestration.worker import Outcome
from bench.orchestration.worker_group import StartCancelledError
from bench.records.leases import try_acquire
from bench.records.record import Record
from bench.records.states import read_state, run_folder
from reproduce import schema
from reproduce.files.disk import DiskFullError
from reproduce.spec import PlannedRun, ResourcesConfig, SpecError

if TYPE_CHECKING:
    from tests.bench.orchestration.conftest import FakeGroup, FakeGroups

FINISHED, INTERRUPTED = Outcome(schema.FINISHED), Outcome(schema.INTERRUPTED)


@pytest.fixture
def runs(planned: Callable[..., PlannedRun]) -> list[PlannedRun]:
    return [planned(seed) for seed in range(4)]


def wait_for_end(orchestrator: Orchestrator) -> None:
    deadline = time.monotonic() + 60
    while orchestrator.busy:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def statuses(options: ExecutionOptions, runs: list[PlannedRun]) -> list[str]:
    return [read_state(run_folder(options.records, run.key)).status for run in runs]


class Simultaneous:
    """An ending that measures how many runs are trained at the same time."""

    def __init__(self) -> None:
        self._lock, self._now, self.most = threading.Lock(), 0, 0

    def __call__(self, group: FakeGroup, give_up: Callable[[], bool]) -> Outcome:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.05)
        with self._lock:
            self._now -= 1
        return FINISHED


@pytest.mark.parametrize(("capacity", "concurrent", "most"), [(2, None, 2), (9, None, 4), (9, 2, 2), (1, 3, 1)])
def test_as_many_runs_are_trained_at_once_as_fit_and_are_allowed(
    runs: list[PlannedRun],
    options: ExecutionOptions,
    groups: FakeGroups,
    capacity: int,
    concurrent: int | None,
    most: int,
) -> None:
    simultaneous = Simultaneous()
    groups.endings = [simultaneous] * 4
    options = dataclasses.replace(options, concurrent=concurrent)
    with Orchestrator(
        runs, ResourcesConfig(), options, start_group=groups, capacity=lambda _: capacity
    ) as orchestrator:
        wait_for_end(orchestrator)
    assert simultaneous.most <= most
    assert len(groups.started) <= most
    assert statuses(options, runs) == ["finished"] * 4
    assert orchestrator.stop_reason is None
    assert orchestrator.concurrency == 1


def test_two_executors_train_at_the_same_time(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    both = threading.Barrier(2)

    def meet(group: FakeGroup, give_up: Callable[[], bool]) -> Outcome:
        both.wait(60)
        return FINISHED

    groups.endings = [meet, meet]
    with Orchestrator(runs[:2], ResourcesConfig(), options, start_group=groups, capacity=lambda _: 2) as orchestrator:
        wait_for_end(orchestrator)
    assert statuses(options, runs[:2]) == ["finished"] * 2


def test_a_cluster_without_room_is_refused_before_anything_starts(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    def capacity(_: ResourcesConfig) -> int:
        raise SpecError("resources.workers: 8 workers do not fit")

    with (
        pytest.raises(SpecError, match="do not fit"),
        Orchestrator(runs, ResourcesConfig(), options, start_group=groups, capacity=capacity),
    ):
        pytest.fail("the block is not entered")
    assert groups.started == []


def until_stopped(group: FakeGroup, give_up: Callable[[], bool]) -> Outcome:
    assert group.stop_requested.wait(60)
    return INTERRUPTED


def test_a_stop_reaches_every_executor_and_the_first_reason_counts(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    groups.endings = [until_stopped] * 4
    with Orchestrator(runs, ResourcesConfig(), options, start_group=groups, capacity=lambda _: 2) as orchestrator:
        deadline = time.monotonic() + 60
        while len(groups.started) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        orchestrator.stop("time limit")
        orchestrator.stop("terminated")
        wait_for_end(orchestrator)
    assert orchestrator.stop_reason == "time limit"
    assert [group.reason for group in groups.started] == ["time limit"] * 2
    reasons = [read_state(run_folder(options.records, run.key)).reason for run in runs]
    assert sorted(reasons, key=str) == [None, None, "time limit", "time limit"]


def test_an_exception_in_the_block_stops_the_runs_and_waits_for_their_checkpoints(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    groups.endings = [until_stopped]
    orchestrator = Orchestrator(runs[:1], ResourcesConfig(), options, start_group=groups, capacity=lambda _: 1)

    def drive() -> None:
        with orchestrator:
            deadline = time.monotonic() + 60
            while not groups.started:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="terminal"):
        drive()
    assert not orchestrator.busy
    assert read_state(run_folder(options.records, runs[0].key)).reason == "the driver ended: OSError"


def test_a_second_interrupt_ends_the_block_at_once(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    checkpoint = threading.Event()

    def slow(group: FakeGroup, give_up: Callable[[], bool]) -> Outcome:
        assert checkpoint.wait(60)
        return INTERRUPTED

    groups.endings = [slow]
    orchestrator = Orchestrator(runs[:1], ResourcesConfig(), options, start_group=groups, capacity=lambda _: 1)

    def drive() -> None:
        with orchestrator:
            orchestrator.stop("interrupted by hand")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive()
    assert orchestrator.busy or not groups.started
    checkpoint.set()
    wait_for_end(orchestrator)
    assert orchestrator.stop_reason == "interrupted by hand"


def test_a_bug_in_one_run_does_not_leave_the_block_since_it_is_recorded(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    groups.endings = [RuntimeError("a bug")]
    with Orchestrator(runs, ResourcesConfig(), options, start_group=groups, capacity=lambda _: 1) as orchestrator:
        wait_for_end(orchestrator)
    assert statuses(options, runs) == ["failed", "finished", "finished", "finished"]


def test_what_could_not_be_recorded_leaves_the_block_after_the_other_runs(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    def abandon(self: Record, error: str) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Record, "abandon", abandon)
    groups.endings = [RuntimeError("a bug")]
    with (
        pytest.raises(ExceptionGroup, match="could not be recorded") as raised,
        Orchestrator(runs, ResourcesConfig(), options, start_group=groups, capacity=lambda _: 1) as orchestrator,
    ):
        wait_for_end(orchestrator)
    assert [type(error) for error in raised.value.exceptions] == [OSError]
    assert statuses(options, runs)[1:] == ["finished"] * 3


def test_runs_of_another_driver_are_left_to_it(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    held = try_acquire(run_folder(options.records, runs[1].key))
    assert held is not None
    with Orchestrator(runs, ResourcesConfig(), options, start_group=groups, capacity=lambda _: 2) as orchestrator:
        wait_for_end(orchestrator)
    assert orchestrator.held_elsewhere == [runs[1]]
    held.release()


class ShrinkingCluster:
    """Holds a run at first; then, from the second question on, none for a number of questions."""

    def __init__(self, short: int) -> None:
        self._questions, self._short = 0, short

    def __call__(self, _: ResourcesConfig) -> int:
        self._questions += 1
        if 1 < self._questions <= 1 + self._short:
            raise SpecError("resources.workers: 1 workers do not fit")
        return 1


@pytest.mark.parametrize(
    ("short", "patience_s", "reason", "status"),
    [(1000, 0.0, "nodes lost", "waiting"), (3, 600.0, None, "finished")],
    ids=["for good", "for a while"],
)
def test_lost_nodes_are_waited_for_until_patience_ends(
    runs: list[PlannedRun],
    options: ExecutionOptions,
    groups: FakeGroups,
    short: int,
    patience_s: float,
    reason: str | None,
    status: str,
) -> None:
    def start(
        resources: ResourcesConfig, keep_waiting: Callable[[float], bool], *, nodes: Sequence[str] = ()
    ) -> FakeGroup:
        """Finds room once the cluster has been asked five times."""
        for _ in range(5):
            if not keep_waiting(0.0):
                raise StartCancelledError
            time.sleep(0.01)
        return groups(resources, keep_waiting)

    options = dataclasses.replace(options, node_patience_s=patience_s)
    with Orchestrator(
        runs[:1], ResourcesConfig(), options, start_group=start, capacity=ShrinkingCluster(short)
    ) as orchestrator:
        wait_for_end(orchestrator)
    assert orchestrator.stop_reason == reason
    assert statuses(options, runs[:1]) == [status]


def test_what_lets_no_run_go_on_stops_the_grid_and_uses_up_no_retry(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    groups.endings = [Outcome(schema.INTERRUPTED, stop_all="the disk is full")]
    with Orchestrator(runs, ResourcesConfig(), options, start_group=groups, capacity=lambda _: 1) as orchestrator:
        wait_for_end(orchestrator)
    assert orchestrator.stop_reason == "the disk is full"
    assert statuses(options, runs) == ["interrupted", "waiting", "waiting", "waiting"]
    state = read_state(run_folder(options.records, runs[0].key))
    assert (state.attempt, state.reason) == (1, "the disk is full")


def test_a_disk_that_is_full_for_the_driver_too_stops_the_grid_without_a_bug(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Record, reason: str) -> None:
        raise DiskFullError("no room for the end")

    monkeypatch.setattr(Record, "interrupt", interrupt)
    groups.endings = [Outcome(schema.INTERRUPTED, stop_all="the disk is full")]
    with Orchestrator(runs, ResourcesConfig(), options, start_group=groups, capacity=lambda _: 1) as orchestrator:
        wait_for_end(orchestrator)
    assert orchestrator.stop_reason == "the disk is full"
    assert statuses(options, runs) == ["interrupted", "waiting", "waiting", "waiting"]
