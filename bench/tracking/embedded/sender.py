"""Sends runs to the embedded store by SQL, with the rows that MLflow's client would have written.

Only the SQLite file that the publisher itself created beside its records is written to like this, and only if MLflow's
schema has a version that this was tested with. Everything else goes through `bench.tracking.sending.Sender`.
"""

from __future__ import annotations

import logging
import math
import shutil
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bench.tracking.embedded.creating import create_whole
from bench.tracking.location import embedded_uri, sqlite_file
from bench.tracking.sending import RejectedError, Sender, deleted_experiment, rejections
from bench.tracking.shaping import RUNNING, Metric, NewRun, RunDescription, RunUpdate

TESTED_SCHEMAS = ("dc11669786a5",)
"""Versions of MLflow's schema, as its table `alembic_version` holds them, that are written like this: that of 3.17."""
LONGEST_EXPERIMENT_TAG = 20_000
"""The most characters of an experiment's tag that MLflow takes. Those of a run are cut by it."""
RUN_NAME = "mlflow.runName"
"""The tag in which MLflow repeats the name of a run."""
BUSY_TIMEOUT_S = 30.0
"""Longest wait for another process that writes to the store."""
LARGEST = sys.float_info.max

log = logging.getLogger("bench.tracking.publisher")


def open_sender(records: Path, uri: str) -> Sender:
    """Connect to a tracking store, by SQL if it is the embedded store of these records.

    An SQLite store that does not exist is created.

    Args:
        records: The folder of the records, as an absolute path.
        uri: The URI of the tracking store.

    Returns:
        The fastest sender that the store can be filled by. If the schema of the embedded store is unknown, that is
        MLflow's client, and the log says so.
    """
    file = sqlite_file(uri)
    if file is not None:
        create_whole(file)
    if file is None or uri != embedded_uri(records):
        return Sender(uri)
    sender = EmbeddedSender(uri, file)
    if sender.schema in TESTED_SCHEMAS:
        return sender
    log.warning("%s: published through MLflow, which is slower: its schema has the version %s", file, sender.schema)
    sender.close()
    return Sender(uri)


