"""Place the runs of a plan on Ray, watch them, retry them, stop them.

A run lives in its record folder (events, checkpoint), so any driver can pick it up. A *gang* is the ranks of one run:
plain actors in a placement group, kept for the next run as long as nothing goes wrong (facts: Ray Train starts in 50 s,
fresh actors in 20 s, kept ones in 0.2 s). When one rank fails the gang is killed, since the others would hang in a
collective.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from bench.orchestration.cluster import capacity
from bench.orchestration.leases import Lease, take
from bench.orchestration.worker import CONTROL, Rank, Verdict
from bench.records.event_log import RunBusyError
from bench.records.record import Record, Recording
from bench.records.states import read_state, run_folder
from reproduce import schema
from reproduce.spec import PlannedRun, ResourcesConfig, SpecError

log = logging.getLogger(__name__)

GANG_START_S = 600  # a node may have to read torch from a cold network file system
LOOK_EVERY_S = 0.5  # how soon a stop, or the end of a run, is noticed
NODES_LOST = "nodes lost"  # the reason of a stop
STOP_GRACE_S = 120  # for a checkpoint to be written before a stopped run is given up


@dataclass(frozen=True)
class Options:
    """How a plan is carried out."""

    records: Path
    data: Path
    address: str | None = None
    """Of a running Ray cluster; None: a cluster of this machine, for as long as the command runs."""
    concurrent: int | None = None
    """Runs at once at most; None: as many as fit."""
    recording: Recording = Recording()  # noqa: RUF009 - frozen
    retry_failed: bool = False
    node_patience_s: float = 600
    """How long to wait for nodes to come back when those that are left hold no run."""

    @property
    def settled(self) -> set[str]:
        """Outcomes of runs that are left as they are."""
        return {schema.FINISHED} if self.retry_failed else {schema.FINISHED, schema.FAILED}


class NoPlace(Exception):  # noqa: N818 - reads as a state
    """Waiting for a place in the cluster was given up."""


class Gang:
    """The ranks of a run, joined in one process group."""

    def __init__(self, resources: ResourcesConfig, keep_waiting: Callable[[], bool] = lambda: True) -> None:
        """Start and join the ranks, as soon as there is a place for all of them.

        Raises `RayError` where that fails, `NoPlace` once `keep_waiting`, asked every now and then, says no.
        """
        bundle = {"CPU": float(resources.cpus_per_worker)}
        if resources.gpus_per_worker:
            bundle["GPU"] = float(resources.gpus_per_worker)
        self._keep_waiting = keep_waiting
        self._stopping: Any = None
        self.ranks: list[Any] = []
        self.group = placement_group([bundle] * resources.workers, strategy="PACK")
        try:
            while not self.group.wait(LOOK_EVERY_S):
                self._look()
            remote: Any = ray.remote
            actor = remote(concurrency_groups={CONTROL: 1})(Rank)
            for rank in range(resources.workers):
                placed = actor.options(
                    num_cpus=resources.cpus_per_worker,
                    num_gpus=resources.gpus_per_worker,
                    scheduling_strategy=PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=rank),
                )
                self.ranks.append(placed.remote(rank, resources))
            seats = self._answers([rank.seat.remote() for rank in self.ranks])
            port = self._answers([self.ranks[0].open_store.remote()])[0] if resources.workers > 1 else 0
            self._answers([rank.join.remote(seats, port) for rank in self.ranks])
        except BaseException:
            self.kill()
            raise

    def _look(self) -> None:
        if not self._keep_waiting():
            raise NoPlace

    def _answers(self, references: list[Any]) -> list[Any]:
        """Of all ranks, or the error of the first that fails."""
        deadline = time.monotonic() + GANG_START_S
        waiting = references
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=LOOK_EVERY_S)
            ray.get(done)
            self._look()
            if time.monotonic() > deadline:
                raise GetTimeoutError(f"the ranks did not start within {GANG_START_S} s")
        return list(ray.get(references))

    def train(self, planned: PlannedRun, folder: Path, options: Options, give_up: Callable[[], bool]) -> Verdict:
        """Train one run; returns once every rank has, or the first has failed, or `give_up` says so.

        A run that is stopped before its first step has nothing to save: it is not waited for.
        """
        waiting = [rank.train.remote(planned.config, folder, options.data, options.recording) for rank in self.ranks]
        verdict = Verdict(schema.INTERRUPTED)
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=LOOK_EVERY_S)
            for reference in done:
                try:
                    verdict = ray.get(reference)
                except RayActorError as error:
                    verdict = Verdict(schema.FAILED, f"a worker died: {_first_line(error)}", retry=True)
                if verdict.outcome == schema.FAILED:
                    return verdict
            if waiting and not self._has_begun():
                return Verdict(schema.INTERRUPTED)
            if give_up():
                return Verdict(schema.INTERRUPTED, f"no checkpoint within {STOP_GRACE_S} s of the stop")
        return verdict

    def _has_begun(self) -> bool:
        """False where the ranks were told to stop and the run is not in its steps yet."""
        if self._stopping is None or not ray.wait([self._stopping], timeout=0)[0]:
            return True
        try:
            return bool(ray.get(self._stopping))
        except RayActorError:  # which the run's own answer will tell
            return True

    def stop(self, reason: str) -> None:
        """Have this run, and any later one, write a checkpoint and return."""
        self._stopping = self.ranks[0].stop.remote(reason)

    def kill(self) -> None:
        for rank in self.ranks:
            ray.kill(rank)
        remove_placement_group(self.group)


@dataclass
class Grid:
    """Carries out runs, several at once, each in a slot: a thread that keeps a gang.

    Other drivers may work on the same runs: what another one has in hand or has ended meanwhile is left alone.
    """

    runs: Sequence[PlannedRun]
    resources: ResourcesConfig
    options: Options
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """By run key, as they come in."""
    stopped: str | None = None
    """Why the grid was stopped before its end."""

    def __post_init__(self) -> None:
        self._queue = deque(self.runs)
        self._lock = threading.Lock()
        self._gangs: set[Gang] = set()
        self._slots: list[threading.Thread] = []
        self._stopped_at = self._short_since = math.inf

    def start(self, slots: int) -> None:
        for index in range(min(slots, len(self.runs), self.options.concurrent or slots)):
            thread = threading.Thread(target=self._slot, name=f"slot-{index}", daemon=True)
            self._slots.append(thread)
            thread.start()

    @property
    def busy(self) -> bool:
        return any(slot.is_alive() for slot in self._slots)

    @property
    def concurrency(self) -> int:
        return max(1, sum(slot.is_alive() for slot in self._slots))

    @property
    def elsewhere(self) -> list[PlannedRun]:
        """Runs that other drivers have in hand."""
        with self._lock:
            return list(self._queue)

    def stop(self, reason: str) -> None:
        """Have every running run write a checkpoint and end; start no more."""
        with self._lock:
            if self.stopped is not None:
                return
            self.stopped, self._stopped_at = reason, time.monotonic()
            for gang in self._gangs:
                gang.stop(reason)

    # --- a slot ----------------------------------------------------------------------------------

    def _slot(self) -> None:
        gang: Gang | None = None
        while (claimed := self._next()) is not None:
            planned, lease = claimed
            try:
                gang = self._carry_out(planned, gang)
            finally:
                lease.release()
        if gang is not None:
            self._disband(gang)

    def _next(self) -> tuple[PlannedRun, Lease] | None:
        """The next run that nobody has in hand and that is still to be done."""
        with self._lock:
            if self.stopped is not None:
                return None
            for planned in list(self._queue):
                folder = run_folder(self.options.records, planned.key)
                lease = take(folder)
                if lease is None:
                    continue
                self._queue.remove(planned)
                if read_state(folder).status not in self.options.settled:
                    return planned, lease
                lease.release()  # another driver has ended it meanwhile
        return None

    def _carry_out(self, planned: PlannedRun, gang: Gang | None) -> Gang | None:
        """One run with its retries; returns the gang where it is still good."""
        folder = run_folder(self.options.records, planned.key)
        for attempts_left in range(self.resources.retries, -1, -1):
            try:
                gang = gang or self._assemble()
                verdict = gang.train(planned, folder, self.options, self._out_of_patience)
            except NoPlace:
                verdict = Verdict(schema.INTERRUPTED)
            except (RayError, GetTimeoutError) as error:
                verdict = Verdict(schema.FAILED, f"Ray: {_first_line(error)}", retry=True)
            if verdict.outcome == schema.FINISHED:
                break
            if gang is not None:
                self._disband(gang)
                gang = None
            if verdict.outcome == schema.INTERRUPTED or not verdict.retry or self.stopped is not None:
                break
            log.warning("%s: %s; %d retries left", planned.name, verdict.error, attempts_left)
        if self.stopped is not None and verdict.outcome != schema.FINISHED:
            with contextlib.suppress(RunBusyError):  # then whoever holds the run will record its end
                Record(folder).interrupt(self.stopped)
        elif verdict.outcome == schema.FAILED:
            with contextlib.suppress(RunBusyError):
                Record(folder).abandon(verdict.error)
        self.verdicts[planned.key] = verdict
        return gang

    def _assemble(self) -> Gang:
        gang = Gang(self.resources, self._keep_waiting)
        with self._lock:
            self._gangs.add(gang)
            if self.stopped is not None:
                gang.stop(self.stopped)
        return gang

    def _disband(self, gang: Gang) -> None:
        with self._lock:
            self._gangs.discard(gang)
        gang.kill()

    def _keep_waiting(self) -> bool:
        """Whether a gang shall still wait for its place: another one may make room, a lost node may come back."""
        try:
            capacity(self.resources)
            self._short_since = math.inf
        except SpecError as shortage:
            now = time.monotonic()
            self._short_since = min(self._short_since, now)
            if now - self._short_since > self.options.node_patience_s:
                log.warning("%s", shortage)
                self.stop(NODES_LOST)
        return self.stopped is None

    def _out_of_patience(self) -> bool:
        return time.monotonic() - self._stopped_at > STOP_GRACE_S


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
