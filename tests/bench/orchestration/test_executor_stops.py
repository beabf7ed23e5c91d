"""Executors that are stopped: in training, while a group starts, and where the stop itself goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from bench.orchestration import executor as module
from bench.orchestration.executor import ExecutionOptions, Executor
from bench.orchestration.run_queue import RunQueue
from bench.orchestration.worker import Outcome
from bench.orchestration.worker_group import StartCancelledError
from reproduce.spec import PlannedRun, ResourcesConfig
from tests.bench.orchestration.executors import FINISHED, INTERRUPTED, log_of, make, state

if TYPE_CHECKING:
    from tests.bench.orchestration.conftest import FakeGroup, FakeGroups


def in_thread(executor: Executor) -> threading.Thread:
    thread = threading.Thread(target=executor.execute_all, daemon=True)
    thread.start()
    return thread


def test_a_stop_reaches_the_run_in_training_and_no_other_begins(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    training = threading.Event()

    def until_stopped(group: FakeGroup, give_up: Callable[[], bool]) -> Outcome:
        training.set()
        assert group.stop_requested.wait(60)
        return INTERRUPTED

    groups.endings = [until_stopped]
    executor = make(runs, options, groups)
    thread = in_thread(executor)
    assert training.wait(60)
    executor.stop("terminated")
    thread.join(60)
    assert not thread.is_alive()
    assert groups.started[0].reason == "terminated"
    assert groups.started[0].killed
    assert state(options, runs[0]).status == "interrupted"
    assert state(options, runs[0]).reason == "terminated"
    assert state(options, runs[1]).status == "waiting"


def test_a_stop_cancels_the_start_of_a_group_and_records_nothing(
    runs: list[PlannedRun], options: ExecutionOptions
) -> None:
    starting, stopped = threading.Event(), threading.Event()

    def start(
        resources: ResourcesConfig, keep_waiting: Callable[[float], bool], *, nodes: Sequence[str] = ()
    ) -> FakeGroup:
        deadline = time.monotonic() + 60
        while keep_waiting(0.0):
            starting.set()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise StartCancelledError

    executor = Executor(
        RunQueue(runs, options.records),
        ResourcesConfig(),
        options,
        start_group=start,
        keep_waiting=lambda _: not stopped.is_set(),
        stop_all=lambda reason: None,
    )
    thread = in_thread(executor)
    assert starting.wait(60)
    stopped.set()
    executor.stop("terminated")
    thread.join(60)
    assert not thread.is_alive()
    assert [state(options, run).status for run in runs] == ["waiting", "waiting"]


def test_a_group_that_was_started_during_a_stop_is_stopped(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    def start(
        resources: ResourcesConfig, keep_waiting: Callable[[float], bool], *, nodes: Sequence[str] = ()
    ) -> FakeGroup:
        executor.stop("time limit")
        return groups(resources, keep_waiting)

    groups.endings = [lambda group, _: INTERRUPTED if group.stop_requested.is_set() else FINISHED]
    executor = Executor(
        RunQueue(runs, options.records),
        ResourcesConfig(),
        options,
        start_group=start,
        keep_waiting=lambda _: True,
        stop_all=lambda reason: None,
    )
    executor.execute_all()
    assert state(options, runs[0]).reason == "time limit"


def test_a_stopped_run_without_a_checkpoint_is_given_up_after_the_grace_period(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_GRACE_S", -1.0)

    def hangs(group: FakeGroup, give_up: Callable[[], bool]) -> Outcome:
        assert not give_up()
        executor.stop("terminated")
        assert give_up()
        return INTERRUPTED

    groups.endings = [hangs]
    executor = make(runs, options, groups)
    executor.execute_all()
    assert groups.started[0].killed
    assert state(options, runs[0]).reason == "terminated"


def test_what_goes_wrong_during_a_stop_leaves_the_run_to_be_continued(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    def breaks(group: FakeGroup, give_up: Callable[[], bool]) -> Outcome:
        executor.stop("terminated")
        raise RuntimeError("Ray was shut down")

    groups.endings = [breaks]
    executor = make(runs, options, groups)
    executor.execute_all()
    assert state(options, runs[0]).status == "interrupted"
    assert "Ray was shut down" in log_of(options, runs[0])


# --- resuming --------------------------------------------------------------------------------------
