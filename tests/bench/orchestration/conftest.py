"""A double of worker groups, which train nothing and end as a test wants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bench.machine.computation import Computation
from bench.orchestration.executor import ExecutionOptions
from bench.orchestration.worker import Attempt, Outcome
from bench.records.record import Record
from reproduce import schema
from reproduce.spec import PlannedRun, ResourcesConfig

Ending = Outcome | Exception | Callable[["FakeGroup", Callable[[], bool]], Outcome]
"""What a `train` returns or raises, or a function of the group and `give_up` that does one of the two."""


class FakeGroup:
    """Records what the rank 0 of a real group would: a start event, and an end unless the worker dies."""

    def __init__(self, groups: FakeGroups, resources: ResourcesConfig) -> None:
        self._groups = groups
        self.resources = resources
        self.computation = groups.computation
        self.trained: list[str] = []
        self.stop_requested = threading.Event()
        self.reason: str | None = None
        self.killed = False

    def train(self, attempt: Attempt, give_up: Callable[[], bool], step_patience_s: float) -> Outcome:
        assert not self.killed
        self.trained.append(attempt.config.key)
        record = Record(attempt.folder)
        record.begin(attempt.config, environment={}, world_size=1, device="cpu")
        ending = self._groups.endings.pop(0) if self._groups.endings else Outcome(schema.FINISHED)
        try:
            if isinstance(ending, Exception):
                raise ending
            outcome = ending if isinstance(ending, Outcome) else ending(self, give_up)
            if outcome.status == schema.FINISHED or (outcome.status == schema.FAILED and not outcome.retry):
                record.end(outcome.status, error=outcome.error or None)
            return outcome
        finally:
            record.close()

    def stop(self, reason: str) -> None:
        self.reason = reason
        self.stop_requested.set()

    def kill(self) -> None:
        self.killed = True


class FakeGroups:
    """Stands for `WorkerGroup.start`; remembers the groups that it started."""

    def __init__(self) -> None:
        self.started: list[FakeGroup] = []
        self.endings: list[Ending] = []
        """How the next calls of `train` end; once the list is empty, they finish."""
        self.computation: Computation | None = None
        """How groups compute that are started from now on."""
        self.starts: list[Exception | None] = []
        """What the next starts raise; once the list is empty, they succeed."""
        self.kinds: dict[str, Computation] = {}
        """How groups compute that are placed on certain nodes."""

    def __call__(
        self, resources: ResourcesConfig, keep_waiting: Callable[[float], bool], *, nodes: Sequence[str] = ()
    ) -> FakeGroup:
        error = self.starts.pop(0) if self.starts else None
        if error is not None:
            raise error
        self.started.append(FakeGroup(self, resources))
        if nodes:
            self.started[-1].computation = self.kinds[nodes[0]]
        return self.started[-1]


@pytest.fixture
def groups() -> FakeGroups:
    return FakeGroups()


@pytest.fixture
def options(tmp_path: Path) -> ExecutionOptions:
    return ExecutionOptions(records=tmp_path / "records", data=tmp_path / "data")


@pytest.fixture
def runs(planned: Callable[..., PlannedRun]) -> list[PlannedRun]:
    """Two runs that differ in their seeds."""
    return [planned(seed) for seed in range(2)]
