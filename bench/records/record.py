"""The record of a run: an append-only folder that is the truth about it.

    <records>/runs/<key>/       events.jsonl, config.yaml, environment.json, progress.json, lock, ...
    <records>/experiments/<name>/plan.json

`events.jsonl` holds one JSON object a line, with its own timestamp and attempt number; the kinds are those of
`reproduce.schema`. A line torn by a crash is closed by the next writer and skipped by every reader. Whoever writes
a record holds a lock on it, so that a run is never done by two at once and a reader can tell a living run from a
dead one. On several hosts this needs a file system with cluster-wide `flock` (NFS has it; Lustre with `-o flock`).

Imports neither torch, Ray nor MLflow.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bench.records.locks import try_lock
from bench.records.states import EVENTS, LOCK, PROGRESS, attempts_of, read_events, seconds_of
from reproduce import schema
from reproduce.atomic import replacing
from reproduce.spec import PlannedRun, RunConfig, SpecError

if TYPE_CHECKING:
    import numpy as np

PLAN = "plan.json"

LOCK_PATIENCE_S = 10.0  # a killed writer may take seconds to die; a reader holds the lock for microseconds


class RunBusy(RuntimeError):  # noqa: N818 - reads as a state
    """Another process is doing this run now."""


class RunFinished(RuntimeError):  # noqa: N818
    """This run is finished already; there is nothing to do."""


# --- plan ------------------------------------------------------------------------------------------


def experiment_folder(records: Path, name: str) -> Path:
    return records / "experiments" / name


def experiments(records: Path) -> list[str]:
    """Names of the experiments that have a plan here."""
    return sorted(path.parent.name for path in (records / "experiments").glob(f"*/{PLAN}"))


@dataclass(frozen=True)
class PlanEntry:
    """A planned run as `plan.json` names it."""

    key: str
    arm: str
    seed: int
    name: str
    epochs: int
    costs: Mapping[str, float] = field(default_factory=dict)
    """Cost metrics by their schema name, e.g. `cost/parameters`."""


def write_plan(
    records: Path, experiment: str, planned: Sequence[PlannedRun], costs: Mapping[str, Mapping[str, float]]
) -> Path:
    """Write an experiment's `plan.json` atomically; `costs` are by run key."""
    entries = [
        asdict(PlanEntry(run.key, run.arm, run.seed, run.name, run.config.recipe.epochs, dict(costs.get(run.key, {}))))
        for run in planned
    ]
    path = experiment_folder(records, experiment) / PLAN
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(entries, indent=1).encode())
    return path


def read_plan(records: Path, experiment: str) -> list[PlanEntry]:
    """Raises SpecError if the experiment was never planned here."""
    try:
        content = (experiment_folder(records, experiment) / PLAN).read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(experiments(records)) or "nothing"
        raise SpecError(f"experiment: {experiment!r} has no records in {records}, which holds {known}") from None
    return [PlanEntry(**entry) for entry in json.loads(content)]


# --- writing ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """How closely a run is watched."""

    telemetry_hz: float = 1.0
    """Samples a second of host and GPUs."""
    heartbeat_s: float = 1.0
    """Seconds between two signs of life in the run's folder; longer on a file system that many runs share."""


