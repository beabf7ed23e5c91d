"""The writer of a run's record: an append-only folder that is the truth about the run.

    <records>/runs/<key>/    events.jsonl, config.yaml, environment.json, progress.json, lock, ...

Whoever writes a record holds its lock, so that two processes never work on one run. Imports neither torch, Ray nor
MLflow.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bench.machine.revision import CodeDiff
from bench.records.event_log import EventLog
from bench.records.predictions import write_predictions
from bench.records.states import EVENTS, PROGRESS, seconds_of
from reproduce import schema
from reproduce.atomic import write_atomically
from reproduce.spec import RunConfig

if TYPE_CHECKING:
    import numpy as np

LOCK_PATIENCE_S = 10.0  # a killed writer may take seconds to die; a reader holds the lock for microseconds


class RunFinishedError(RuntimeError):
    """This run is finished already; there is nothing to do."""


@dataclass(frozen=True)
class Recording:
    """How closely a run is watched."""

    telemetry_hz: float = 1.0
    """Telemetry samples per second of host and GPUs."""
    heartbeat_s: float = 1.0
    """Seconds between two updates of `progress.json`; make it longer on a file system that many runs share."""


class Record:
    """The one writer of a run's record, and the `Observer` that training calls.

    As a context manager it releases the run when it is left.

    Args:
        folder: the run's folder; created by `begin`.
        progress_every_s: shortest time between two updates of `progress.json`, in seconds.
        lock_patience_s: seconds to wait for another process to release the run.
    """

    def __init__(
        self, folder: Path, *, progress_every_s: float = 1.0, lock_patience_s: float = LOCK_PATIENCE_S
    ) -> None:
        self.folder = folder
        self.attempt = 0
        self.gpu_absent: str | None = None
        """What telemetry cannot read of the run's GPUs, shown while the run goes on; see `progress`."""
        self._lock_patience_s = lock_patience_s
        self._progress_every_s = progress_every_s
        self._progress_at = -math.inf
        self._log: EventLog | None = None
        self._recorded: set[int] = set()
        self._earlier_s = 0.0
        self._began = 0.0

    def begin(
        self,
        run: RunConfig,
        *,
        environment: Mapping[str, Any],
        world_size: int,
        device: str,
        resources: Mapping[str, float | str] | None = None,
        resume: Mapping[str, int] | None = None,
        code_diff: CodeDiff | None = None,
    ) -> int:
        """Claim the run, write what determines its result, and record the start of an attempt.

        Args:
            run: everything that determines the run's result.
            environment: code, packages, machine and devices, as `bench.machine.environment` describes them.
            world_size: number of ranks.
            device: the first rank's device, as torch names it.
            resources: what each worker has and computes with: cpus_per_worker, gpus_per_worker, compile, and others
                that older records lack.
            resume: epoch and step from which the attempt resumes; None for a fresh start.
            code_diff: uncommitted changes to the code, kept in a file beside the record that `environment` then names.

        Returns:
            The number of the attempt, from 1.

        Raises:
            RunBusyError: if another process holds the run.
            RunFinishedError: if the run is finished.
        """
        self._log = EventLog(self.folder, patience_s=self._lock_patience_s)
        try:
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
            self._began = time.monotonic()
            self._append(
                schema.START,
                environment=environment,
                world_size=world_size,
                device=device,
                epochs=run.recipe.epochs,
                resources=dict(resources or {}),
                resume=dict(resume) if resume is not None else None,
            )
        except BaseException:
            self.close()
            raise
        return self.attempt

    @property
    def epochs_recorded(self) -> int:
        """Number of epochs that the record holds, those of earlier attempts included."""
        return len(self._recorded)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of an epoch, counted from 0, once its checkpoint is durable.

        An epoch that is already recorded is left as it is.
        """
        if epoch in self._recorded:
            return
        self._append(schema.EPOCH, epoch=epoch, metrics=_json_values(metrics))
        self._recorded.add(epoch)

    def progress(
        self, *, epoch: int, epochs: int, step: int, steps: int, images_per_s: float, loss: float, top1: float | None
    ) -> None:
        """Overwrite `progress.json`, a heartbeat that no result depends on; calls that come too soon do nothing."""
        now = time.monotonic()
        if now - self._progress_at < self._progress_every_s:
            return
        self._progress_at = now
        values = {"images_per_s": images_per_s, "loss": loss, "top1": top1}
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
        """Write the predictions of the final validation; see `write_predictions`."""
        write_predictions(self.folder, table)

    def end(
        self,
        outcome: str,
        *,
        error: str | None = None,
        reason: str | None = None,
        metrics: Mapping[str, float] | None = None,
        telemetry: Mapping[str, Any] | None = None,
    ) -> None:
        """Record how the attempt ended, and release the run. Telemetry and predictions must be written before.

        Unless it was interrupted, the attempt gets the metric `final/duration_s`, the seconds of all attempts together.

        Args:
            outcome: finished, failed or interrupted, as in `reproduce.schema`.
            error: why it failed.
            reason: why it was interrupted, such as "time limit" or "preempted".
            metrics: final metrics.
            telemetry: the sampler's summary.
        """
        duration = time.monotonic() - self._began
        final = dict(metrics or {})
        if outcome != schema.INTERRUPTED:
            final[schema.FINAL_DURATION_S] = self._earlier_s + duration
        self._append(
            schema.END,
            outcome=outcome,
            error=error,
            reason=reason,
            duration_s=duration,
            metrics=_json_values(final),
            telemetry=dict(telemetry) if telemetry is not None else None,
        )
        self.close()

    def close(self) -> None:
        """Release the run without recording an end; readers then see it as interrupted."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def abandon(self, error: str) -> None:
        """Record a run as failed whose worker died before it could; an end that is recorded already stays.

        Raises:
            RunBusyError: if a process still holds the run.
        """
        attempts = self._reopen_last_attempt()
        if attempts is None:
            return
        if not attempts:
            self._append(schema.START, environment={}, world_size=0, device="none", epochs=None, resume=None)
        self.end(schema.FAILED, error=error)

    def interrupt(self, reason: str) -> None:
        """Record an attempt as interrupted whose worker was stopped before it could.

        Nothing is recorded for a run that never began or whose end is recorded already.

        Raises:
            RunBusyError: if a process still holds the run.
        """
        if not (self.folder / EVENTS).exists():
            return
        if self._reopen_last_attempt():
            self.end(schema.INTERRUPTED, reason=reason)
        self.close()

    def _reopen_last_attempt(self) -> list[list[dict[str, Any]]] | None:
        """Claim a run and take up its last attempt; returns the events by attempt, None if that attempt has an end."""
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
    """Metrics as JSON can hold them: a value that is not finite becomes a string that `float` reads back."""
    return {
        name: value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
        for name, value in ((name, float(value)) for name, value in metrics.items())
    }
