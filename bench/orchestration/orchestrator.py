"""Trains the runs of a plan on a Ray cluster, several at once: starts the executors and stops them.

The state of a run is in its record folder (events and checkpoint), so any driver can resume a run that another driver
began. Several drivers may work on the same runs: each leaves alone the runs that another one is training or has
finished.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from bench.orchestration.cluster import KindsOfNodes, capacity
from bench.orchestration.executor import STOP_GRACE_S, ExecutionOptions, Executor, StartGroup
from bench.orchestration.run_queue import RunQueue
from bench.orchestration.worker_group import WorkerGroup
from reproduce.spec import PlannedRun, ResourcesConfig, SpecError

log = logging.getLogger(__name__)

NODES_LOST = "nodes lost"  # the reason that is recorded for runs stopped because of it
END_TIMEOUT_S = STOP_GRACE_S + 60  # also covers that executors end their groups and record how their runs ended


class Orchestrator:
    """Trains runs on the connected Ray cluster with as many executors as the cluster holds runs at once.

    It is a context manager. The executors are daemon threads that start when the block is entered:

        with cluster(address, log), Orchestrator(runs, resources, options) as orchestrator:
            while orchestrator.busy:
                ...

    Leaving the block normally does not wait for the runs; wait until `busy` is False first. If an exception leaves the
    block, the runs are stopped. For an `Exception`, the block then waits up to `END_TIMEOUT_S` for their checkpoints;
    for any other exception, such as `KeyboardInterrupt`, it does not wait.

    Raises:
        SpecError: On entering the block, if not even one run fits on the cluster.
        ExceptionGroup: On leaving the block normally, with the exceptions that executors could not record.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        resources: ResourcesConfig,
        options: ExecutionOptions,
        *,
        start_group: StartGroup = WorkerGroup.start,
        capacity: Callable[[ResourcesConfig], int] = capacity,
        nodes_of_kind: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        """
        Args:
            runs: The runs to train, in the order in which they are started.
            resources: The resources of each run.
            options: The options of the command. `options.concurrent` limits the number of executors.
            start_group: Starts a worker group; see `WorkerGroup.start`.
            capacity: Returns how many runs the cluster holds at once; raises `SpecError` if it holds none.
            nodes_of_kind: Returns the nodes of a kind of machine; by default, those of the cluster.
        """
        self.stop_reason: str | None = None
        """Why the runs were stopped; None if they were not."""
        self.cannot_continue: str | None = None
        """What has to be mended before any run can go on, such as a full disk; None if no executor has said so."""
        self._runs = runs
        self._resources = resources
        self._options = options
        self._capacity = capacity
        self._nodes_of_kind = nodes_of_kind or KindsOfNodes(gpu=resources.gpus_per_worker > 0)
        self._queue = RunQueue(runs, options.records)
        self._lock = threading.Lock()
        self._short_of_nodes_since = math.inf
        self._start_group = start_group
        self._executors: list[Executor] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Orchestrator:
        """Start the executors: as many as the cluster holds runs, but no more than there are runs or are allowed.

        Raises:
            SpecError: Not even one run fits on the cluster.
        """
        count = min(self._capacity(self._resources), len(self._runs), self._options.concurrent or len(self._runs))
        for index in range(count):
            executor = Executor(
                self._queue,
                self._resources,
                self._options,
                start_group=self._start_group,
                keep_waiting=self._keep_waiting,
                stop_all=self._cannot_continue,
                nodes_of_kind=self._nodes_of_kind,
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
        """Whether at least one executor is still at work."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def concurrency(self) -> int:
        """The number of executors at work, but at least 1, so that it can be a divisor."""
        return max(1, sum(thread.is_alive() for thread in self._threads))

    @property
    def held_elsewhere(self) -> list[PlannedRun]:
        """The runs that were left to other drivers, which hold their leases.

        The value is valid only when `busy` is False and `stop_reason` is None. Before, it also holds waiting runs.
        """
        return self._queue.unclaimed

    def stop(self, reason: str) -> None:
        """Ask every current run to write a checkpoint and end, and start no other run.

        Does not wait. May be called from any thread; only the first call has an effect.

        Args:
            reason: Why the runs are stopped, for their records and `stop_reason`.
        """
        with self._lock:
            if self.stop_reason is not None:
                return
            self.stop_reason = reason
        for executor in self._executors:
            executor.stop(reason)

    def _cannot_continue(self, reason: str) -> None:
        self.cannot_continue = self.cannot_continue or reason
        self.stop(reason)

    def _keep_waiting(self, _waited_s: float) -> bool:
        """Whether an executor should keep waiting for room on the cluster.

        Another run may end, and a lost node may come back. If the cluster has been too small for a single run for
        longer than `node_patience_s`, all runs are stopped.
        """
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