class EmbeddedSender(Sender):
    """A connection to an SQLite store that writes by SQL, one transaction for each call.

    MLflow is imported only by the methods that validate params and metrics, or that are those of `Sender`.

    Args:
        uri: The URI of the tracking store.
        file: The path of its SQLite file, which exists.
    """

    def __init__(self, uri: str, file: Path) -> None:  # without `Sender`'s, which asks the client
        self._uri = uri
        self._database = sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        self._locations: dict[str, str] = {}
        self._valid_names: set[str] = set()

    @property
    def schema(self) -> str | None:
        """The version of MLflow's schema."""
        found = self._database.execute("SELECT version_num FROM alembic_version").fetchall()
        return str(found[0][0]) if len(found) == 1 else None

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def find_experiment(self, name: str) -> str | None:
        """See `Sender`."""
        found = self._database.execute(
            "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ? AND workspace = 'default'", (name,)
        ).fetchone()
        if found is None:
            return None
        if found[1] == "deleted":
            raise RejectedError(deleted_experiment(name))
        return str(found[0])

    def experiment_tags(self, experiment_id: str) -> dict[str, str]:
        """See `Sender`."""
        return dict(
            self._database.execute(
                "SELECT key, value FROM experiment_tags WHERE experiment_id = ?", (int(experiment_id),)
            )
        )

    def create_run(self, experiment_id: str, new: NewRun) -> str:
        """See `Sender`."""
        return self.find_or_create_run(experiment_id, new)

    def find_or_create_run(self, experiment_id: str, new: NewRun) -> str:
        """See `Sender`."""
        joins = "".join(
            f" JOIN tags AS t{i} ON t{i}.run_uuid = runs.run_uuid AND t{i}.key = ? AND t{i}.value = ?"
            for i in range(len(new.identity))
        )
        identity: list[str | int] = [text for name in new.identity for text in (name, new.tags[name])]
        started = "AND start_time = ? " if new.is_training else ""
        with self._transaction() as database:
            found = database.execute(
                f"SELECT runs.run_uuid FROM runs{joins} WHERE experiment_id = ? {started}"
                "AND lifecycle_stage = 'active' ORDER BY start_time, runs.run_uuid LIMIT 1",
                (*identity, int(experiment_id), *([new.start_ms] if new.is_training else [])),
            ).fetchone()
            if found is not None:
                return str(found[0])
            run_id = uuid.uuid4().hex
            row = {
                "run_uuid": run_id,
                "name": new.name,
                "source_type": "UNKNOWN",
                "source_name": "",
                "entry_point_name": "",
                "source_version": "",
                "user_id": "unknown",
                "status": RUNNING,
                "start_time": new.start_ms,
                "lifecycle_stage": "active",
                "artifact_uri": f"{self._location(experiment_id).rstrip('/')}/{run_id}/artifacts",
                "experiment_id": int(experiment_id),
            }
            _insert(database, "runs", [row])
            _write_tags(database, run_id, {**new.tags, RUN_NAME: new.name})
        return run_id

    @rejections()
    def describe_run(
        self, run_id: str, description: RunDescription, update: RunUpdate, *, is_new: bool = False
    ) -> RunUpdate:
        """See `Sender`. Params and tags are written at once, and the update is returned as it is."""
        from mlflow.entities import Param

        params, tags = self._validated([Param(*param) for param in description.params], description.tags)
        with self._transaction() as database:
            experiment_id, _ = _active_run(database, run_id)
            if database.execute("SELECT 1 FROM params WHERE run_uuid = ?", (run_id,)).fetchone():
                return update
            dataset_id = _find_or_write_dataset(database, experiment_id, description)
            edge = {
                "source_type": "DATASET",
                "source_id": dataset_id,
                "destination_type": "RUN",
                "destination_id": run_id,
            }
            input_id = uuid.uuid4().hex
            _insert(database, "inputs", [{"input_uuid": input_id, **edge}])
            _insert(
                database,
                "input_tags",
                [{"input_uuid": input_id, "name": "mlflow.data.context", "value": "training"}],
            )
            _write_tags(database, run_id, tags)
            _insert(database, "params", [{"key": p.key, "value": p.value, "run_uuid": run_id} for p in params])
        return update

    @rejections()
    def update_run(self, run_id: str, update: RunUpdate, *, status: str) -> None:
        """See `Sender`. The artifacts are copied first, and everything else is written at once."""
        self._validate_metrics(update.metrics)
        _, tags = self._validated((), update.tags)
        for path in update.artifacts:
            self._copy_artifact(run_id, path)
        with self._transaction() as database:
            _active_run(database, run_id)
            _write_metrics(database, run_id, update.metrics)
            _write_tags(database, run_id, tags)
            if update.status == RUNNING and status != RUNNING:
                database.execute("UPDATE runs SET status = ? WHERE run_uuid = ?", (RUNNING, run_id))
            elif update.status not in (None, RUNNING):
                ended_ms = update.ended_ms or round(time.time() * 1000)
                database.execute(
                    "UPDATE runs SET status = ?, end_time = ? WHERE run_uuid = ?", (update.status, ended_ms, run_id)
                )

    @rejections()
    def add_evaluation(self, run_id: str, metrics: Sequence[Metric], artifact: Path, folder: str) -> None:
        """See `Sender`."""
        self._validate_metrics(metrics)
        self._copy_artifact(run_id, artifact, folder)
        with self._transaction() as database:
            _active_run(database, run_id)
            _write_metrics(database, run_id, metrics)

    def move_end(self, run_id: str, status: str, ended_ms: int) -> None:
        """See `Sender`."""
        with self._transaction() as database:
            _active_run(database, run_id)
            database.execute("UPDATE runs SET status = ?, end_time = ? WHERE run_uuid = ?", (status, ended_ms, run_id))

    def _set_experiment_tags(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            if len(value) > LONGEST_EXPERIMENT_TAG:
                raise RejectedError(
                    f"the tag {name} has {len(value)} characters; MLflow takes {LONGEST_EXPERIMENT_TAG}"
                )
        with self._transaction() as database:
            database.executemany(
                "INSERT INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?) "
                "ON CONFLICT (key, experiment_id) DO UPDATE SET value = excluded.value",
                [(name, value, int(experiment_id)) for name, value in tags.items()],
            )

    def _copy_artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        """Copy a file to a run's artifacts, through MLflow where these are not in a folder of this machine."""
        _, uri = _active_run(self._database, run_id)
        parts = urlsplit(uri)
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            place = Path(unquote(parts.path)) / folder
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)
        else:
            self.client.log_artifact(run_id, str(path), folder or None)

    def _validate_metrics(self, metrics: Sequence[Metric]) -> None:
        """Raise MLflow's error for a metric that it rejects, which depends on the name alone."""
        for metric in metrics:
            if metric.name not in self._valid_names:
                from mlflow.utils.validation import _validate_metric

                _validate_metric(metric.name, metric.value, metric.timestamp_ms, metric.step)
                self._valid_names.add(metric.name)

    def _validated(self, params: Sequence[Any], tags: Mapping[str, str]) -> tuple[Sequence[Any], dict[str, str]]:
        """Return params and tags as MLflow stores them, or raise its error for those that it rejects."""
        from mlflow.entities import RunTag
        from mlflow.utils.validation import _validate_batch_log_data

        _, params, stored = _validate_batch_log_data([], params, [RunTag(*tag) for tag in tags.items()])
        return params, {tag.key: tag.value for tag in stored}

    def _location(self, experiment_id: str) -> str:
        if experiment_id not in self._locations:
            self._locations[experiment_id] = self._database.execute(
                "SELECT artifact_location FROM experiments WHERE experiment_id = ?", (int(experiment_id),)
            ).fetchone()[0]
        return self._locations[experiment_id]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
        except BaseException:
            if self._database.in_transaction:  # SQLite itself has rolled it back on a full disk
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _active_run(database: sqlite3.Connection, run_id: str) -> tuple[int, str]:
    """Return the experiment of a run and the URI of its artifacts.

    Raises:
        RejectedError: The run is deleted, or there is none.
    """
    found = database.execute(
        "SELECT experiment_id, artifact_uri, lifecycle_stage FROM runs WHERE run_uuid = ?", (run_id,)
    ).fetchone()
    if found is None:
        raise RejectedError(f"run {run_id} is not in the store")
    if found[2] != "active":
        raise RejectedError(f"run {run_id} is deleted in MLflow; restore it or remove it with `mlflow gc`")
    return found[0], found[1]


