"""Records in MLflow's terms: experiments, runs, metrics, tags, notes and artifacts of a tracking store.

Everything here may be repeated: a metric keeps the timestamp of its event, and a replayed row is skipped by MLflow; a
run is found by the tags of its key and experiment; a cursor is written after what it stands for. MLflow is imported
when a `Mirror` is made, after it has been told to be quiet.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from bench.records.evaluations import unpublished
from bench.records.record import PlanEntry, experiment_folder, experiments, read_plan, write_atomically
from bench.records.states import EVENTS, PROGRESS, events_from, is_held, read_state, run_folder
from bench.tracking.store import QUIET, Cursor, mirror_folder, read_cursor, write_cursor
from reproduce import schema

BATCH = 900  # MLflow takes 1000 metrics, params and tags a request
CHUNK = 9000  # metrics between two cursors
STALE_S = 60.0  # a run that nobody holds and that has been silent for so long is dead
NO_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}  # create_run must not retry

STATUS = {schema.FINISHED: "FINISHED", schema.FAILED: "FAILED", schema.INTERRUPTED: "KILLED"}
ARTIFACTS = (
    schema.ARTIFACT_CONFIG,
    schema.ARTIFACT_ENVIRONMENT,
    schema.ARTIFACT_EVENTS,
    schema.ARTIFACT_TELEMETRY,
    schema.ARTIFACT_PREDICTIONS,
)
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")

log = logging.getLogger("bench.tracking.publisher")


class Rejected(RuntimeError):  # noqa: N818 - what the store did
    """The store will not take this, however often it is tried; other runs may go on."""


@dataclass
class _News:
    """What a stretch of events changes in MLflow."""

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    """Name, value, milliseconds, step."""
    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    ended_ms: int | None = None


class Mirror:
    """Mirrors the records of one folder into one tracking store."""

    def __init__(self, records: Path, uri: str) -> None:
        os.environ.update(QUIET | NO_RETRIES)
        self.records = records
        self.uri = uri
        self.entities: Any = importlib.import_module("mlflow.entities")
        self.error: Any = importlib.import_module("mlflow.exceptions").MlflowException
        self.client: Any = importlib.import_module("mlflow").MlflowClient(tracking_uri=uri)
        self.client.search_experiments(max_results=1)  # creates the store
        self._ids: dict[str, str] = {}
        self._notes: dict[str, float] = {}
        self._cursors: dict[tuple[str, str], Cursor] = {}

    def publish(self, names: Sequence[str] = (), *, final: bool = False) -> bool:
        """One pass over the named experiments, or all; False if the store rejected something.

        `final`: runs that nobody holds are dead now, not after a while. Raises what MLflow raises if it is away.
        """
        complete = True
        for name in names or experiments(self.records):
            try:
                plan = read_plan(self.records, name)
                arms = list(dict.fromkeys(entry.arm for entry in plan))
                experiment_id = self._experiment(name, plan)
            except (Rejected, self.error) as error:
                complete = self._judge(name, error)
                continue
            for entry in plan:
                try:
                    self._publish_run(name, experiment_id, entry, COLOURS[arms.index(entry.arm) % len(COLOURS)])
                    self._bury(name, entry, final)
                except (Rejected, self.error) as error:
                    complete = self._judge(f"{name}, {entry.name} ({entry.key})", error)
            try:
                self._publish_evaluations(name)
            except (Rejected, self.error) as error:
                complete = self._judge(f"{name}, evaluations", error)
        return complete

    def _judge(self, where: str, error: Exception) -> bool:
        """False for what the store rejects; re-raises what may pass, such as a server that is away."""
        code = 400 if isinstance(error, Rejected) else error.get_http_status_code()  # type: ignore[attr-defined]
        if not 400 <= code < 500 or code in (401, 403, 408, 429):
            raise error
        log.error("%s: rejected: %s", where, error)
        return False

    # --- experiments ---

    def _experiment(self, name: str, plan: Sequence[PlanEntry]) -> str:
        if name not in self._ids:
            self._ids[name] = self._find_or_create(name)
        changed = (experiment_folder(self.records, name) / "plan.json").stat().st_mtime
        if self._notes.get(name) != changed:
            note = _experiment_note(self.records, name, plan)
            self.client.set_experiment_tag(self._ids[name], "mlflow.note.content", note)
            self._notes[name] = changed
        return self._ids[name]

    def _find_or_create(self, name: str) -> str:
        folder = mirror_folder(self.records, self.uri, name)
        folder.mkdir(parents=True, exist_ok=True)
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise Rejected(f"experiment {name} is deleted in MLflow; restore it or remove it with `mlflow gc`")
        if found is None:
            for cursor in folder.glob("*.json"):  # they speak of a store that is gone
                cursor.unlink()
            embedded = self.uri.startswith("sqlite:")
            location = (self.records / "mlartifacts" / name).as_uri() if embedded else None
            identity = str(self.client.create_experiment(name, artifact_location=location))
        else:
            identity = str(found.experiment_id)
        write_atomically(folder / "experiment_id", identity.encode())
        return identity

    # --- runs ---

    def _publish_run(self, name: str, experiment_id: str, entry: PlanEntry, colour: str) -> None:
        cursor = self._cursor(name, entry.key)
        folder = run_folder(self.records, entry.key)
        try:
            if (folder / EVENTS).stat().st_size == (cursor.offset if cursor else 0):
                return
        except FileNotFoundError:
            return
        news = _News()
        for event, offset in events_from(folder, cursor.offset if cursor else 0):
            if cursor is None:
                cursor = self._create(name, experiment_id, entry, event, colour)
            if event["kind"] == schema.START and not cursor.described:
                cursor = self._describe(cursor, run_folder(self.records, entry.key))
            cursor = replace(cursor, offset=offset)
            if event["kind"] == schema.START:
                _started(news, event, entry)
            elif event["kind"] == schema.EPOCH:
                news.status = "RUNNING"
                cursor = replace(cursor, epoch=event["epoch"])
                _measured(news, event["metrics"], event["t"], event["epoch"])
            else:
                _ended(news, event, cursor.epoch)
            if len(news.metrics) >= CHUNK:
                cursor, news = self._apply(name, entry, cursor, news), _News()
        if cursor is not None:
            self._apply(name, entry, cursor, news)

    def _publish_evaluations(self, name: str) -> None:
        """Each evaluation as an artifact of the runs in it; that of one run alone as metrics of the run, too."""
        for evaluation in unpublished(self.records, name, mirror_folder(self.records, self.uri, name)):
            for key in evaluation.runs:
                cursor = self._cursor(name, key)
                if cursor is None:
                    break  # the run itself comes first
                if evaluation.alone:
                    metrics = [self.entities.Metric(*metric) for metric in evaluation.metrics]
                    self.client.log_batch(cursor.run_id, metrics=metrics)
                self.client.log_artifact(cursor.run_id, str(evaluation.path), f"evaluations/{evaluation.name}")
            else:
                write_atomically(evaluation.marker, b"{}")

    def _cursor(self, name: str, key: str) -> Cursor | None:
        if (name, key) not in self._cursors:
            found = read_cursor(mirror_folder(self.records, self.uri, name), key)
            if found is None:
                return None
            self._cursors[name, key] = found
        return self._cursors[name, key]

    def _create(self, name: str, experiment_id: str, entry: PlanEntry, event: Mapping[str, Any], colour: str) -> Cursor:
        """The one MLflow run of a key in an experiment. A create that timed out may have worked: the oldest is kept."""
        run = self._search(name, experiment_id, entry.key)
        if run is None:
            tags = {
                schema.TAG_KEY: entry.key,
                schema.TAG_EXPERIMENT: name,
                schema.TAG_ARM: entry.arm,
                schema.TAG_SEED: str(entry.seed),
                "mlflow.source.name": f"deeper run {name}",
                "mlflow.source.type": "LOCAL",
                "mlflow.runColor": colour,
            }
            self.client.create_run(experiment_id, start_time=_ms(event["t"]), tags=tags, run_name=entry.name)
            run = self._search(name, experiment_id, entry.key)
        return Cursor(run_id=str(run.info.run_id))

    def _describe(self, cursor: Cursor, folder: Path) -> Cursor:
        """Params cannot change once they are there; facts that may are tags."""
        config = _config(folder)
        if not config:
            return cursor
        if not self.client.get_run(cursor.run_id).data.params:
            params = [self.entities.Param(key, value) for key, value in _flatten(config)]
            self.client.log_batch(cursor.run_id, params=params)
            self.client.log_inputs(cursor.run_id, datasets=[self._dataset(config)])
            tags = {schema.TAG_DATA: Path(config["data"]["path"]).name, schema.TAG_DATA_HASH: config["data_hash"]}
            self.client.log_batch(cursor.run_id, tags=[self.entities.RunTag(*tag) for tag in tags.items()])
        return replace(cursor, described=True)

    def _search(self, name: str, experiment_id: str, key: str) -> Any:
        runs = self.client.search_runs(
            [experiment_id],
            filter_string=f"tags.`{schema.TAG_KEY}` = '{key}' and tags.`{schema.TAG_EXPERIMENT}` = '{name}'",
        )
        return min(runs, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _dataset(self, config: Mapping[str, Any]) -> Any:
        dataset = self.entities.Dataset(
            name=Path(config["data"]["path"]).name,
            digest=config["data_hash"][:36],
            source_type="local",
            source=json.dumps({"uri": config["data"]["path"]}),
        )
        return self.entities.DatasetInput(dataset, tags=[self.entities.InputTag("mlflow.data.context", "training")])

    def _apply(self, name: str, entry: PlanEntry, cursor: Cursor, news: _News) -> Cursor:
        """Bring news to MLflow, each step repeatable, and move the cursor at last."""
        for start in range(0, len(news.metrics), BATCH):
            batch = [self.entities.Metric(*metric) for metric in news.metrics[start : start + BATCH]]
            self.client.log_batch(cursor.run_id, metrics=batch)
        folder = run_folder(self.records, entry.key)
        if news.tags:
            tags = {**news.tags, "mlflow.note.content": _run_note(folder, name, entry)}
            self.client.log_batch(cursor.run_id, tags=[self.entities.RunTag(key, value) for key, value in tags.items()])
        if news.ended_ms is not None:
            for artifact in ARTIFACTS:
                if (folder / artifact).is_file():
                    self.client.log_artifact(cursor.run_id, str(folder / artifact))
        if news.status == "RUNNING" and cursor.status != "RUNNING":
            self.client.update_run(cursor.run_id, status="RUNNING")
        elif news.status not in (None, "RUNNING"):
            self.client.set_terminated(cursor.run_id, status=news.status, end_time=news.ended_ms)
        cursor = replace(cursor, status=news.status or cursor.status)
        write_cursor(mirror_folder(self.records, self.uri, name), entry.key, cursor)
        self._cursors[name, entry.key] = cursor
        return cursor

    def _bury(self, name: str, entry: PlanEntry, final: bool) -> None:
        """A run that was killed leaves no end event: tell that it does not run any more."""
        cursor = self._cursor(name, entry.key)
        if cursor is None or cursor.status != "RUNNING":
            return
        folder = run_folder(self.records, entry.key)
        seen = max(path.stat().st_mtime for path in (folder / EVENTS, folder / PROGRESS) if path.exists())
        if is_held(folder) or not (final or time.time() - seen > STALE_S):
            return
        tags = {schema.TAG_OUTCOME: schema.INTERRUPTED, schema.TAG_ERROR: "killed; it goes on when it is run again"}
        self._apply(name, entry, cursor, _News(tags=tags, status="KILLED", ended_ms=_ms(seen)))


# --- events to MLflow's terms --------------------------------------------------------------------------


def _started(news: _News, event: Mapping[str, Any], entry: PlanEntry) -> None:
    environment = event["environment"]
    news.status, news.ended_ms = "RUNNING", None
    news.tags |= {schema.TAG_ATTEMPT: str(event["attempt"]), schema.TAG_OUTCOME: "running"}
    if event["attempt"] > 1:
        news.tags[schema.TAG_ERROR] = "-"  # of the attempt before
    if environment:
        machine = environment["machine"]
        news.tags |= {
            schema.TAG_HOST: machine["hostname"],
            schema.TAG_GPU: _devices(event, environment),
            **{f"{schema.TAG_ENVIRONMENT}{name}": version for name, version in environment["packages"].items()},
            f"{schema.TAG_ENVIRONMENT}python": machine["python"],
            f"{schema.TAG_ENVIRONMENT}cpu": f"{machine['cpu']}, {machine['cores']} cores",
        }
        if "commit" in environment:
            news.tags |= {schema.TAG_COMMIT: environment["commit"], schema.TAG_DIRTY: str(environment["dirty"]).lower()}
    if event["attempt"] == 1:
        _measured(news, entry.costs, event["t"], 0)


def _ended(news: _News, event: Mapping[str, Any], epoch: int) -> None:
    news.status, news.ended_ms = STATUS[event["outcome"]], _ms(event["t"])
    news.tags[schema.TAG_OUTCOME] = event["outcome"]
    if event["error"]:
        news.tags[schema.TAG_ERROR] = event["error"][:5000]
    absent = (event["telemetry"] or {}).get("gpu_absent")
    news.tags[schema.TAG_GPU_ABSENT] = absent if absent and absent != schema.NO_GPU_USED else "-"
    _measured(news, event["metrics"], event["t"], epoch)


def _measured(news: _News, metrics: Mapping[str, float], seconds: float, step: int) -> None:
    news.metrics += [(name, value, _ms(seconds), step) for name, value in metrics.items()]


def _devices(start: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    names = sorted({gpu["name"] for gpu in environment["gpus"]})
    if not names:
        return str(environment["gpu_absent"])
    if not start["device"].startswith("cuda"):
        return f"not used ({', '.join(names)})"
    share = start.get("resources", {}).get("gpus_per_worker", 1)
    return ", ".join(names) + (f", {share:g} of one a run" if share < 1 else "")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _config(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = yaml.safe_load((folder / schema.ARTIFACT_CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:  # it failed before it began
        return {}
    return content


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _run_note(folder: Path, experiment: str, entry: PlanEntry) -> str:
    state = read_state(folder)
    rows = [("outcome", state.status), ("attempts", str(state.attempt))]
    for title, name in (("top-1", schema.FINAL_TOP1), ("top-5", schema.FINAL_TOP5)):
        if name in state.metrics:
            rows.append((title, f"{state.metrics[name]:.2%}"))
    rows.append(("duration", f"{state.duration_s / 60:.1f} min"))
    if state.error:
        rows.append(("error", " ".join(state.error.split())[:500].replace("|", "\\|")))
    table = "\n".join(f"| {title} | {value} |" for title, value in rows)
    title = f"**{entry.arm}**, seed {entry.seed}, of experiment *{experiment}* (key `{entry.key}`)"
    return f"{title}\n\n| | |\n|---|---|\n{table}"


def _experiment_note(records: Path, name: str, plan: Sequence[PlanEntry]) -> str:
    content: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        content = yaml.safe_load((experiment_folder(records, name) / "experiment.yaml").read_text(encoding="utf-8"))
    arms = {entry.arm: entry for entry in plan}
    lines = [f"## {name}", content.get("description") or "", "", "| arm | what | runs | parameters | multiply-adds |"]
    lines.append("|---|---|---|---|---|")
    for arm, entry in arms.items():
        what = ((content.get("arms") or {}).get(arm) or {}).get("description", "")
        runs = sum(other.arm == arm for other in plan)
        costs = [entry.costs.get(cost) for cost in (schema.COST_PARAMETERS, schema.COST_MACS)]
        parameters, macs = ("-" if cost is None else f"{cost / 1e6:,.2f} M" for cost in costs)
        lines.append(f"| {arm} | {what} | {runs} | {parameters} | {macs} |")
    return "\n".join(lines)[:19000]
