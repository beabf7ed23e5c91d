"""The embedded store holds the rows that MLflow's client would have written, whatever is killed or repeated."""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.records.plan import write_plan
from bench.records.record import Record
from bench.records.states import run_folder
from bench.tracking.embedded import sender as embedded
from bench.tracking.embedded.sender import EmbeddedSender
from bench.tracking.publishing import Publisher
from bench.tracking.sending import RejectedError, Sender
from bench.tracking.shaping import Metric, NewRun, RunUpdate
from reproduce import schema
from reproduce.spec import PlannedRun

Planned = Callable[..., PlannedRun]
Begin = Callable[[Path, PlannedRun], Record]


@pytest.fixture
def records(tmp_path: Path, store: Path) -> Path:
    shutil.copy(store, tmp_path / "mlflow.db")
    shutil.copy(store, tmp_path / "by_client.db")
    return tmp_path


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


def tables(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, sorted, with names in place of random ids, and without the times of creation."""
    with database(path) as connection:
        names = {run: f"<{name}>" for run, name in connection.execute("SELECT run_uuid, name FROM runs")}
        names |= {data: f"<{name}>" for data, name in connection.execute("SELECT dataset_uuid, name FROM datasets")}
        edges = connection.execute("SELECT input_uuid, destination_id FROM inputs").fetchall()
        names |= {edge: f"<input of {names[run]}>" for edge, run in edges}

        def named(value: Any) -> Any:
            if not isinstance(value, str):
                return value
            for identity, name in names.items():
                value = value.replace(identity, name)
            return value

        found = {}
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            cursor = connection.execute(f'SELECT * FROM "{table}"')
            columns = [column for (column, *_) in cursor.description]
            kept = [
                index for index, column in enumerate(columns) if column not in ("creation_time", "last_update_time")
            ]
            found[table] = sorted((tuple(named(row[index]) for index in kept) for row in cursor), key=repr)
    return found


def record_everything(records: Path, planned: Planned, begin: Begin, publish: Callable[[], object]) -> None:
    """Record runs of all outcomes, and publish in between, so that cursors, attempts and statuses change."""
    whole, killed, broken, none = (planned(seed) for seed in range(4))
    costs = {run.key: {schema.COST_PARAMETERS: 7e6, schema.COST_MACS: 1e9} for run in (whole, killed, broken)}
    write_plan(records, "first", [whole, killed, broken, none], costs)
    record = begin(records, whole)
    record.epoch(0, {schema.VAL_TOP1: 0.5, schema.TRAIN_LOSS: math.nan, "gradient/stem": math.inf})
    publish()
    record.epoch(1, {schema.VAL_TOP1: 0.25, schema.TRAIN_LOSS: 1.5, "gradient/stem": -math.inf})
    record.predictions({"index": np.arange(2), "label": np.arange(2)})
    record.end("finished", metrics={schema.FINAL_TOP1: 0.25})
    record = begin(records, killed)
    record.epoch(0, {schema.VAL_TOP1: 0.125})
    record.close()
    begin(records, broken).end("failed", error="loss is nan")
    Record(run_folder(records, none.key)).abandon("no worker came up")
    publish()
    record = begin(records, killed)
    record.epoch(1, {schema.VAL_TOP1: 0.375})
    record.end("finished", metrics={schema.FINAL_TOP1: 0.375})
    publish()


def test_every_table_is_as_the_client_fills_it(records: Path, planned: Planned, begin: Begin) -> None:
    direct = Publisher(records, f"sqlite:///{records}/mlflow.db")
    client = Publisher(records, f"sqlite:///{records}/by_client.db")
    assert (type(direct.sender), type(client.sender)) == (EmbeddedSender, Sender)

    def publish() -> None:
        assert direct.publish(final=True)
        assert client.publish(final=True)

    record_everything(records, planned, begin, publish)
    by_sql, by_client = tables(records / "mlflow.db"), tables(records / "by_client.db")
    assert {table for table, rows in by_sql.items() if rows} >= {
        *("experiments", "runs", "tags", "params", "metrics", "latest_metrics", "datasets", "inputs", "input_tags")
    }
    for table, rows in by_client.items():
        assert by_sql[table] == rows, table


def test_a_kill_between_insertion_and_cursor_repeats_nothing(records: Path, planned: Planned, begin: Begin) -> None:
    uri = f"sqlite:///{records}/mlflow.db"
    record_everything(records, planned, begin, lambda: Publisher(records, uri).publish(final=True))
    before = tables(records / "mlflow.db")
    shutil.rmtree(records / "publisher")
    Publisher(records, uri).publish(final=True)
    after = tables(records / "mlflow.db")
    del before["experiment_tags"], after["experiment_tags"]  # whose tag names the publisher's folder, which is new
    assert after == before


def test_a_transaction_that_fails_leaves_nothing(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = EmbeddedSender(f"sqlite:///{records}/mlflow.db", records / "mlflow.db")
    new = NewRun("a s0", 1, {schema.TAG_KEY: "k", schema.TAG_EXPERIMENT: "e"})
    run = sender.find_or_create_run(sender.create_experiment("e", records.as_uri()), new)
    update = RunUpdate(0, metrics=(Metric("a", 1.0, 0, 0),), tags={"t": "1"}, status="FINISHED", ended_ms=1)
    before = tables(records / "mlflow.db")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_write_tags", killed)
        with pytest.raises(KeyboardInterrupt):
            sender.update_run(run, update, status="RUNNING")
    assert tables(records / "mlflow.db") == before
    sender.update_run(run, update, status="RUNNING")
    assert sender.client.get_run(run).info.status == "FINISHED"


def test_a_run_deleted_in_mlflow_is_rejected(records: Path) -> None:
    sender = EmbeddedSender(f"sqlite:///{records}/mlflow.db", records / "mlflow.db")
    new = NewRun("a s0", 1, {schema.TAG_KEY: "k", schema.TAG_EXPERIMENT: "e"})
    run = sender.find_or_create_run(sender.create_experiment("e", records.as_uri()), new)
    sender.client.delete_run(run)
    with pytest.raises(RejectedError, match="is deleted in MLflow"):
        sender.update_run(run, RunUpdate(0), status="RUNNING")


def test_an_unknown_schema_is_filled_by_the_client(
    records: Path, planned: Planned, begin: Begin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded, "TESTED_SCHEMAS", ("another",))
    write_plan(records, "first", [planned(0)], {})
    begin(records, planned(0)).end("finished")
    publisher = Publisher(records, f"sqlite:///{records}/mlflow.db")
    assert type(publisher.sender) is Sender
    assert "published through MLflow, which is slower" in caplog.text
    assert publisher.publish(final=True)
