"""The events and the state of a run, read from its files. Imports neither torch, Ray nor MLflow."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reproduce import schema

Status = Literal["waiting", "running", "finished", "failed", "interrupted"]

EVENTS = schema.ARTIFACT_EVENTS
PROGRESS = "progress.json"
PROGRESS_VALUES = ("images_per_s", "loss", "top1")
LOCK = "lock"


def run_folder(records: Path, key: str) -> Path:
    """The folder of a run's record; it need not exist yet."""
    return records / "runs" / key


@dataclass(frozen=True)
class RunState:
    """The state of a run, as its files show it."""

    key: str
    status: Status
    attempt: int = 0
    epoch: int | None = None
    """Last recorded epoch, counted from 0."""
    epochs: int | None = None
    """Number of epochs of the recipe; None before the first attempt."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the last recorded epoch and, if the run has ended, its final metrics."""
    error: str | None = None
    """Why the run failed."""
    reason: str | None = None
    """Why the last attempt was interrupted; None if it was not, or was killed before it could record a reason."""
    progress: Mapping[str, Any] | None = None
    """`progress.json` of a running attempt: epoch, epochs, step, steps, images_per_s, loss, top1, t."""
    gpu_absent: str | None = None
    """What telemetry of the last attempt could not read of the run's GPUs, and why; None if it read everything."""
    started: float | None = None
    """When the first attempt started, in seconds since 1970."""
    updated: float | None = None
    """When the run last wrote something, in seconds since 1970."""
    duration_s: float = 0.0
    """Seconds of all attempts together."""

    @property
    def epochs_done(self) -> int:
        """Number of recorded epochs."""
        return 0 if self.epoch is None else self.epoch + 1


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Read all complete events of a run, with metrics as floats; an empty list if there are none yet."""
    return [event for event, _ in events_from(folder, 0)]


def events_from(folder: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Read the complete events after a byte offset, each with the offset at which the next one begins.

    A line that a crash tore is skipped; an unfinished line at the end of the file is left for the next call.
    """
    try:
        file = open(folder / EVENTS, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            with contextlib.suppress(ValueError):  # a torn line that a later attempt closed
                event = json.loads(line)
                if "metrics" in event:
                    event["metrics"] = {name: float(value) for name, value in event["metrics"].items()}
                yield event, offset


def is_held(folder: Path) -> bool:
    """Whether a live process holds the run."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def read_state(folder: Path) -> RunState:
    """Read the state of a run; one whose folder does not exist is waiting."""
    held = is_held(folder)  # before the events, so that a run that ends meanwhile does not look interrupted
    attempts = attempts_of(read_events(folder))
    if not attempts:
        return RunState(key=folder.name, status="waiting")
    events = [event for attempt in attempts for event in attempt]
    last = events[-1]
    ended = last["kind"] == schema.END
    status: Status = last["outcome"] if ended else "running" if held else "interrupted"
    progress = _read_progress(folder) if status == "running" else None
    metrics: dict[str, float] = {}
    epoch: int | None = None
    for event in events:
        if event["kind"] == schema.EPOCH:
            metrics, epoch = event["metrics"], event["epoch"]
    updated = last["t"] if progress is None else max(last["t"], progress["t"])
    duration = sum(seconds_of(attempt) for attempt in attempts)
    return RunState(
        key=folder.name,
        status=status,
        attempt=last["attempt"],
        epoch=epoch,
        epochs=attempts[-1][0]["epochs"],
        metrics={**metrics, **last["metrics"]} if ended else metrics,
        error=last["error"] if ended else None,
        reason=last.get("reason") if ended else None,
        progress=progress,
        gpu_absent=_gpu_absent(last if ended else progress),
        started=events[0]["t"],
        updated=updated,
        duration_s=duration + (updated - last["t"]),
    )


def _gpu_absent(content: Mapping[str, Any] | None) -> str | None:
    """From an end event or from progress, which has the field in records since 2026-11-26."""
    telemetry = (content or {}).get("telemetry", content) or {}
    reason: str | None = telemetry.get("gpu_absent")
    return None if reason == schema.NO_GPU_USED else reason


def _read_progress(folder: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return {name: float(value) if name in PROGRESS_VALUES else value for name, value in content.items()}


def attempts_of(events: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Group events by attempt; each group begins with a start event."""
    groups: list[list[dict[str, Any]]] = []
    for event in events:
        if event["kind"] == schema.START:
            groups.append([])
        groups[-1].append(event)
    return groups


def seconds_of(attempt: Sequence[Mapping[str, Any]]) -> float:
    """Duration of an attempt in seconds, up to its last event if it has no end."""
    last = attempt[-1]
    return float(last["duration_s"] if last["kind"] == schema.END else last["t"] - attempt[0]["t"])
