"""Makes the first step of publishing: reads what a tracking store does not hold yet. Does not import MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.evaluations import evaluation_files, read_evaluation
from bench.records.plan import EXPERIMENT, experiment_folder, experiments, planned_under, read_plans
from bench.records.reading import DamagedRecordError, read_mapping
from bench.records.states import EVENTS, PROGRESS, RunState, events_from, is_held, read_state, run_folder
from bench.tracking.cursors import ExperimentCursors
from bench.tracking.location import store_exists
from bench.tracking.pages import FORMAT
from reproduce import schema

METRICS_PER_CHUNK = 9000
"""Number of metric values after which `read_run_news` ends a chunk, so that the cursor is updated."""
STALE_S = 60.0
"""Seconds without a write after which a run that no process holds is taken to be killed."""
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
    """Consecutive events of a run that are not published yet."""

    events: tuple[Event, ...]
    """At least one event."""
    end: int
    """The byte offset in events.jsonl at which the next event begins."""
    config: Mapping[str, Any] | None
    """The run's configuration. None if there is no start event among `events`, or the run has no configuration."""
    state: RunState | None
    """The run's present state. None if all `events` are epochs."""
    artifacts: tuple[Path, ...]
    """The existing files of the run that are published as artifacts."""


@dataclass(frozen=True)
class KilledRun:
    """A run whose last attempt was killed before it could write an end event."""

    last_seen: float
    """When the run last wrote to its events or its progress, in seconds since 1970."""
    state: RunState
    """The run's present state."""
    artifacts: tuple[Path, ...]
    """The existing files of the run that are published as artifacts."""


@dataclass(frozen=True)
class EvaluationNews:
    """An evaluation that is not published yet."""

    path: Path
    """The path of `evaluation.json`."""
    content: Mapping[str, Any]
    """The content of `evaluation.json`."""
    runs: tuple[str, ...]
    """The keys of those evaluated runs that belong to the experiment."""

    @property
    def name(self) -> str:
        """The name of the evaluation's folder."""
        return self.path.parent.name


def read_run_news(folder: Path, offset: int) -> Iterator[RunNews]:
    """Read the complete events of a run that follow a byte offset, in chunks.

    The iterator is lazy: it reads while it is consumed.

    Args:
        folder: The run's folder.
        offset: The byte offset in events.jsonl behind the last published event.

    Yields:
        Chunks in the order of the events. A chunk ends with the event that brings it to `METRICS_PER_CHUNK` metric
        values, or with the last event of the file.
    """
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
    """Read a run without an end event, provided that its process is dead.

    The caller knows from the run's events that its last attempt has not ended; this function does not check that.

    Args:
        folder: The run's folder, which holds an events.jsonl.
        final: Whether a run that no process holds is taken to be killed at once. If False, it must also have written
            nothing for `STALE_S` seconds.

    Returns:
        The killed run, or None if it is alive or may still be.
    """
    last_seen = max(path.stat().st_mtime for path in (folder / EVENTS, folder / PROGRESS) if path.exists())
    if is_held(folder) or not (final or time.time() - last_seen > STALE_S):
        return None
    return KilledRun(last_seen, read_state(folder), _artifacts(folder))


def read_evaluation_news(records: Path, keys: Iterable[str], cursors: ExperimentCursors) -> list[EvaluationNews]:
    """Read the complete, unpublished evaluations of at least one of an experiment's runs.

    Args:
        records: The folder of the records.
        keys: The keys of the experiment's runs.
        cursors: The cursors of the experiment, which know the published evaluations.
    """
    planned = set(keys)
    news = []
    for path in evaluation_files(records):
        if cursors.has_evaluation(path.parent.name):
            continue
        content = read_evaluation(path.parent)
        if content is None:  # it has just been removed
            continue
        runs = tuple(key for model in content["models"] if (key := model.get("run")) in planned)
        if runs:
            news.append(EvaluationNews(path, content, runs))
    return news


def read_experiment(records: Path, name: str) -> Mapping[str, Any]:
    """Read `experiment.yaml` beside the plan of an experiment; an empty mapping if there is no such file."""
    return _read_yaml(experiment_folder(records, name) / EXPERIMENT) or {}


def pending(records: Path, uri: str, names: Sequence[str] = ()) -> int:
    """Count the runs and evaluations with unpublished content and the unpublished plans, without contacting the store.

    A store whose notes and views an older version published counts as one more.

    If the SQLite file of the store is gone, every run with events counts.

    Args:
        records: The folder of the records.
        uri: The URI of the tracking store.
        names: The names of the experiments to look at. Empty means all experiments in the records.

    Raises:
        SpecError: An experiment of `names` was never planned in these records.
    """
    count = 0
    for name in names or experiments(records):
        try:
            count += _pending_of(records, uri, name)
        except DamagedRecordError:  # what is damaged cannot be published; the log of the publisher names it
            count += 1
    return count


def _pending_of(records: Path, uri: str, name: str) -> int:
    count = 0
    cursors = ExperimentCursors(records, uri, name)
    known = cursors.experiment_id() is not None and store_exists(uri)
    plans = read_plans(records, name)
    keys = planned_under(plans).keys()
    for key in keys:
        cursor = cursors.read(key) if known else None
        count += any(True for _ in events_from(run_folder(records, key), cursor.offset if cursor else 0))
    count += len(read_evaluation_news(records, keys, cursors))
    published = cursors.plan()
    return count + (known and published is not None and (published, cursors.pages()) != (plans[0].hash, FORMAT))


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
        return read_mapping(path)
    except FileNotFoundError:
        return None
