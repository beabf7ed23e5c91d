"""A report is attached to the embedded store without MLflow, with the rows and the file that its client would write."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bench.tracking.embedded.sender import EmbeddedSender
from bench.tracking.pages.reports import NotAttachedError, attach_report
from bench.tracking.publishing import Publisher
from bench.tracking.sending import Sender
from reproduce import schema
from tests.bench.tracking.embedded.test_sender import tables

ROOT = Path(__file__).parents[4]


@pytest.fixture
def records(one_run: Path, store: Path) -> Path:
    """Records of one run that are published to the embedded store and, by the client, to another."""
    for name in ("mlflow.db", "by_client.db"):
        shutil.copy(store, one_run / name)
        Publisher(one_run, f"sqlite:///{one_run}/{name}").publish(final=True)
    (one_run / "index.html").write_text("<title>a report</title>", encoding="utf-8")
    return one_run


def test_rows_and_file_are_as_the_client_writes_them(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1.8e9)
    pages = []
    for name, repetitions in (("mlflow.db", 2), ("by_client.db", 1)):
        uri = f"sqlite:///{records}/{name}"
        attached = {
            attach_report("first", records / "index.html", records=records, uri=uri, plan=None)
            for _ in range(repetitions)
        }
        (run,) = attached
        pages.append(records / "mlartifacts" / "first" / str(run) / "artifacts" / "report" / "index.html")
    by_sql, by_client = tables(records / "mlflow.db"), tables(records / "by_client.db")
    assert any("report" in row for row in by_sql["runs"])
    for table, rows in by_client.items():
        assert by_sql[table] == rows, table
    assert {page.read_text(encoding="utf-8") for page in pages} == {"<title>a report</title>"}


def test_a_report_of_the_embedded_store_needs_no_mlflow(records: Path, tmp_path: Path) -> None:
    """The only run has ended without an epoch, which its report says."""
    code = (
        "import sys; from bench.cli import main; code = main(sys.argv[1:]); "
        "print(code, {'mlflow', 'ray', 'sqlalchemy', 'torch'} & set(sys.modules))"
    )
    words = ["report", "first", "--records", records, "--output", tmp_path / "report"]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.stdout.splitlines()[-1] == "0 set()", done.stderr
    with closing(sqlite3.connect(records / "mlflow.db")) as database:
        (uri,) = database.execute("SELECT artifact_uri FROM runs WHERE name = 'report'").fetchone()
    page = Path(uri.removeprefix("file://")) / "report" / "index.html"
    assert page.read_bytes() == (tmp_path / "report" / "index.html").read_bytes()


@pytest.mark.parametrize("sender", [EmbeddedSender, Sender])
def test_a_deleted_experiment_and_a_tag_that_is_too_long_are_rejected(
    sender: type, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{records}/{'mlflow' if sender is EmbeddedSender else 'by_client'}.db"

    def attach() -> None:
        attach_report("first", records / "index.html", records=records, uri=uri, plan=None)

    with monkeypatch.context() as patch:
        patch.setattr("bench.tracking.pages.reports.with_links", lambda *_: "x" * 20_001)
        with pytest.raises(NotAttachedError, match="20000"):
            attach()
    client = Sender(uri).client
    found = client.get_experiment_by_name("first")
    assert found is not None
    client.delete_experiment(found.experiment_id)
    with pytest.raises(NotAttachedError, match="experiment first is deleted in MLflow; restore it"):
        attach()


def test_a_store_that_cannot_be_written_is_one_sentence(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.tracking.embedded.sender.BUSY_TIMEOUT_S", 0.1)
    uri = f"sqlite:///{records}/mlflow.db"
    with closing(sqlite3.connect(records / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotAttachedError, match=r"^the report is not attached to MLflow: database is locked$"):
            attach_report("first", records / "index.html", records=records, uri=uri, plan=None)


def test_the_experiment_tells_where_its_report_is(records: Path) -> None:
    uri = f"sqlite:///{records}/mlflow.db"
    run = attach_report("first", records / "index.html", records=records, uri=uri, plan=None)
    tags = Sender(uri).experiment_tags("1")
    assert [value for name, value in tags.items() if name.startswith(schema.TAG_REPORT)] == [run]
    assert f"runs/{run}/artifacts/report/index.html" in tags["mlflow.note.content"]
