"""Executes the runs of a plan on a Ray cluster, several at once: starts executors, and stops them.

The state of a run is in its record folder (events and checkpoint), so any driver can go on with a run that another one
began. Several drivers may work on the same runs: what another driver is doing or has done is left alone.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from bench.orchestration.cluster import capacity
from bench.orchestration.executor import STOP_GRACE_S, ExecutionOptions, Executor, StartGroup
from bench.orchestration.run_queue import RunQueue
from bench.orchestration.worker_group import WorkerGroup
from reproduce.spec import PlannedRun, ResourcesConfig, SpecError

log = logging.getLogger(__name__)

NODES_LOST = "nodes lost"  # the reason of a stop
END_TIMEOUT_S = STOP_GRACE_S + 60  # for executors to end their groups and to record how their runs ended


class Orchestrator:
    """A context manager whose executors work from the beginning of the block on.

        with cluster(address, log), Orchestrator(runs, resources, options) as orchestrator:
            while orchestrator.busy:
                ...

    An exception in the block stops the runs. An `Exception` also waits for their checkpoints, whereas a
    `KeyboardInterrupt` ends the block at once. Without one, leaving the block raises an `ExceptionGroup` if something
    went wrong that could not even be recorded.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        resources: ResourcesConfig,
        options: ExecutionOptions,
        *,
        start_group: StartGroup = WorkerGroup.start,
        capacity: Callable[[ResourcesConfig], int] = capacity,
    ) -> None:
        """
        Args:
            runs: What to train, in this order.
            resources: What each run gets.
            options: How runs are executed.
            start_group: Starts a worker group.
            capacity: How many runs the cluster holds at once; raises `SpecError` if it holds none.
        """
        self.stop_reason: str | None = None
        """Why the runs were stopped before their end, or None."""
        self._runs = runs
        self._resources = resources
        self._options = options
        self._capacity = capacity
        self._queue = RunQueue(runs, options.records)
        self._lock = threading.Lock()
        self._short_of_nodes_since = math.inf
        self._start_group = start_group
        self._executors: list[Executor] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Orchestrator:
        """Start as many executors as the cluster holds runs. Raises `SpecError` if it holds none."""
        count = min(self._capacity(self._resources), len(self._runs), self._options.concurrent or len(self._runs))
        for index in range(count):
            executor = Executor(
                self._queue,
                self._resources,
                self._options,
                start_group=self._start_group,
                keep_waiting=self._keep_waiting,
            )
            self._executors.append(executor)
            self._threads.append(threading.Thread(target=executor.execute_all, name=f"executor-{index}", daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.stop(f"the driver ended: {type(error).__name__}")
            deadline = time.monotonic() + (END_TIMEOUT_S if isinstance(error, Exception) else 0.0)
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        elif unrecorded := [error for executor in self._executors for error in executor.errors]:
            raise ExceptionGroup("runs went wrong, and this could not be recorded", unrecorded)

    @property
    def busy(self) -> bool:
        """Whether an executor is at work."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def concurrency(self) -> int:
        """How many executors are at work; 1 if none is."""
        return max(1, sum(thread.is_alive() for thread in self._threads))

    @property
    def held_elsewhere(self) -> list[PlannedRun]:
        """Once no executor is at work and nobody has asked for a stop: the runs that other drivers hold."""
        return self._queue.unclaimed

    def stop(self, reason: str) -> None:
        """Have every current run write a checkpoint and end, and begin no other. Only the first call has an effect."""
        with self._lock:
            if self.stop_reason is not None:
                return
            self.stop_reason = reason
        for executor in self._executors:
            executor.stop(reason)

    def _keep_waiting(self, _waited_s: float) -> bool:
        """Whether an executor shall go on waiting for room: another run may end, and a lost node may come back."""
        try:
            self._capacity(self._resources)
            self._short_of_nodes_since = math.inf
        except SpecError as shortage:
            now = time.monotonic()
            self._short_of_nodes_since = min(self._short_of_nodes_since, now)
            if now - self._short_of_nodes_since > self._options.node_patience_s:
                log.warning("%s", shortage)
                self.stop(NODES_LOST)
        return self.stop_reason is None
