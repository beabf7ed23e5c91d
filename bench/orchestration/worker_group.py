"""Defines the worker group: the workers of a run, placed together on the Ray cluster and joined in one process group.

The workers are plain actors in a placement group. A group is kept for the next run as long as nothing goes wrong, since
a run starts within 0.2 s on a kept group, 20 s on fresh actors and 50 s with Ray Train. If one worker fails, the group
must be killed, because the others would wait for it in a collective operation.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from bench.machine.computation import Computation, merged
from bench.orchestration.watchdog import Watchdog, process_state, stacks_from_outside
from bench.orchestration.worker import CONTROL, LOG_FILE, Attempt, Outcome, RankPlacement, Worker
from reproduce import schema
from reproduce.limits import KillsForMemory, kills_for_memory
from reproduce.spec import ResourcesConfig
from reproduce.text.redaction import redacted

log = logging.getLogger(__name__)

START_TIMEOUT_S = 600.0  # a node may have to read torch from a network file system that has not cached it
POLL_S = 0.5  # how soon a stop or the end of a run is noticed
STEP_PATIENCE_S = 600.0
PREFERENCE_S = 60.0  # that a run waits for room on a node of the kind on which it began
CAUSE_PATIENCE_S = 5.0  # for the rank that failed, once another one has said that it misses a rank
STACKS_TIMEOUT_S = 5.0
KILLS_TIMEOUT_S = 30.0  # for a process that is started to look


class StartCancelledError(Exception):
    """Raised by `WorkerGroup.start` when its `keep_waiting` returns False."""


class StartFailedError(Exception):
    """Raised by `WorkerGroup.start` if the workers cannot be started. The message says why in one line."""


class WorkerGroup:
    """The workers of one run at a time: Ray actors, one per rank, in one placement group and one process group.

    Create it with `start`. It can train several runs with the same resources, one after the other. The caller ends it
    with `kill`.
    """

    def __init__(self, placement_group: Any, workers: list[Any]) -> None:
        self._placement_group = placement_group
        self.workers = workers
        """Ray's handles of the actors, by rank."""
        self.computation: Computation | None = None
        """How the workers compute. None until they have joined."""
        self._placements: list[RankPlacement] = []
        self._stop_answer: Any = None

    @classmethod
    def start(
        cls,
        resources: ResourcesConfig,
        keep_waiting: Callable[[float], bool] = lambda waited_s: waited_s < START_TIMEOUT_S,
        worker_class: type[Worker] = Worker,
        nodes: Sequence[str] = (),
    ) -> WorkerGroup:
        """Start the workers as soon as the cluster has room for all of them, and join them in a process group.

        Blocks until all workers have joined. If the start fails or is cancelled, all workers that were started are
        killed and their resources are freed.

        Args:
            resources: The resources of a run.
            keep_waiting: Called about every `POLL_S` seconds with the seconds since the start began; if it returns
                False, the start is cancelled. Only this limits the wait for room, because other runs may use the
                cluster for days. The default cancels the start after `START_TIMEOUT_S`. Once they are placed, the
                workers also have at most `START_TIMEOUT_S` for each step of joining.
            worker_class: The class of the actors.
            nodes: Ray's ids of the nodes on which the workers are placed if these have room within
                `PREFERENCE_S`. Otherwise, and if there are none, they are placed anywhere.

        Returns:
            The worker group, ready to train.

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
                group = cls(_preferred(bundle, resources.workers, nodes), [])
                on_error.callback(group.kill)
                patience = time.monotonic() + PREFERENCE_S
                while not group._placement_group.wait(POLL_S):
                    check()
                    if nodes and time.monotonic() > patience:
                        remove_placement_group(group._placement_group)
                        group._placement_group, nodes = _preferred(bundle, resources.workers, ()), ()
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
        placements = self._placements = _answers([worker.placement.remote() for worker in self.workers], check)
        port = _answers([self.workers[0].create_store.remote()], check)[0] if len(self.workers) > 1 else 0
        _answers([worker.join.remote(placements, port) for worker in self.workers], check)
        self.computation = merged(_answers([worker.computation.remote() for worker in self.workers], check))

    def train(
        self,
        attempt: Attempt,
        give_up: Callable[[], bool] = lambda: False,
        step_patience_s: float = STEP_PATIENCE_S,
    ) -> Outcome:
        """Train one run on all workers and wait until every worker has returned or one has failed or hangs.

        If the run is stopped before its first step, it has nothing to save, so this returns without waiting for the
        workers. After any outcome other than finished, the workers may still be busy, and the caller must kill the
        group.

        Args:
            attempt: The run, its folder and its data.
            give_up: Called about every `POLL_S` seconds; if it returns True, the wait ends with an interrupted outcome.
            step_patience_s: Seconds without a step after which the attempt has failed; see `Watchdog`. The log in the
                run's folder then holds the stacks of the ranks.

        Returns:
            How the attempt ended. Exceptions of workers and of Ray are not raised but become a failed outcome. If
            several ranks failed, it is the outcome of one that did not fail because of another.
        """
        pending = [worker.train.remote(attempt, self.computation) for worker in self.workers]
        ranks = {request: rank for rank, request in enumerate(pending)}
        steps = _StepCounters(self.workers, step_patience_s)
        outcome, deadline = Outcome(schema.INTERRUPTED), math.inf
        while pending and time.monotonic() < deadline:
            done, pending = ray.wait(pending, num_returns=1, timeout=POLL_S)
            if done:
                latest = self._outcome(done[0], ranks[done[0]])
                if outcome.status != schema.FAILED or (latest.status == schema.FAILED and not latest.elsewhere):
                    outcome = latest
                if outcome.stop_all:
                    break
                if outcome.status == schema.FAILED:
                    if not outcome.elsewhere:
                        break  # the others may wait for the failed one for ever
                    deadline = min(deadline, time.monotonic() + CAUSE_PATIENCE_S)
            if pending and outcome.status != schema.FAILED:
                if self._stopped_before_first_step() or give_up():
                    return Outcome(schema.INTERRUPTED)
                if (pause_s := steps.pause_s()) is not None:
                    return Outcome(schema.FAILED, self._describe_hang(pause_s, attempt.folder / LOG_FILE), retry=True)
        return outcome

    def _outcome(self, request: Any, rank: int) -> Outcome:
        """The outcome that a rank has returned, or a failed one that says why it has not."""
        try:
            return cast(Outcome, ray.get(request))
        except RayActorError as error:
            return self._death(rank, _one_line(error))
        except RayError as error:
            return Outcome(schema.FAILED, f"Ray: {_one_line(error)}", retry=True)

    def _death(self, rank: int, known: str) -> Outcome:
        """The outcome of a run whose rank died. Its node is asked whether memory was short there.

        Another attempt would meet the same limit of the job's memory, so there is none after such a kill.
        """
        placed = self._placements[rank] if self._placements else RankPlacement("", ())
        now = _kills_on(placed.node) if placed.node else None
        if now is None or now.machine <= placed.kills.machine:
            return Outcome(schema.FAILED, f"a worker died: {known}", retry=True)
        if limit := now.over_limit(placed.kills):
            sentence = f"out of memory: the kernel has killed a process on {placed.name}, where {limit}"
            return Outcome(schema.FAILED, f"{sentence}; ask for more, or for fewer workers on a node")
        meanwhile = f"the kernel has meanwhile killed a process of {placed.name} because memory was short"
        return Outcome(schema.FAILED, f"a worker died: {known}; {meanwhile}", retry=True)

    def _describe_hang(self, pause_s: float, log_file: Path) -> str:
        """Append the stacks of all ranks to a log, and say in one line which ranks hang."""
        requests = [worker.stacks.remote() for worker in self.workers]
        ray.wait(requests, num_returns=len(requests), timeout=STACKS_TIMEOUT_S)
        here, silent, stacks = ray.util.get_node_ip_address(), [], []
        for rank, (request, placed) in enumerate(zip(requests, self._placements, strict=True)):
            if ray.wait([request], timeout=0)[0]:
                with contextlib.suppress(RayError):
                    stacks.append(f"rank {rank}, as it says itself:\n{ray.get(request)}")
            else:
                state = f": its process is {process_state(placed.process)}" if placed.host == here else ""
                silent.append(f"rank {rank} (process {placed.process} on {placed.host}) does not answer{state}")
            if placed.host == here:
                stacks.append(f"rank {rank}, from outside:\n{stacks_from_outside(placed.process)}")
        sentence = f"the run hangs: no step for {pause_s:.0f} s; {'; '.join(silent) or 'all ranks answer'}"
        with log_file.open("a", encoding="utf-8") as file:
            file.write(redacted("\n".join([sentence, *stacks, ""])))
        return f"{sentence}; the stacks are in {LOG_FILE}"

    def _stopped_before_first_step(self) -> bool:
        if self._stop_answer is None or not ray.wait([self._stop_answer], timeout=0)[0]:
            return False
        try:
            return not ray.get(self._stop_answer)
        except RayActorError:  # the call to `train` reports it, too
            return False

    def stop(self, reason: str) -> None:
        """Ask the current run, and every later one, to write a checkpoint and return.

        Does not wait. May be called from another thread than the one that is in `train`.

        Args:
            reason: Why the run is stopped, for its record.
        """
        self._stop_answer = self.workers[0].stop.remote(reason)  # the ranks agree on the step to stop after

    def kill(self) -> None:
        """Kill the workers at once, without a checkpoint, and free their resources. May be called more than once."""
        resources = [(ray.kill, worker) for worker in self.workers]
        for release, resource in [*resources, (remove_placement_group, self._placement_group)]:
            try:
                release(resource)
            except RayError as error:  # the cluster is gone, and the workers with it
                log.warning("a worker group could not be ended: %s", _one_line(error))


def _preferred(bundle: dict[str, float], workers: int, nodes: Sequence[str]) -> Any:
    """Ask Ray for a place for each worker, on certain nodes if `nodes` is not empty."""
    if not nodes:
        return placement_group([bundle] * workers, strategy="PACK")
    selector = {"ray.io/node-id": f"in({','.join(nodes)})"}
    return placement_group([bundle] * workers, strategy="PACK", bundle_label_selector=[selector] * workers)


def _answers(references: list[Any], check: Callable[[], None]) -> list[Any]:
    """Wait for the results of remote calls and return them in order.

    Args:
        references: Ray's references to the results.
        check: Called about every `POLL_S` seconds; may raise an exception to end the wait.

    Raises:
        RayError: A call failed. It is raised without waiting for the others.
        StartFailedError: Some results were still missing after `START_TIMEOUT_S`.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    pending = references
    while pending:
        done, pending = ray.wait(pending, num_returns=len(pending), timeout=POLL_S)
        ray.get(done)
        check()
        if pending and time.monotonic() > deadline:
            raise StartFailedError(f"the workers did not answer within {START_TIMEOUT_S:g} s")
    return list(ray.get(references))


