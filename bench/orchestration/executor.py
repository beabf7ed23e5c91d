"""Defines the executor, which trains one run after the other on a worker group that it keeps from run to run."""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bench.machine.computation import Computation
from bench.orchestration.run_queue import RunQueue
from bench.orchestration.worker import LOG_FILE, Attempt, Outcome
from bench.orchestration.worker_group import STEP_PATIENCE_S, StartCancelledError, StartFailedError
from bench.records.event_log import RunBusyError
from bench.records.record import Record, Recording
from bench.records.refusals import checkpoint_computation, has_checkpoint, why_not_resumed, write_refusal
from bench.records.states import read_state, run_folder
from reproduce import schema
from reproduce.errors import CannotContinueError, UserError
from reproduce.files.disk import naming_full_disk
from reproduce.spec import PlannedRun, ResourcesConfig
from reproduce.text.redaction import redacted

log = logging.getLogger(__name__)

REFUSED: Final = "refused"
STOP_GRACE_S = 120.0  # the time that a stopped run has to write its checkpoint before its workers are killed


class TrainingGroup(Protocol):
    """The part of a `WorkerGroup` that an executor uses."""

    @property
    def computation(self) -> Computation | None: ...

    def train(self, attempt: Attempt, give_up: Callable[[], bool], step_patience_s: float) -> Outcome: ...

    def stop(self, reason: str) -> None: ...

    def kill(self) -> None: ...


class StartGroup(Protocol):
    """A function that starts a worker group. It has the arguments and exceptions of `WorkerGroup.start`."""

    def __call__(
        self, resources: ResourcesConfig, keep_waiting: Callable[[float], bool], *, nodes: Sequence[str] = ()
    ) -> TrainingGroup: ...


@dataclass(frozen=True)
class ExecutionOptions:
    """Options of one `deeper run`: folders, Ray cluster, concurrency, recording, and what is retried."""

    records: Path
    """The folder of the records."""
    data: Path
    """The folder of the prepared data sets."""
    address: str | None = None
    """Address of a running Ray cluster, as HOST:PORT or `auto`. None starts a cluster on this machine that ends with
    the command."""
    concurrent: int | None = None
    """The maximum number of runs that are trained at once; None means as many as fit on the cluster."""
    recording: Recording = Recording()  # noqa: RUF009 - frozen
    """How often telemetry and progress are written."""
    retry_failed: bool = False
    """Whether to train runs again whose record says that they failed."""
    allow_other_machine: bool = False
    """Whether runs are resumed that another kind of machine, other code or another decoder began."""
    node_patience_s: float = 600
    """Seconds to wait for lost nodes to come back if the remaining ones are too few for a single run. After that, all
    runs are stopped."""
    step_patience_s: float = STEP_PATIENCE_S
    """Seconds without a step of a run after which its workers are killed and it is tried again."""

    @property
    def settled(self) -> Set[str]:
        """The statuses of runs that are not trained: finished and, unless `retry_failed` is set, failed."""
        return {schema.FINISHED} if self.retry_failed else {schema.FINISHED, schema.FAILED}


