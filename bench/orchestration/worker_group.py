"""A worker group: the workers of one run, placed together on the Ray cluster and joined in one process group.

The workers are plain actors in a placement group. A group is kept for the next run as long as nothing goes wrong, since
a run starts within 0.2 s on a kept group, 20 s on fresh actors and 50 s with Ray Train. If one worker fails, the group
must be killed, because the others would wait for it in a collective operation.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from bench.orchestration.worker import CONTROL, Outcome, Worker
from bench.records.record import Recording
from reproduce import schema
from reproduce.spec import ResourcesConfig, RunConfig

log = logging.getLogger(__name__)

START_TIMEOUT_S = 600.0  # a node may have to read torch from a network file system that has not cached it
POLL_S = 0.5  # how soon a stop or the end of a run is noticed


class StartCancelledError(Exception):
    """The caller did not want to wait for the worker group any longer."""


class StartFailedError(Exception):
    """The worker group could not be started; the message is one line that says why."""


class WorkerGroup:
    """The workers of a run, from `start` to `kill`."""

    def __init__(self, placement_group: Any, workers: list[Any]) -> None:
        self._placement_group = placement_group
        self.workers = workers
        """Ray's actor handles, by rank."""
        self._stop_answer: Any = None

    @classmethod
    def start(
        cls,
        resources: ResourcesConfig,
        keep_waiting: Callable[[float], bool] = lambda waited_s: waited_s < START_TIMEOUT_S,
        worker_class: type[Worker] = Worker,
    ) -> WorkerGroup:
        """Start the workers as soon as the cluster has room for all of them, and join them in a process group.

        Args:
            resources: What a run gets.
            keep_waiting: Called every `POLL_S` with the seconds since the call; False cancels the start. Waiting for
                room has no other limit, because other runs may use the cluster for days. Once they are placed, the
                workers have `START_TIMEOUT_S` for each step of joining.
            worker_class: The class of the actors.

        Raises:
            StartCancelledError: `keep_waiting` returned False.
            StartFailedError: A worker died, raised an exception or did not answer in time.
        """
        began = time.monotonic()

        def check() -> None:
            if not keep_waiting(time.monotonic() - began):
                raise StartCancelledError

        bundle = {"CPU": float(resources.cpus_per_worker)}
        if resources.gpus_per_worker:
            bundle["GPU"] = float(resources.gpus_per_worker)
        with contextlib.ExitStack() as on_error:
            try:
                group = cls(placement_group([bundle] * resources.workers, strategy="PACK"), [])
                on_error.callback(group.kill)
                while not group._placement_group.wait(POLL_S):
                    check()
                group._start_workers(resources, worker_class)
                group._join(check)
            except RayError as error:
                raise StartFailedError(f"the workers did not start: {_one_line(error)}") from error
            on_error.pop_all()
        return group

    def _start_workers(self, resources: ResourcesConfig, worker_class: type[Worker]) -> None:
        remote: Any = ray.remote
        actor = remote(concurrency_groups={CONTROL: 1})(worker_class)
        for rank in range(resources.workers):
            placed = actor.options(
                num_cpus=resources.cpus_per_worker,
                num_gpus=resources.gpus_per_worker,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._placement_group, placement_group_bundle_index=rank
                ),
            )
            self.workers.append(placed.remote(rank, resources))

    def _join(self, check: Callable[[], None]) -> None:
        placements = _answers([worker.placement.remote() for worker in self.workers], check)
        port = _answers([self.workers[0].create_store.remote()], check)[0] if len(self.workers) > 1 else 0
        _answers([worker.join.remote(placements, port) for worker in self.workers], check)

    def train(
        self,
        config: RunConfig,
        folder: Path,
        data_root: Path,
        recording: Recording,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Train one run and wait until every worker has returned, or the first has failed.

        A run that is told to stop before its first step has nothing to save, so it is not waited for. After any outcome
        other than finished, the workers may still be busy: kill the group.

        Args:
            config: The run.
            folder: Its record folder.
            data_root: The folder of the prepared data sets.
            recording: How often telemetry and progress are written.
            give_up: Called every `POLL_S`; True ends the wait and makes the outcome interrupted.
        """
        pending = [worker.train.remote(config, folder, data_root, recording) for worker in self.workers]
        outcome = Outcome(schema.INTERRUPTED)
        try:
            while pending:
                done, pending = ray.wait(pending, num_returns=1, timeout=POLL_S)
                if done:
                    outcome = cast(Outcome, ray.get(done[0]))
                    if outcome.status == schema.FAILED:
                        break  # the others may wait for the failed one until the collective timeout
                if pending and (self._stopped_before_first_step() or give_up()):
                    return Outcome(schema.INTERRUPTED)
        except RayActorError as error:
            return Outcome(schema.FAILED, f"a worker died: {_one_line(error)}", retry=True)
        except RayError as error:
            return Outcome(schema.FAILED, f"Ray: {_one_line(error)}", retry=True)
        return outcome

    def _stopped_before_first_step(self) -> bool:
        if self._stop_answer is None or not ray.wait([self._stop_answer], timeout=0)[0]:
            return False
        try:
            return not ray.get(self._stop_answer)
        except RayActorError:  # the call to `train` reports it, too
            return False

    def stop(self, reason: str) -> None:
        """Ask the current run, and every later one, to write a checkpoint and return. Does not wait."""
        self._stop_answer = self.workers[0].stop.remote(reason)  # the ranks agree on the step to stop after

    def kill(self) -> None:
        """End the workers and free their place. May be called more than once."""
        resources = [(ray.kill, worker) for worker in self.workers]
        for release, resource in [*resources, (remove_placement_group, self._placement_group)]:
            try:
                release(resource)
            except RayError as error:  # the cluster is gone, and the workers with it
                log.warning("a worker group could not be ended: %s", _one_line(error))


def _answers(references: list[Any], check: Callable[[], None]) -> list[Any]:
    """What all workers return; raises the first exception of a worker, or of `check`, as soon as there is one."""
    deadline = time.monotonic() + START_TIMEOUT_S
    pending = references
    while pending:
        done, pending = ray.wait(pending, num_returns=len(pending), timeout=POLL_S)
        ray.get(done)
        check()
        if pending and time.monotonic() > deadline:
            raise StartFailedError(f"the workers did not answer within {START_TIMEOUT_S:g} s")
    return list(ray.get(references))


def _one_line(error: RayError) -> str:
    """The first line of what went wrong; for an exception that a worker raised, its type as well."""
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {_first_line(error.cause)}"
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
