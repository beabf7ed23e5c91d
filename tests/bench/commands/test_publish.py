"""`deeper publish`."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import cli
from bench.records.plan import write_plan
from bench.records.record import Record
from bench.tracking.reader import pending
from reproduce.spec import PlannedRun


@pytest.fixture(autouse=True)
def process_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The command takes over signals and the current folder of its process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def records(
    tmp_path: Path, store: Path, planned: Callable[..., PlannedRun], begin: Callable[[Path, PlannedRun], Record]
) -> Path:
    shutil.copy(store, tmp_path / "mlflow.db")
    for name, seed in (("first", 0), ("second", 1)):
        write_plan(tmp_path, name, [planned(seed)], {})
        begin(tmp_path, planned(seed)).end("finished")
    return tmp_path


def test_named_experiments_are_published_once(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["publish", "first", "--once", "--records", str(records)]) == 0
    assert capsys.readouterr().out.endswith("everything is published\n")
    uri = f"sqlite:///{records}/mlflow.db"
    assert (pending(records, uri, ["first"]), pending(records, uri, ["second"])) == (0, 1)
    assert cli.main(["publish", "--once", "--records", str(records)]) == 0
    assert pending(records, uri) == 0


def test_an_unknown_experiment_is_named(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["publish", "third", "--once", "--records", str(records)]) == 2
    assert "'third' has no records" in capsys.readouterr().err


def test_records_without_experiments_are_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["publish", "--once", "--records", str(tmp_path / "none")]) == 2
    assert "holds no experiment" in capsys.readouterr().err