class Record:
    """The one writer of a run's record; the `Observer` that training calls.

    Usable as a context manager: leaving it releases the lock.
    """

    def __init__(
        self, folder: Path, *, progress_every_s: float = 1.0, lock_patience_s: float = LOCK_PATIENCE_S
    ) -> None:
        self.folder = folder
        self._lock_patience_s = lock_patience_s
        self.attempt = 0
        self._progress_every_s = progress_every_s
        self._progress_at = -math.inf
        self._recorded: set[int] = set()
        self._earlier_s = 0.0
        self._began = 0.0
        self._events: int | None = None
        self._lock: int | None = None
        self.gpu_absent: str | None = None
        """What telemetry does not tell of the run's GPUs; shown while it runs, see `progress`."""

    def begin(
        self,
        run: RunConfig,
        *,
        environment: Mapping[str, Any],
        world_size: int,
        device: str,
        resources: Mapping[str, float | str] | None = None,
        resume: Mapping[str, int] | None = None,
    ) -> int:
        """Claim the run, write what determines it and a start event; the number of the attempt, from 1.

        `resources` are those of a worker: cpus_per_worker, gpus_per_worker, compile, and the precision and the
        instructions that it computes with (absent in older records). `resume` is the epoch and step
        that the attempt goes on from, None for a fresh start.
        Raises RunBusy if another process holds the run, RunFinished if it is done.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _claim(self.folder, self._lock_patience_s)
        try:
            events = read_events(self.folder)
            if events and events[-1].get("outcome") == schema.FINISHED:
                raise RunFinished(f"run {run.key} is finished: {self.folder}")
            attempts = attempts_of(events)
            self.attempt = len(attempts) + 1
            self._earlier_s = sum(seconds_of(attempt) for attempt in attempts)
            self._recorded = {event["epoch"] for event in events if event["kind"] == schema.EPOCH}
            config = yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False)
            write_atomically(self.folder / schema.ARTIFACT_CONFIG, config.encode())
            write_atomically(self.folder / schema.ARTIFACT_ENVIRONMENT, json.dumps(environment, indent=1).encode())
            (self.folder / PROGRESS).unlink(missing_ok=True)
            self._events = _open_events(self.folder / EVENTS)
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
        """How many epochs, from the first on, the record holds of all attempts."""
        return len(self._recorded)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record an epoch (from 0), once its checkpoint is durable; an epoch already recorded is left as it is."""
        if epoch in self._recorded:
            return
        self._append(schema.EPOCH, epoch=epoch, metrics=_writable(metrics))
        self._recorded.add(epoch)

    def progress(
        self, *, epoch: int, epochs: int, step: int, steps: int, images_per_s: float, loss: float, top1: float | None
    ) -> None:
        """Overwrite `progress.json`, at most once in `progress_every_s`; a heartbeat, not part of the truth."""
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
            **_writable({name: value for name, value in values.items() if value is not None}),
        }
        write_atomically(self.folder / PROGRESS, json.dumps(content).encode(), durable=False)

    def predictions(self, table: Mapping[str, np.ndarray]) -> None:
        """Write `predictions.parquet` of the final validation: columns index, label, correct [n] and top5 [n, 5]."""
        pa: Any = importlib.import_module("pyarrow")
        columns = {
            name: pa.array(values)
            if values.ndim == 1
            else pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
            for name, values in table.items()
        }
        write_parquet(self.folder / schema.ARTIFACT_PREDICTIONS, pa.table(columns))

    def end(
        self,
        outcome: str,
        *,
        error: str | None = None,
        reason: str | None = None,
        metrics: Mapping[str, float] | None = None,
        telemetry: Mapping[str, Any] | None = None,
    ) -> None:
        """Record the attempt's outcome and release the run; telemetry and predictions are written before.

        A finished or failed attempt gets `final/duration_s`, the seconds of all attempts together. `reason` tells
        why an attempt was interrupted, e.g. "time limit" or "preempted".
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
            metrics=_writable(final),
            telemetry=dict(telemetry) if telemetry is not None else None,
        )
        self.close()

    def close(self) -> None:
        """Release the run without an end event: readers see it as interrupted."""
        if self._events is not None:
            os.close(self._events)
            self._events = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def abandon(self, error: str) -> None:
        """End, as failed, a run whose worker died before it could; one that did record its end is left as it is.

        Raises RunBusy if a process still holds the run.
        """
        attempts = self._open_unended()
        if attempts is None:
            return
        if not attempts:
            self._append(schema.START, environment={}, world_size=0, device="none", epochs=None, resume=None)
        self.end(schema.FAILED, error=error)

    def interrupt(self, reason: str) -> None:
        """End, as interrupted, an attempt whose worker was stopped before it could; else nothing is recorded.

        Raises RunBusy if a process still holds the run.
        """
        if not (self.folder / EVENTS).exists():
            return
        if self._open_unended():
            self.end(schema.INTERRUPTED, reason=reason)
        self.close()

    def _open_unended(self) -> list[list[dict[str, Any]]] | None:
        """Claim a run whose last attempt has no end, and open its events; the attempts. None where there is an end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _claim(self.folder, self._lock_patience_s)
        attempts = attempts_of(read_events(self.folder))
        if attempts and attempts[-1][-1]["kind"] == schema.END:
            self.close()
            return None
        self.attempt = len(attempts) or 1
        self._events = _open_events(self.folder / EVENTS)
        self._earlier_s = sum(seconds_of(attempt) for attempt in attempts[:-1])
        self._began = time.monotonic() - (seconds_of(attempts[-1]) if attempts else 0.0)
        return attempts

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _append(self, kind: str, **content: Any) -> None:
        assert self._events is not None, "begin() comes first, end() last"
        event = {"t": round(time.time(), 3), "attempt": self.attempt, "kind": kind, **content}
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        written = os.write(self._events, line)
        if written != len(line):
            raise OSError(f"{self.folder / EVENTS}: wrote {written} of {len(line)} bytes; is the disk full?")
        os.fsync(self._events)


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file so that readers see the old or the new content; `durable`: also after a power cut."""
    with replacing(path, durable=durable) as file:
        file.write(content)


def write_parquet(path: Path, table: Any) -> None:
    """Write an Arrow table as Parquet, atomically."""
    pa: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def _open_events(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        os.write(file, b"\n")  # close the line that a crash tore
    return file


def _claim(folder: Path, patience_s: float) -> int:
    deadline = time.monotonic() + patience_s
    while (lock := try_lock(folder / LOCK)) is None:
        if time.monotonic() > deadline:
            raise RunBusy(f"run {folder.name} is being done by another process: {folder}")
        time.sleep(0.05)
    return lock


def _writable(metrics: Mapping[str, float]) -> dict[str, float | str]:
    """JSON has no NaN: such values are written as the strings that `float` reads."""
    return {
        name: value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
        for name, value in ((name, float(value)) for name, value in metrics.items())
    }
