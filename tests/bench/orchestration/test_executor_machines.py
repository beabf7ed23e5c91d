"""Executors and kinds of machine: which runs they resume, where, and which they refuse."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import pytest

from bench.machine.computation import Computation
from bench.orchestration.executor import ExecutionOptions, Executor
from bench.orchestration.run_queue import RunQueue
from bench.records.record import Record
from bench.records.states import read_events, run_folder
from reproduce.spec import PlannedRun, ResourcesConfig
from tests.bench.orchestration.executors import make, state

if TYPE_CHECKING:
    from tests.bench.orchestration.conftest import FakeGroups


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