def _insert(database: sqlite3.Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        columns, places = ", ".join(rows[0]), ", ".join(f":{column}" for column in rows[0])
        database.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)


def _write_tags(database: sqlite3.Connection, run_id: str, tags: Mapping[str, str]) -> None:
    database.executemany(
        "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?) "
        "ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value",
        [(key, value, run_id) for key, value in tags.items()],
    )


def _find_or_write_dataset(database: sqlite3.Connection, experiment_id: int, description: RunDescription) -> str:
    identity = {
        "experiment_id": experiment_id,
        "name": description.dataset_name,
        "digest": description.dataset_digest,
    }
    found = database.execute(
        "SELECT dataset_uuid FROM datasets WHERE experiment_id = :experiment_id AND name = :name AND digest = :digest",
        identity,
    ).fetchone()
    if found is not None:
        return str(found[0])
    dataset_id = uuid.uuid4().hex
    source = {"dataset_source_type": "local", "dataset_source": description.dataset_source}
    _insert(database, "datasets", [{"dataset_uuid": dataset_id, **identity, **source}])
    return dataset_id


def _write_metrics(database: sqlite3.Connection, run_id: str, metrics: Sequence[Metric]) -> None:
    """Write metrics that the store does not hold yet, and the latest value of each."""
    rows = [(name, *_stored(value), timestamp, step, run_id) for name, value, timestamp, step in metrics]
    database.executemany(
        "INSERT INTO metrics (key, value, is_nan, timestamp, step, run_uuid) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (key, timestamp, step, run_uuid, value, is_nan) DO NOTHING",
        rows,
    )
    latest: dict[str, tuple[Any, ...]] = {}
    for row in rows:
        name, value, _, timestamp, step, _ = row
        before = latest.get(name)
        if before is None or (step, timestamp, value) > (before[4], before[3], before[1]):
            latest[name] = row
    database.executemany(
        "INSERT INTO latest_metrics (key, value, is_nan, timestamp, step, run_uuid) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (key, run_uuid) DO UPDATE "
        "SET value = excluded.value, is_nan = excluded.is_nan, timestamp = excluded.timestamp, step = excluded.step "
        "WHERE (excluded.step, excluded.timestamp, excluded.value) > (step, timestamp, value)",
        latest.values(),
    )


def _stored(value: float) -> tuple[float, int]:
    """Return a value as MLflow stores it, and whether it is NaN. SQL holds neither infinity nor NaN."""
    if math.isnan(value):
        return 0.0, 1
    return min(max(float(value), -LARGEST), LARGEST), 0
