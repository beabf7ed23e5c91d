"""Executors: which runs are trained again, what the records say in the end, and that one run harms no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from bench.orchestration.executor import ExecutionOptions
from bench.orchestration.worker import Outcome
from bench.orchestration.worker_group import StartFailedError
from bench.records.record import Record
from bench.records.states import read_events, run_folder
from reproduce import schema
from reproduce.errors import UserError
from reproduce.spec import PlannedRun
from tests.bench.orchestration.executors import DIED, DIVERGED, log_of, make, state

if TYPE_CHECKING:
    from tests.bench.orchestration.conftest import FakeGroup, FakeGroups


def test_one_group_trains_all_runs_and_is_killed_in_the_end(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    make(runs, options, groups).execute_all()
    (group,) = groups.started
    assert group.trained == [run.key for run in runs]
    assert group.killed
    assert [state(options, run).status for run in runs] == ["finished", "finished"]


def test_a_run_whose_worker_died_is_tried_again_on_a_new_group(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    groups.endings = [DIED]
    make(runs[:1], options, groups).execute_all()
    first, second = groups.started
    assert first.killed
    assert second.trained == [runs[0].key]
    assert state(options, runs[0]).status == "finished"
    assert state(options, runs[0]).attempt == 2


def test_a_run_fails_once_its_retries_are_used_up(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    groups.endings = [DIED, DIED]
    make(runs, options, groups, retries=1).execute_all()
    assert state(options, runs[0]).status == "failed"
    assert state(options, runs[0]).error == DIED.error
    assert state(options, runs[1]).status == "finished"
    assert len(groups.started) == 3


def test_a_failure_that_would_repeat_is_not_tried_again(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    groups.endings = [DIVERGED]
    make(runs, options, groups).execute_all()
    assert [state(options, run).status for run in runs] == ["failed", "finished"]
    assert [group.trained for group in groups.started] == [[run.key] for run in runs]
    ends = [event for event in read_events(run_folder(options.records, runs[0].key)) if event["kind"] == schema.END]
    assert [event["error"] for event in ends] == [DIVERGED.error], "what rank 0 has recorded is left as it is"


def test_an_unexpected_exception_fails_its_run_with_a_traceback_and_no_other(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups, caplog: pytest.LogCaptureFixture
) -> None:
    groups.endings = [RuntimeError("a bug\nof two lines")]
    executor = make(runs, options, groups)
    executor.execute_all()
    first, second = groups.started
    assert first.killed
    assert first.trained == [runs[0].key], "a bug in the driver is not tried again"
    assert second.trained == [runs[1].key]
    assert state(options, runs[0]).status == "failed"
    assert state(options, runs[0]).error == "RuntimeError: a bug"
    assert "Traceback (most recent call last)" in log_of(options, runs[0])
    assert "of two lines" in log_of(options, runs[0])
    assert "full s0: RuntimeError: a bug; its traceback is in" in caplog.text
    assert state(options, runs[1]).status == "finished"
    assert executor.errors == []


def test_an_exception_that_is_also_a_value_error_is_no_mistake_of_the_user(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    groups.endings = [ValueError("not enough values to unpack"), UserError("data.path: is damaged")]
    make(runs, options, groups).execute_all()
    assert state(options, runs[0]).error == "ValueError: not enough values to unpack"
    assert state(options, runs[1]).error == "data.path: is damaged"


def test_a_group_that_does_not_start_is_tried_again_and_then_fails_the_run(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    groups.starts = [StartFailedError("the workers did not start: no NCCL")] * 3
    make(runs, options, groups, retries=1).execute_all()
    assert state(options, runs[0]).status == "failed"
    assert state(options, runs[0]).error == "the workers did not start: no NCCL"
    assert log_of(options, runs[0]).count("Traceback (most recent call last)") == 2
    assert state(options, runs[1]).status == "finished", "its first start failed, its second did not"


def test_an_exception_that_cannot_be_recorded_is_kept_and_the_next_run_goes_on(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    def abandon(self: Record, error: str) -> None:
        raise OSError(f"No space left on device, for: {error}")

    monkeypatch.setattr(Record, "abandon", abandon)
    groups.endings = [RuntimeError("a bug")]
    executor = make(runs, options, groups)
    executor.execute_all()
    assert [str(error) for error in executor.errors] == ["No space left on device, for: RuntimeError: a bug"]
    assert state(options, runs[1]).status == "finished"


def test_a_group_that_cannot_be_killed_is_not_used_again(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill() -> None:
        raise RuntimeError("Ray does not answer")

    def diverges(group: FakeGroup, give_up: Callable[[], bool]) -> Outcome:
        monkeypatch.setattr(group, "kill", kill)
        return DIVERGED

    groups.endings = [diverges]
    executor = make(runs, options, groups)
    executor.execute_all()
    assert [group.trained for group in groups.started] == [[run.key] for run in runs]
    assert state(options, runs[1]).status == "finished"
    assert executor.errors == []
    assert state(options, runs[0]).status == "failed"


@pytest.mark.parametrize(("retry_failed", "trained"), [(False, 0), (True, 1)])
def test_a_run_that_another_driver_has_ended_meanwhile_is_left_alone(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups, retry_failed: bool, trained: int
) -> None:
    for run, status in zip(runs, (schema.FINISHED, schema.FAILED), strict=True):
        record = Record(run_folder(options.records, run.key))
        record.begin(run.config, environment={}, world_size=1, device="cpu")
        record.end(status)
    make(runs, dataclasses.replace(options, retry_failed=retry_failed), groups).execute_all()
    assert [key for group in groups.started for key in group.trained] == [run.key for run in runs[1:]][:trained]
