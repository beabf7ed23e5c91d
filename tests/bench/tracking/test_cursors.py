"""How much of an experiment a tracking store holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.tracking.cursors import Cursor, ExperimentCursors

URI = "sqlite:////records/mlflow.db"


def test_cursors_are_read_back_by_another_process(tmp_path: Path) -> None:
    cursors = ExperimentCursors(tmp_path, URI, "first")
    assert cursors.read("k") is None
    assert cursors.experiment_id() is None
    cursors.write_experiment_id("17")
    cursor = Cursor("run", offset=9, status="FINISHED", epoch=2, described=True)
    cursors.write("k", cursor)
    again = ExperimentCursors(tmp_path, URI, "first")
    assert again.read("k") == cursors.read("k") == cursor
    assert again.experiment_id() == "17"


def test_each_store_and_experiment_has_its_own(tmp_path: Path) -> None:
    cursors = ExperimentCursors(tmp_path, URI, "first")
    cursors.write_experiment_id("17")
    cursors.write("k", Cursor("run"))
    assert ExperimentCursors(tmp_path, "http://server", "first").read("k") is None
    assert ExperimentCursors(tmp_path, URI, "second").read("k") is None


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "publisher" / "c84aee1a" / "first"
    cursors = ExperimentCursors(tmp_path, URI, "first")
    cursors.write_experiment_id("17")
    assert (folder / "experiment_id").is_file(), "the folder is named by the hash of the URI"
    text = '{"run_id": "r", "offset": 5, "status": "KILLED", "epoch": 1, "described": true}'
    (folder / "k.json").write_text(text, encoding="utf-8")
    (folder / "evaluation-e.json").write_text("{}", encoding="utf-8")
    assert cursors.read("k") == Cursor("r", 5, "KILLED", 1, True)
    assert cursors.has_evaluation("e")


def test_clearing_forgets_runs_and_evaluations(tmp_path: Path) -> None:
    cursors = ExperimentCursors(tmp_path, URI, "first")
    cursors.write_experiment_id("17")
    cursors.write("k", Cursor("run"))
    cursors.mark_evaluation("e")
    cursors.clear()
    assert cursors.read("k") is None
    assert not cursors.has_evaluation("e")


@pytest.mark.parametrize("content", [b"", b"5", b"{", b"\xff", b'{"run_id": 5}', b'{"run": "r"}'])
def test_a_damaged_cursor_counts_as_none(tmp_path: Path, content: bytes) -> None:
    cursors = ExperimentCursors(tmp_path, URI, "first")
    cursors.write_experiment_id("17")
    cursors.write("k", Cursor("run"))
    (file,) = tmp_path.glob("publisher/*/first/k.json")
    file.write_bytes(content)
    assert ExperimentCursors(tmp_path, URI, "first").read("k") is None
