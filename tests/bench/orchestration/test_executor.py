"""Executors: which runs are trained again, what the records say in the end, and that one run harms no other."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from bench.machine.computation import Computation
from bench.orchestration import executor as module
from bench.orchestration.executor import ExecutionOptions, Executor
from bench.orchestration.run_queue import RunQueue
from bench.orchestration.worker import LOG_FILE, Outcome
from bench.orchestration.worker_group import StartCancelledError, StartFailedError
from bench.records.record import Record
from bench.records.states import RunState, read_events, read_state, run_folder
from reproduce import schema
from reproduce.errors import UserError
from reproduce.spec import PlannedRun, ResourcesConfig

if TYPE_CHECKING:
    from tests.bench.orchestration.conftest import FakeGroup, FakeGroups

FINISHED, INTERRUPTED = Outcome(schema.FINISHED), Outcome(schema.INTERRUPTED)
DIED = Outcome(schema.FAILED, "a worker died: The actor died unexpectedly before finishing this task.", retry=True)
DIVERGED = Outcome(schema.FAILED, "NotFiniteLoss: epoch 1, step 2")
"""A failure that its rank 0 has recorded, and that would repeat."""


@pytest.fixture
def runs(planned: Callable[..., PlannedRun]) -> list[PlannedRun]:
    return [planned(seed) for seed in range(2)]


def make(
    runs: list[PlannedRun],
    options: ExecutionOptions,
    groups: FakeGroups,
    *,
    retries: int = 2,
    nodes_of_kind: Callable[[str], Sequence[str]] = lambda _: (),
) -> Executor:
    return Executor(
        RunQueue(runs, options.records),
        ResourcesConfig(retries=retries),
        options,
        start_group=groups,
        keep_waiting=lambda _: True,
        stop_all=lambda reason: None,
        nodes_of_kind=nodes_of_kind,
    )


def state(options: ExecutionOptions, run: PlannedRun) -> RunState:
    return read_state(run_folder(options.records, run.key))


def log_of(options: ExecutionOptions, run: PlannedRun) -> str:
    return (run_folder(options.records, run.key) / LOG_FILE).read_text(encoding="utf-8")


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

HERE = Computation(
    machine="amd avx2", code="c0de", decoder="native", kernels="torch", threads=1, compiled=False, torch="2.14"
)
ELSEWHERE = dataclasses.replace(HERE, machine="intel amx_bf16")


def begun(options: ExecutionOptions, run: PlannedRun, computation: Computation | None) -> None:
    """Leave a run as a killed attempt does that has written a checkpoint."""
    folder = run_folder(options.records, run.key)
    with Record(folder) as record:
        record.begin(run.config, environment={}, world_size=1, device="cpu", computation=computation)
    (folder / "checkpoint.pt").touch()


def test_a_run_of_another_kind_of_machine_is_left_as_it_is_and_the_others_go_on(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    begun(options, runs[0], ELSEWHERE)
    events = read_events(run_folder(options.records, runs[0].key))
    groups.computation = HERE
    executor = make(runs, options, groups)
    executor.execute_all()
    (group,) = groups.started
    assert group.trained == [runs[1].key]
    found = state(options, runs[0])
    assert (found.status, found.error) == ("interrupted", None)
    assert found.refused is not None
    assert "another kind of machine (intel amx_bf16, here amd avx2)" in found.refused
    assert read_events(run_folder(options.records, runs[0].key)) == events
    assert executor.errors == []


def test_a_run_that_died_elsewhere_before_its_first_checkpoint_is_resumed_where_it_began(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    begun(options, runs[0], HERE)
    checkpoint = run_folder(options.records, runs[0].key) / "checkpoint.pt"
    written = checkpoint.stat()
    begun(options, runs[0], ELSEWHERE)
    os.utime(checkpoint, ns=(written.st_atime_ns, written.st_mtime_ns))
    groups.computation = ELSEWHERE
    make(runs[:1], options, groups).execute_all()
    assert state(options, runs[0]).refused is not None
    groups.computation = HERE
    make(runs[:1], options, groups).execute_all()
    assert state(options, runs[0]).status == "finished"


def test_a_refused_run_is_resumed_where_it_is_allowed(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    begun(options, runs[0], ELSEWHERE)
    groups.computation = HERE
    make(runs[:1], options, groups).execute_all()
    assert state(options, runs[0]).refused
    make(runs[:1], dataclasses.replace(options, allow_other_machine=True), groups).execute_all()
    assert state(options, runs[0]).status == "finished"
    assert state(options, runs[0]).refused is None


def test_runs_are_resumed_on_nodes_of_the_kind_on_which_they_began_if_there_are_some(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    begun(options, runs[0], HERE)
    begun(options, runs[1], ELSEWHERE)
    groups.computation, groups.kinds = HERE, {"node": ELSEWHERE}
    executor = make(runs, options, groups, nodes_of_kind=lambda kind: ["node"] if kind == ELSEWHERE.machine else [])
    executor.execute_all()
    first, second = groups.started
    assert (first.trained, second.trained) == ([runs[0].key], [runs[1].key])
    assert first.killed
    assert [state(options, run).status for run in runs] == ["finished", "finished"]


def test_a_run_for_which_there_is_no_room_on_such_nodes_is_refused_once(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    begun(options, runs[0], ELSEWHERE)
    begun(options, runs[1], ELSEWHERE)
    groups.kinds = {"node": HERE}
    make(runs, options, groups, nodes_of_kind=lambda _: ["node"]).execute_all()
    assert [group.trained for group in groups.started] == [[], []]
    assert all(state(options, run).refused for run in runs)


def test_another_executor_with_workers_of_the_right_kind_takes_a_refused_run(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    begun(options, runs[0], ELSEWHERE)
    queue = RunQueue(runs[:1], options.records)
    first, second = (
        Executor(
            queue,
            ResourcesConfig(),
            options,
            start_group=groups,
            keep_waiting=lambda _: True,
            stop_all=lambda reason: pytest.fail(reason),
        )
        for _ in range(2)
    )
    groups.computation = HERE
    first.execute_all()
    assert state(options, runs[0]).status == "interrupted"
    assert queue.unclaimed == [], "no other driver holds it"
    groups.computation = ELSEWHERE
    second.execute_all()
    assert state(options, runs[0]).status == "finished"


@pytest.mark.parametrize(
    "before",
    [None, HERE, dataclasses.replace(HERE, threads=2, kernels="native", torch="2.15")],
    ids=["an older record", "the same", "equal up to rounding"],
)
def test_a_run_is_resumed_unasked_if_nothing_essential_is_known_to_differ(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups, before: Computation | None
) -> None:
    begun(options, runs[0], before)
    groups.computation = HERE
    make(runs[:1], options, groups).execute_all()
    assert state(options, runs[0]).status == "finished"


def test_a_run_without_a_checkpoint_starts_afresh_anywhere(
    runs: list[PlannedRun], options: ExecutionOptions, groups: FakeGroups
) -> None:
    begun(options, runs[0], ELSEWHERE)
    (run_folder(options.records, runs[0].key) / "checkpoint.pt").unlink()
    groups.computation = HERE
    make(runs[:1], options, groups).execute_all()
    assert state(options, runs[0]).status == "finished"