class Executor:
    """Trains runs from a queue, one after the other, until none is left or `stop` is called.

    It starts a worker group for its first run, keeps it from run to run, and replaces it after an attempt that did not
    finish. `execute_all` is the body of its thread; other threads may call only `stop`.
    """

    def __init__(
        self,
        queue: RunQueue,
        resources: ResourcesConfig,
        options: ExecutionOptions,
        *,
        start_group: StartGroup,
        keep_waiting: Callable[[float], bool],
        stop_all: Callable[[str], None],
        nodes_of_kind: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> None:
        """
        Args:
            queue: The runs, shared with other executors.
            resources: The resources of each run.
            options: The options of the command.
            start_group: Starts a worker group; see `WorkerGroup.start`.
            keep_waiting: Passed on to `start_group`. It must return False once this executor is stopped.
            stop_all: Called with the reason if no run can go on, such as a full disk. It must stop all executors.
            nodes_of_kind: Returns the nodes of a kind of machine, see `KindsOfNodes`. A group that is started for a run
                with a checkpoint is placed on nodes of the kind that has written it, if there are any.
        """
        self._queue = queue
        self._resources = resources
        self._options = options
        self._start_group = start_group
        self._keep_waiting = keep_waiting
        self._stop_all = stop_all
        self._nodes_of_kind = nodes_of_kind
        self._lock = threading.Lock()
        self._group: TrainingGroup | None = None
        self._stop_reason: str | None = None
        self._stopped_at = math.inf
        self._refused: set[str] = set()
        """Keys of the runs that the current group may not resume."""
        self._placed_for: set[str] = set()
        """Keys of the runs for which a group was placed, so that another one would not be better."""
        self.errors: list[Exception] = []
        """Unexpected exceptions that could not be recorded, or that ending the worker group raised."""

    def stop(self, reason: str) -> None:
        """Ask the current run to write a checkpoint and end, and take no other run.

        Does not wait. May be called from any thread. After `STOP_GRACE_S` the run is given up.

        Args:
            reason: Why the runs are stopped, for their records.
        """
        with self._lock:
            self._stop_reason, self._stopped_at = reason, time.monotonic()
            if self._group is not None:
                self._group.stop(reason)

    def execute_all(self) -> None:
        """Execute runs until none is left or the executor is stopped, then end the worker group.

        An exception ends only the run that it concerns and is not raised: it is recorded as the run's failure or, if
        this is impossible, appended to `errors`.
        """
        while self._stop_reason is None:
            try:
                with naming_full_disk(self._options.records):
                    claimed = self._queue.claim(but=self._refused)
                    if claimed is None:
                        if self._make_way_for_refused():
                            continue
                        break
                    run, lease = claimed
                    with lease:
                        outcome = self.execute(run)
                    if outcome is not None and outcome.status == REFUSED:
                        self._refused.add(run.key)
                        self._queue.give_back(run)
            except CannotContinueError as error:
                self._stop_all(str(error))
            except Exception as error:
                log.exception("a run was given up, and this could not be recorded")
                self.errors.append(error)
        try:
            self._discard_group()
        except Exception as error:
            log.exception("a worker group could not be ended")
            self.errors.append(error)

    def execute(self, run: PlannedRun) -> Outcome | None:
        """Train a run, with retries, and make sure that its record says how it ended.

        The caller holds the run's lease. Exceptions of the training become a failed outcome; an exception of the
        recording itself, such as `DiskFullError`, is raised.

        Returns:
            The outcome of the last attempt; None if the run is settled already (see `ExecutionOptions.settled`).
        """
        folder = run_folder(self._options.records, run.key)
        if read_state(folder).status in self._options.settled:
            return None  # another driver has trained it since this one was started
        try:
            outcome = self._train_with_retries(run, folder)
        except CannotContinueError:
            self._discard_group()
            raise
        except UserError as error:
            outcome = self._failed_unexpectedly(folder, str(error))
        except Exception as error:  # a bug of this project: this run fails with its traceback, the others go on
            outcome = self._failed_unexpectedly(folder, f"{type(error).__name__}: {error}".splitlines()[0])
            log.error("%s: %s; its traceback is in %s", run.name, outcome.error, folder / LOG_FILE)
        if outcome.stop_all:
            self._stop_all(outcome.stop_all)
        self._record_end(run, folder, outcome)
        return outcome

    def _train_with_retries(self, run: PlannedRun, folder: Path) -> Outcome:
        for retries_left in range(self._resources.retries, -1, -1):
            outcome = self._attempt(run, folder)
            if outcome.status not in (schema.FINISHED, REFUSED):
                self._discard_group()  # some of its workers may still be in a collective operation
            if not outcome.retry or self._stop_reason is not None:
                break
            if read_state(folder).status == schema.FINISHED:
                return Outcome(schema.FINISHED)  # the worker died after it had recorded the end
            log.warning("%s: %s; %d retries left", run.name, outcome.error, retries_left)
        return outcome

    def _attempt(self, run: PlannedRun, folder: Path) -> Outcome:
        kept, began = self._group, time.monotonic()
        try:
            group = kept or self._start(run, folder)
        except StartCancelledError:
            return Outcome(schema.INTERRUPTED)
        except StartFailedError as error:
            _log_traceback(folder)
            return Outcome(schema.FAILED, str(error), retry=True)
        options = self._options
        if not options.allow_other_machine and group.computation is not None:
            reason = why_not_resumed(folder, group.computation)
            if reason is not None:
                return Outcome(REFUSED, reason)
        workers_s = None if kept else time.monotonic() - began
        attempt = Attempt(run.config, folder, options.data, options.recording, workers_s)
        return group.train(attempt, self._stop_grace_is_over, options.step_patience_s)

    def _start(self, run: PlannedRun, folder: Path) -> TrainingGroup:
        self._placed_for.add(run.key)
        group = self._start_group(self._resources, self._keep_waiting, nodes=self._nodes_of_origin(folder))
        with self._lock:
            self._group = group
            if self._stop_reason is not None:
                group.stop(self._stop_reason)
        return group

    def _nodes_of_origin(self, folder: Path) -> Sequence[str]:
        """The nodes of the kind that has written a run's checkpoint, if they are only some of the cluster's nodes."""
        computation = checkpoint_computation(folder) if has_checkpoint(folder) else None
        return self._nodes_of_kind(computation["machine"]) if computation else ()

    def _make_way_for_refused(self) -> bool:
        """End the group if another one could resume a run that it may not. Returns whether one may."""
        other = {
            key
            for key in self._refused - self._placed_for
            if self._nodes_of_origin(run_folder(self._options.records, key))
        }
        if not other:
            return False
        refused = self._refused - other
        self._discard_group()
        self._refused |= refused
        return True

    def _discard_group(self) -> None:
        with self._lock:
            group, self._group = self._group, None
        self._refused.clear()
        if group is not None:
            group.kill()

    def _stop_grace_is_over(self) -> bool:
        return time.monotonic() - self._stopped_at > STOP_GRACE_S

    def _failed_unexpectedly(self, folder: Path, error: str) -> Outcome:
        """Log the exception that is being handled, end the worker group, and return a failed outcome.

        May be called only in an `except` block.
        """
        try:
            _log_traceback(folder)
        finally:
            self._discard_group()
        return Outcome(schema.FAILED, error)

    def _record_end(self, run: PlannedRun, folder: Path, outcome: Outcome) -> None:
        """Record how the run ended if its rank 0 has not done so. A refused run is left as it was, with a note."""
        if outcome.status == REFUSED:
            log.info("%s: not resumed: %s", run.name, outcome.error)
            write_refusal(folder, outcome.error)
            return
        try:
            if self._stop_reason is not None and outcome.status != schema.FINISHED:
                Record(folder).interrupt(self._stop_reason)
            elif outcome.status == schema.FAILED:
                Record(folder).abandon(outcome.error)
        except RunBusyError as error:  # whoever holds the run will record its end
            log.warning("%s: %s", run.name, error)


def _log_traceback(folder: Path) -> None:
    """Append the traceback of the exception that is being handled to a run's log."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(redacted(traceback.format_exc()))
