"""The first step of publishing: reads what a tracking store does not hold yet. Does not import MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.records.evaluations import evaluation_files
from bench.records.plan import experiment_folder, experiments, read_plan
from bench.records.states import EVENTS, PROGRESS, RunState, events_from, is_held, read_state, run_folder
from bench.tracking.cursors import ExperimentCursors
from bench.tracking.location import store_exists
from reproduce import schema

METRICS_PER_CHUNK = 9000
"""Metrics that are published between two updates of a cursor."""
STALE_S = 60.0
"""A run that no process holds counts as killed once it has been silent for so many seconds."""
ARTIFACTS = (
    schema.ARTIFACT_CONFIG,
    schema.ARTIFACT_ENVIRONMENT,
    schema.ARTIFACT_EVENTS,
    schema.ARTIFACT_TELEMETRY,
    schema.ARTIFACT_PREDICTIONS,
)

Event = Mapping[str, Any]


@dataclass(frozen=True)
class RunNews:
    """Events of a run that follow a cursor."""

    events: tuple[Event, ...]
    """At least one event."""
    end: int
    """Byte offset behind the last event."""
    config: Mapping[str, Any] | None
    """The run's configuration, if an attempt starts here and there is one."""
    state: RunState | None
    """The run's state, if an attempt starts or ends here."""
    artifacts: tuple[Path, ...]
    """Files of the run that are artifacts."""


@dataclass(frozen=True)
class KilledRun:
    """A run that was killed and so left no end event."""

    last_seen: float
    """When it last wrote something, in seconds since 1970."""
    state: RunState
    artifacts: tuple[Path, ...]


@dataclass(frozen=True)
class EvaluationNews:
    """An evaluation that is not published yet."""

    path: Path
    """Its `evaluation.json`."""
    content: Mapping[str, Any]
    runs: tuple[str, ...]
    """Keys of its runs that the experiment plans."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.parent.name


def read_run_news(folder: Path, offset: int) -> Iterator[RunNews]:
    """Read the events of a run after a byte offset, in chunks of about `METRICS_PER_CHUNK` metrics."""
    if not _has_bytes_after(folder / EVENTS, offset):
        return
    events: list[Event] = []
    metrics = 0
    end = offset
    for event, end in events_from(folder, offset):
        events.append(event)
        metrics += len(event.get("metrics", ()))
        if metrics >= METRICS_PER_CHUNK:
            yield _run_news(folder, events, end)
            events, metrics = [], 0
    if events:
        yield _run_news(folder, events, end)


def read_killed_run(folder: Path, *, final: bool) -> KilledRun | None:
    """Find out whether a run that last was running was killed; None if it was not, or may still be alive.

    Args:
        folder: the run's folder.
        final: whether a run that no process holds counts as killed at once and not after `STALE_S` of silence.
    """
    last_seen = max(path.stat().st_mtime for path in (folder / EVENTS, folder / PROGRESS) if path.exists())
    if is_held(folder) or not (final or time.time() - last_seen > STALE_S):
        return None
    return KilledRun(last_seen, read_state(folder), _artifacts(folder))


def read_evaluation_news(records: Path, keys: Iterable[str], cursors: ExperimentCursors) -> list[EvaluationNews]:
    """Read the evaluations of an experiment's runs that are not published yet.

    Args:
        records: folder of the records.
        keys: keys of the experiment's runs.
        cursors: what is published of the experiment.
    """
    planned = set(keys)
    news = []
    for path in evaluation_files(records):
        if cursors.has_evaluation(path.parent.name):
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        runs = tuple(key for model in content["models"] if (key := model.get("run")) in planned)
        if runs:
            news.append(EvaluationNews(path, content, runs))
    return news


def read_experiment(records: Path, name: str) -> Mapping[str, Any]:
    """Read the experiment file that is kept beside the plan; empty if there is none."""
    return _read_yaml(experiment_folder(records, name) / "experiment.yaml") or {}


def pending(records: Path, uri: str, names: Sequence[str] = ()) -> int:
    """Count the runs and evaluations that are not wholly published, without asking the store.

    Args:
        records: folder of the records.
        uri: the tracking store.
        names: experiments to look at; all if empty.
    """
    count = 0
    for name in names or experiments(records):
        cursors = ExperimentCursors(records, uri, name)
        known = cursors.experiment_id() is not None and store_exists(uri)
        plan = read_plan(records, name)
        for entry in plan:
            cursor = cursors.read(entry.key) if known else None
            count += any(True for _ in events_from(run_folder(records, entry.key), cursor.offset if cursor else 0))
        count += len(read_evaluation_news(records, (entry.key for entry in plan), cursors))
    return count


def _run_news(folder: Path, events: Sequence[Event], end: int) -> RunNews:
    kinds = {event["kind"] for event in events}
    return RunNews(
        events=tuple(events),
        end=end,
        config=_read_yaml(folder / schema.ARTIFACT_CONFIG) if schema.START in kinds else None,
        state=read_state(folder) if kinds - {schema.EPOCH} else None,
        artifacts=_artifacts(folder),
    )


def _artifacts(folder: Path) -> tuple[Path, ...]:
    return tuple(path for name in ARTIFACTS if (path := folder / name).is_file())


def _has_bytes_after(path: Path, offset: int) -> bool:
    try:
        return path.stat().st_size != offset
    except FileNotFoundError:
        return False


def _read_yaml(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] | None = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content
