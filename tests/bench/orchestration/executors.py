"""Executors over fake worker groups, and what their records say, for the tests of executors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bench.orchestration.executor import ExecutionOptions, Executor
from bench.orchestration.run_queue import RunQueue
from bench.orchestration.worker import LOG_FILE, Outcome
from bench.records.states import RunState, read_state, run_folder
from reproduce import schema
from reproduce.spec import PlannedRun, ResourcesConfig

if TYPE_CHECKING:
    from tests.bench.orchestration.conftest import FakeGroups

FINISHED, INTERRUPTED = Outcome(schema.FINISHED), Outcome(schema.INTERRUPTED)
DIED = Outcome(schema.FAILED, "a worker died: The actor died unexpectedly before finishing this task.", retry=True)
DIVERGED = Outcome(schema.FAILED, "NotFiniteLoss: epoch 1, step 2")
"""A failure that its rank 0 has recorded, and that would repeat."""


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
