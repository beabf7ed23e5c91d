"""Reads the events and the state of a run from its files. Imports neither torch, Ray nor MLflow."""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from bench.records.reading import naming_unreadable
from reproduce import schema
from reproduce.files.locks import is_locked
from reproduce.text.sealing import unsealed

Status = Literal["waiting", "running", "finished", "failed", "interrupted"]
"""The status of a run. A run is waiting until its first attempt starts. Then it is running as long as a process holds
its lock, and afterwards has the outcome of its last attempt. A run whose process was killed is interrupted."""

EVENTS = schema.ARTIFACT_EVENTS
PROGRESS = "progress.json"
REFUSED = "refused.txt"
PROGRESS_VALUES = ("images_per_s", "epoch_s", "loss", "top1")
LOCK = "lock"


EVERY_EVENT: Mapping[str, Any] = {"t": (int, float), "attempt": int, "kind": str}
"""Fields of every event, and their types."""
NEEDED: Mapping[str, set[str]] = {
    schema.START: {"epochs"},
    schema.GRAPH: {"graph", "reason"},
    schema.EPOCH: {"epoch", "metrics"},
    schema.END: {"outcome", "error", "metrics", "duration_s"},
}
"""Further fields without which an event of a kind cannot be used."""
KINDS: Mapping[str, Any] = {
    **{"epochs": (int, NoneType), "epoch": int, "world_size": int, "device": str},
    **{"environment": dict, "resources": dict, "computation": (dict, NoneType), "changes": dict},
    **{"resume": (dict, NoneType), "hosts": list, "damaged": list, "kernels_dropped": list},
    **{"metrics": dict, "error": (str, NoneType), "reason": (str, NoneType), "duration_s": (int, float)},
    **{"telemetry": (dict, NoneType), "graph": bool},
}
"""Types of the further fields, of which an event may lack some."""
LATEST_T = 1e11
"""Seconds since 1970 that no clock shows."""
OUTCOMES = (schema.FINISHED, schema.FAILED, schema.INTERRUPTED)


SLOW = 1.25
"""Ratio to the median rank from which on a rank is named. Ranks on sound hosts differ by a few per cent."""
RANK_METRIC = re.compile(rf"{schema.RANK}([0-9]{{1,9}})/(\w+)")


def run_folder(records: Path, key: str) -> Path:
    """The path of a run's record folder, which need not exist."""
    return records / "runs" / key


@dataclass(frozen=True)
class Straggler:
    """The slowest rank of a run, for which all others wait in every step."""

    rank: int
    host: str | None
    """Name of its host; None if it was not recorded."""
    ratio: float
    """Its milliseconds for an image over those of the median rank."""
    forward_ms: float
    """Of the forward pass of one image, mean."""
    data_wait_ms: float
    """Of waiting for the data of one image, mean."""

    def __str__(self) -> str:
        place = f"rank {self.rank}" + (f" on {self.host}" if self.host else "")
        return (
            f"{place} is {self.ratio:.1f} times as slow as the median rank: {self.forward_ms:.3g} ms forward and "
            f"{self.data_wait_ms:.3g} ms waiting for data, for each image"
        )