class _StepCounters:
    """Asks the ranks of a group, again and again, how many steps they have made, and never waits for an answer."""

    def __init__(self, workers: Sequence[Any], patience_s: float) -> None:
        self._workers = workers
        self._watchdog = Watchdog(len(workers), patience_s, time.monotonic())
        self._requests: dict[int, Any] = {}

    def pause_s(self) -> float | None:
        """The seconds without a step if they are too many, see `Watchdog.look`; otherwise None."""
        for rank, worker in enumerate(self._workers):
            if rank not in self._requests:
                self._requests[rank] = worker.steps_so_far.remote()
        answered = {rank: request for rank, request in self._requests.items() if ray.wait([request], timeout=0)[0]}
        steps = {}
        for rank, request in answered.items():
            del self._requests[rank]
            with contextlib.suppress(RayError):  # the call to `train` reports it, too
                steps[rank] = int(ray.get(request))
        return self._watchdog.look(steps, time.monotonic())


def _kills_on(node: str) -> KillsForMemory | None:
    """What the kernel has killed for memory on a node, from a process that is started there; None without an answer."""
    remote: Any = ray.remote
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    request = remote(kills_for_memory).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote()
    try:
        return cast(KillsForMemory, ray.get(request, timeout=KILLS_TIMEOUT_S))
    except RayError:  # the node is lost as well, or busy
        return None


def _one_line(error: RayError) -> str:
    """The cause of an error in one line: the exception that a worker raised, or what Ray knows of a worker's death."""
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {_first_line(error.cause)}"
    detail = re.search(r"Worker exit detail: (.*)", str(error))
    if detail is None:
        return _first_line(error)
    known = re.split(r" (?:Some common causes|There are some potential)", detail[1])[0]
    if "connection error" in known:  # all that Ray sees of a signal
        return "its process ended without a word: it was killed, by hand or for want of memory, or it crashed"
    return known


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
