"""Writes a run's record, the append-only folder from which everything else about the run is derived.

    <records>/runs/<key>/    events.jsonl, config.yaml, environment.json, progress.json, lock, ...

The process that writes a record holds its lock, so that two processes never write the same record. Imports neither
torch, Ray nor MLflow.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bench.machine.computation import Computation, changes
from bench.machine.revision import CodeDiff
from bench.records.event_log import EventLog
from bench.records.predictions import write_predictions
from bench.records.refusals import checkpoint_computation
from bench.records.states import EVENTS, PROGRESS, REFUSED, seconds_of
from reproduce import schema
from reproduce.files.atomic import remove_partial_files, write_atomically
from reproduce.spec import RunConfig
from reproduce.text.redaction import redacted
from reproduce.training.graphs.switch import GraphUse

if TYPE_CHECKING:
    import numpy as np

LOCK_PATIENCE_S = 10.0  # a killed writer may take seconds to die; a reader holds the lock for microseconds


class RunFinishedError(RuntimeError):
    """Raised by `Record.begin` for a run that is finished already, so that there is nothing to train."""


@dataclass(frozen=True)
class Recording:
    """How often a run writes telemetry and its heartbeat."""

    telemetry_hz: float = 1.0
    """Number of telemetry samples per second, of the host and of each GPU."""
    heartbeat_s: float = 1.0
    """Shortest time between two updates of `progress.json`, in seconds. Use a longer time on a file system that many
    runs share."""


class Record:
    """Writes the record of one attempt at a run. It is the `Observer` that training calls on rank 0.

    Call `begin`, then `epoch`, `progress` and `predictions`, and finally `end`. From `begin` to `end` or `close`, this
    process holds the run's lock. Leaving a `with` block calls `close`. For a run whose worker could not record its end,
    call only `abandon` or `interrupt`.

    Args:
        folder: The run's record folder. It is created when the lock is taken.
        progress_every_s: Shortest time between two updates of `progress.json`, in seconds.
        lock_patience_s: Seconds to wait for another process to release the run's lock.
    """

    def __init__(
        self, folder: Path, *, progress_every_s: float = 1.0, lock_patience_s: float = LOCK_PATIENCE_S
    ) -> None:
        self.folder = folder
        self.attempt = 0
        self.gpu_absent: str | None = None
        """What telemetry cannot read of the run's GPUs, and why, for `progress.json`. None if it reads everything."""
        self.class_names: Sequence[str] = ()
        """Names of the classes for people, for `predictions.parquet`; empty if they are unknown."""
        self._lock_patience_s = lock_patience_s
        self._progress_every_s = progress_every_s
        self._progress_at = -math.inf
        self._log: EventLog | None = None
        self._recorded: set[int] = set()
        self._graph: GraphUse | None = None
        self._earlier_s = 0.0
        self._began = 0.0
        self._batch_size: int | None = None

    def begin(
        self,
        run: RunConfig,
        *,
        environment: Mapping[str, Any],
        world_size: int,
        device: str,
        resources: Mapping[str, float | str] | None = None,
        computation: Computation | None = None,
        workers_s: float | None = None,
        resume: Mapping[str, int] | None = None,
        damaged: Sequence[str] = (),
        hosts: Sequence[str] = (),
        kernels_dropped: Sequence[str] = (),
        code_diff: CodeDiff | None = None,
    ) -> int:
        """Take the run's lock, write its configuration and environment, and record the start of an attempt.

        If it raises an exception, the lock is released. Temporary files of a killed attempt are removed.

        Args:
            run: Everything that determines the run's result.
            environment: Code, packages, machine and devices, as `bench.machine.environment.environment` returns them.
            world_size: The number of ranks.
            device: The device of rank 0, as torch names it.
            resources: What each worker has and computes with: cpus_per_worker, gpus_per_worker, compile and the fields
                of the resolved precision, which older records lack.
            computation: How the run is computed, which older records lack. If the attempt resumes, what differs from
                the attempt that has written the checkpoint is recorded with it.
            workers_s: Seconds in which the workers were placed, started and joined. The event lacks the field if an
                earlier run had the same ones.
            resume: The position in the checkpoint from which the attempt resumes, with the keys epoch and step, both
                from 0; None if it starts from the beginning.
            damaged: Names of checkpoints that are newer than that one, but damaged. The event lacks the field if none
                is.
            hosts: Names of the hosts of all ranks, by rank. The event lacks the field if there is one rank.
            kernels_dropped: Kinds of layers that our kernels would compute, but that are left to torch, each with the
                reason. The event lacks the field if there is none.
            code_diff: Uncommitted changes to the code. They are written to a file in the record, whose name becomes
                `code_diff` of the recorded environment.

        Returns:
            The number of the attempt, from 1.

        Raises:
            RunBusyError: Another process holds the run's lock.
            RunFinishedError: The run is finished.
        """
        self._log = EventLog(self.folder, patience_s=self._lock_patience_s)
        try:
            remove_partial_files(self.folder)
            attempts = self._log.attempts()
            events = [event for attempt in attempts for event in attempt]
            if events and events[-1].get("outcome") == schema.FINISHED:
                raise RunFinishedError(f"run {run.key} is finished: {self.folder}")
            self.attempt = len(attempts) + 1
            self._earlier_s = sum(seconds_of(attempt) for attempt in attempts)
            self._recorded = {event["epoch"] for event in events if event["kind"] == schema.EPOCH}
            config = yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False)
            write_atomically(self.folder / schema.ARTIFACT_CONFIG, config.encode())
            if code_diff is not None:
                environment = {**environment, "code_diff": code_diff.name}
                if not (self.folder / code_diff.name).exists():
                    write_atomically(self.folder / code_diff.name, code_diff.content)
            write_atomically(self.folder / schema.ARTIFACT_ENVIRONMENT, json.dumps(environment, indent=1).encode())
            (self.folder / PROGRESS).unlink(missing_ok=True)
            (self.folder / REFUSED).unlink(missing_ok=True)
            computed = vars(computation) if computation is not None else None
            before = checkpoint_computation(self.folder) if resume is not None else None
            self._began, self._batch_size = time.monotonic(), run.recipe.batch_size
            self._append(
                schema.START,
                environment=environment,
                world_size=world_size,
                device=device,
                epochs=run.recipe.epochs,
                resources=dict(resources or {}),
                computation=computed,
                changes=changes(before, computed),
                resume=dict(resume) if resume is not None else None,
                **({"workers_s": round(workers_s, 3)} if workers_s is not None else {}),
                **({"damaged": list(damaged)} if damaged else {}),
                **({"hosts": list(hosts)} if len(hosts) > 1 else {}),
                **({"kernels_dropped": list(kernels_dropped)} if kernels_dropped else {}),
            )
        except BaseException:
            self.close()
            raise
        return self.attempt

    @property
    def epochs_recorded(self) -> int:
        """The number of epochs in the record before the first that is missing. Valid after `begin`.

        Epochs of earlier attempts are included. One is missing if its line was damaged; training reports it again.
        """
        return next(epoch for epoch in range(len(self._recorded) + 1) if epoch not in self._recorded)

    def graph(self, use: GraphUse) -> None:
        """Record whether steps replay a CUDA graph, unless this attempt has recorded the same already."""
        if use != self._graph:
            self._graph = use
            self._append(schema.GRAPH, graph=use.captured, reason=redacted(use.reason) if use.reason else None)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of an epoch. Does nothing if the epoch is recorded already.

        Call it only when the checkpoint after the epoch is durable. The event is durable on return.

        Args:
            epoch: The epoch, from 0.
            metrics: Its metrics, by their name in `reproduce.schema`. Values need not be finite.
        """
        if epoch in self._recorded:
            return
        self._append(schema.EPOCH, epoch=epoch, metrics=_json_values(metrics))
        self._recorded.add(epoch)

    def progress(
        self, *, epoch: int, epochs: int, step: int, steps: int, images_per_s: float, loss: float, top1: float | None
    ) -> None:
        """Overwrite `progress.json`, the heartbeat of the run, on which no result depends.

        Does nothing if less than `progress_every_s` has passed since the last update. The file is not synchronised to
        the disk. For the arguments see `reproduce.training.interface.Observer.progress`.
        """
        now = time.monotonic()
        if now - self._progress_at < self._progress_every_s:
            return
        self._progress_at = now
        epoch_s = steps * self._batch_size / images_per_s if self._batch_size and images_per_s > 0 else None
        values = {"images_per_s": images_per_s, "epoch_s": epoch_s, "loss": loss, "top1": top1}
        content = {
            "t": time.time(),
            "attempt": self.attempt,
            "epoch": epoch,
            "epochs": epochs,
            "step": step,
            "steps": steps,
            "gpu_absent": self.gpu_absent,
            **_json_values({name: value for name, value in values.items() if value is not None}),
        }
        write_atomically(self.folder / PROGRESS, json.dumps(content).encode(), durable=False)

    def predictions(self, table: Mapping[str, np.ndarray]) -> None:
        """Write the predictions of the final validation to `predictions.parquet`; see `write_predictions`."""
        write_predictions(self.folder, table, self.class_names)

    def end(
        self,
        outcome: str,
        *,
        error: str | None = None,
        reason: str | None = None,
        metrics: Mapping[str, float] | None = None,
        telemetry: Mapping[str, Any] | None = None,
    ) -> None:
        """Record how the attempt ended, and release the run's lock.

        Telemetry and predictions must be written before. Unless the attempt was interrupted, the metric
        `final/duration_s` is added: the seconds of all attempts together.

        Args:
            outcome: `FINISHED`, `FAILED` or `INTERRUPTED` of `reproduce.schema`.
            error: Why the attempt failed; None if it did not. Passwords in it, or in `reason`, are not recorded.
            reason: Why the attempt was interrupted, such as "time limit" or "preempted"; None if it was not, or if the
                reason is unknown.
            metrics: Final metrics, by their name in `reproduce.schema`. Values need not be finite.
            telemetry: The summary of the sampler; None if there was no telemetry.
        """
        duration = time.monotonic() - self._began
        final = dict(metrics or {})
        if outcome != schema.INTERRUPTED:
            final[schema.FINAL_DURATION_S] = self._earlier_s + duration
        self._append(
            schema.END,
            outcome=outcome,
            error=None if error is None else redacted(error),
            reason=None if reason is None else redacted(reason),
            duration_s=duration,
            metrics=_json_values(final),
            telemetry=dict(telemetry) if telemetry is not None else None,
        )
        self.close()

    def close(self) -> None:
        """Release the run's lock. May be called more than once.

        If no end has been recorded, readers then see the run as interrupted.
        """
        if self._log is not None:
            self._log.close()
            self._log = None

    def abandon(self, error: str) -> None:
        """Record the last attempt as failed on behalf of a worker that died before it could do so itself.

        Does nothing if the last attempt has an end already. If the run has no events, a first attempt is recorded that
        starts and fails at once. Call this instead of `begin`, after the worker has ended.

        Args:
            error: Why the attempt failed.

        Raises:
            RunBusyError: A process still holds the run's lock.
        """
        attempts = self._reopen_last_attempt()
        if attempts is None:
            return
        if not attempts:
            self._append(schema.START, environment={}, world_size=0, device="none", epochs=None, resume=None)
        self.end(schema.FAILED, error=error)

    def interrupt(self, reason: str) -> None:
        """Record the last attempt as interrupted on behalf of a worker that was killed before it could do so itself.

        Does nothing if the run has no events or its last attempt has an end already. Call this instead of `begin`,
        after the worker has ended.

        Args:
            reason: Why the attempt was interrupted, such as "time limit".

        Raises:
            RunBusyError: A process still holds the run's lock.
        """
        if not (self.folder / EVENTS).exists():
            return
        if self._reopen_last_attempt():
            self.end(schema.INTERRUPTED, reason=reason)
        self.close()

    def _reopen_last_attempt(self) -> list[list[dict[str, Any]]] | None:
        """Take the run's lock and continue its last attempt, so that its end can be recorded.

        Returns:
            All events, grouped by attempt; None if the last attempt has an end, in which case the lock is released.
        """
        self._log = EventLog(self.folder, patience_s=self._lock_patience_s)
        attempts = self._log.attempts()
        if attempts and attempts[-1][-1]["kind"] == schema.END:
            self.close()
            return None
        self.attempt = len(attempts) or 1
        self._earlier_s = sum(seconds_of(attempt) for attempt in attempts[:-1])
        self._began = time.monotonic() - (seconds_of(attempts[-1]) if attempts else 0.0)
        return attempts

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _append(self, kind: str, **content: Any) -> None:
        assert self._log is not None, "begin() comes first, end() last"
        self._log.append(kind, self.attempt, **content)


def _json_values(metrics: Mapping[str, float]) -> dict[str, float | str]:
    """Convert metrics for JSON: a value that is not finite becomes a string that `float` converts back."""
    return {
        name: value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
        for name, value in ((name, float(value)) for name, value in metrics.items())
    }