@dataclass(frozen=True)
class RunState:
    """The state of a run at one moment, as read from its files."""

    key: str
    status: Status
    attempt: int = 0
    """Number of the last attempt, from 1; 0 before the first."""
    epoch: int | None = None
    """Last recorded epoch, from 0; None before the first."""
    epochs: int | None = None
    """Number of epochs of the recipe; None before the first attempt, or if it failed before it could start."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the last recorded epoch and, if the last attempt has ended, its final metrics."""
    error: str | None = None
    """Why the run failed; None if it did not."""
    reason: str | None = None
    """Why the last attempt was interrupted; None if it was not, or was killed before it could record a reason."""
    progress: Mapping[str, Any] | None = None
    """Content of `progress.json` while an attempt is running, with the keys t (seconds since 1970), attempt, epoch,
    epochs, step, steps, gpu_absent, images_per_s, epoch_s (seconds that the training images of an epoch take at this
    rate), loss and, after the first validation, top1. Otherwise None."""
    gpu_absent: str | None = None
    """What telemetry of the last attempt could not read of the run's GPUs, and why. None if it read everything or the
    run uses no GPU."""
    kernels_dropped: tuple[str, ...] = ()
    """Kinds of layers that the last attempt left to torch although there is a kernel, each with the reason."""
    graph: bool | None = None
    """Whether the last attempt's steps replay a CUDA graph. None if none was asked for, or before the first step."""
    graph_reason: str | None = None
    """Why they do not although one was asked for; None in all other cases."""
    refused: str | None = None
    """Why a driver did not resume the run since its last attempt, see `bench.records.refusals`. None if none did."""
    straggler: str | None = None
    """Which rank of the last attempt is far slower than the others, and on which host, as a sentence; None if none is
    known to be."""
    started: float | None = None
    """When the first attempt started, in seconds since 1970; None before."""
    updated: float | None = None
    """When the run last wrote an event or its progress, in seconds since 1970; None before the first attempt."""
    duration_s: float = 0.0
    """Seconds of all attempts together, without the time between them."""
    other_commit: tuple[str, str] | None = None
    """The commits before and after the last resume under another one, of attempts that did not record their code
    otherwise. None if there was none."""

    @property
    def epochs_done(self) -> int:
        """The number of recorded epochs."""
        return 0 if self.epoch is None else self.epoch + 1


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Read all complete events of a run, in the order in which they were written.

    Args:
        folder: The run's record folder, which need not exist.

    Returns:
        The events with their metrics as floats; an empty list if there are none yet.
    """
    return [event for event, _ in events_from(folder, 0)]


def events_from(folder: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Read the complete events that begin at or after a byte offset in `events.jsonl`.

    A line inside the file that is no event, such as one that a crash left incomplete, is skipped. An incomplete line at
    the end of the file is left for the next call.

    Args:
        folder: The run's record folder, which need not exist.
        offset: 0, or an offset from an earlier call.

    Yields:
        An event, with its metrics as floats, and the byte offset of the next line.

    Raises:
        DamagedRecordError: A folder stands in place of the file, or it may not be read.
    """
    try:
        with naming_unreadable(folder / EVENTS):
            file = open(folder / EVENTS, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            if (event := _event(line)) is not None:
                yield event, offset


def _event(line: bytes) -> dict[str, Any] | None:
    """Read a line of `events.jsonl`. A torn line that a later attempt closed, or a damaged one, is None."""
    content = unsealed(line)
    if content is None:
        return None
    try:
        event = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not all(isinstance(event.get(name), kind) for name, kind in EVERY_EVENT.items()):
        return None
    if not 0 <= event["t"] < LATEST_T or not NEEDED.get(event["kind"], {"kind unknown"}) <= event.keys():
        return None
    if not all(isinstance(event[name], kind) for name, kind in KINDS.items() if name in event):
        return None
    if event["kind"] == schema.END and event["outcome"] not in OUTCOMES:
        return None
    if "metrics" in event:
        try:
            event["metrics"] = {name: float(value) for name, value in event["metrics"].items()}
        except (TypeError, ValueError, OverflowError):  # a damaged line, since records hold numbers
            return None
    return event


def is_held(folder: Path) -> bool:
    """Whether a live process holds the run's lock, on this host or on one whose `flock` reaches this host."""
    return is_locked(folder / LOCK)


def read_state(folder: Path) -> RunState:
    """Read the state of a run from its record folder. A run without events or without a folder is waiting."""
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
    graph: Mapping[str, Any] = next((event for event in reversed(attempts[-1]) if event["kind"] == schema.GRAPH), {})
    updated = last["t"] if progress is None else max(last["t"], progress["t"])
    duration = sum(seconds_of(attempt) for attempt in attempts)
    return RunState(
        key=folder.name,
        status=status,
        attempt=last["attempt"],
        epoch=epoch,
        epochs=next((event["epochs"] for event in reversed(events) if event["kind"] == schema.START), None),
        metrics={**metrics, **last["metrics"]} if ended else metrics,
        error=last["error"] if ended else None,
        reason=last.get("reason") if ended else None,
        progress=progress,
        gpu_absent=_gpu_absent(last if ended else progress),
        kernels_dropped=_kernels_dropped(events),
        graph=graph.get("graph"),
        graph_reason=graph.get("reason"),
        refused=_read_refusal(folder) if status in ("interrupted", "failed") else None,
        straggler=str(found) if (found := find_straggler(attempts[-1])) else None,
        started=events[0]["t"],
        updated=updated,
        duration_s=duration + (updated - last["t"]),
        other_commit=_other_commit(events),
    )


def _other_commit(events: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Find the last resume under another commit, where `computation` is not recorded, which has a hash of the code."""
    starts = [event for event in events if event["kind"] == schema.START]
    found = None
    for before, now in itertools.pairwise(starts):
        commits = tuple(str(start.get("environment", {}).get("commit", "")) for start in (before, now))
        if commits[0] != commits[1] and all(commits) and not (before.get("computation") and now.get("computation")):
            found = (commits[0], commits[1])
    return found


def _gpu_absent(content: Mapping[str, Any] | None) -> str | None:
    """Read `gpu_absent` from an end event or from the progress, which lacks it in records before 2026-11-26."""
    telemetry = (content or {}).get("telemetry", content) or {}
    reason: str | None = telemetry.get("gpu_absent")
    return None if reason == schema.NO_GPU_USED else reason


def _kernels_dropped(events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Read `kernels_dropped` from the last start event, which lacks it where no kernel was dropped."""
    start: Mapping[str, Any] = next((event for event in reversed(events) if event["kind"] == schema.START), {})
    return tuple(start.get("kernels_dropped", ()))


def _read_refusal(folder: Path) -> str | None:
    try:
        return (folder / REFUSED).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _read_progress(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / PROGRESS).read_bytes())
    except (FileNotFoundError, ValueError):  # a ValueError says that the file is damaged; the next heartbeat mends it
        return None
    if not isinstance(content, dict) or not {"t", "attempt", "epoch", "epochs", "step", "steps"} <= content.keys():
        return None
    return {name: float(value) if name in PROGRESS_VALUES else value for name, value in content.items()}


def attempts_of(events: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Group the events of a run by attempt, in their order. An attempt whose damaged start is skipped is one, too."""
    groups: list[list[dict[str, Any]]] = []
    for event in events:
        if event["kind"] == schema.START or not groups or event["attempt"] != groups[-1][-1]["attempt"]:
            groups.append([])
        groups[-1].append(event)
    return groups


def seconds_of(attempt: Sequence[Mapping[str, Any]]) -> float:
    """Compute the duration of an attempt in seconds.

    Args:
        attempt: The events of the attempt. If the last one is no end event, the duration up to its time is returned; 0
            if the clock was set back meanwhile.
    """
    last = attempt[-1]
    return float(last["duration_s"] if last["kind"] == schema.END else max(0.0, last["t"] - attempt[0]["t"]))


def find_straggler(events: Iterable[Mapping[str, Any]]) -> Straggler | None:
    """Find the slowest rank, by the mean over all epochs of the last attempt that recorded one.

    Args:
        events: The events of a run.

    Returns:
        The rank; None if it is not far slower than the median, or if the ranks were not recorded, as those of a single
        rank and of older records are not.
    """
    hosts: list[str] = []
    times: dict[int, dict[str, list[float]]] = {}
    for event in events:
        if event["kind"] == schema.START:
            hosts, times = event.get("hosts", []), {}
        elif event["kind"] == schema.EPOCH:
            for name, value in event["metrics"].items():
                if found := RANK_METRIC.fullmatch(name):
                    times.setdefault(int(found[1]), defaultdict(list))[found[2]].append(value)
    if len(times) < 2:
        return None
    means = {rank: {what: statistics.fmean(values) for what, values in own.items()} for rank, own in times.items()}
    totals = {rank: sum(own.values()) for rank, own in means.items()}
    slowest = max(totals, key=lambda rank: totals[rank])
    median = statistics.median_low(totals.values())
    if not median or totals[slowest] < SLOW * median:
        return None
    return Straggler(
        slowest,
        hosts[slowest] if slowest < len(hosts) else None,
        totals[slowest] / median,
        means[slowest].get(schema.RANK_FORWARD_MS, 0.0),
        means[slowest].get(schema.RANK_DATA_WAIT_MS, 0.0),
    )
