"""Damage of any file of the records: one sentence that names the file, or what can be had without it; never a bug."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.cli import main
from bench.console.exit_codes import DONE, WRONG_INPUT
from bench.orchestration.display import Row, rows_as_json
from bench.records.evaluations import evaluation_table, write_evaluation
from bench.records.finished_runs import find_runs, own_validation
from bench.records.plan import PlanEntry, write_experiment, write_plan
from bench.records.record import Record
from bench.records.states import read_events, read_state, run_folder
from bench.tracking.publishing import Publisher
from bench.tracking.reader import pending, read_run_news
from bench.tracking.shaping import shape_new_run, shape_run_news
from reproduce import schema
from reproduce.errors import UserError
from reproduce.spec import PlannedRun, load_experiment

Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "nothing left": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: content[: len(content) // 4] + bytes(len(content) // 2) + content[-len(content) // 4 :],
    "another value": lambda content: b"5",
    "another list": lambda content: b'[5, {"a": 1}]',
    "another mapping": lambda content: b'{"a": {}}',
    "no text": lambda content: b"\xff\xfe\x00" + content,
}
FILES = {
    "experiments/first/plan.json": 1,
    "experiments/first/plans/????????.json": 2,
    "experiments/first/plans/history.jsonl": 1,
    "experiments/first/experiment.yaml": 1,
    "runs/*/config.yaml": 2,
    "runs/*/environment.json": 2,
    "runs/*/events.jsonl": 2,
    "runs/*/predictions.parquet": 2,
    "evaluations/*/evaluation.json": 1,
    "evaluations/*/predictions.parquet": 1,
    "publisher/id": 1,
    "publisher/*/first/*": 6,
}
"""Files of the records, and how many there are of each."""
COMMITTED = Path(__file__).parents[3] / "results" / "ablation-imagenette" / "records" / "runs"
TOP5 = {
    "index": np.arange(4),
    "label": np.zeros(4, int),
    "top5": np.zeros((4, 5), int),
    "correct": np.ones(4, bool),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, store: Path, whole_runs: list[PlannedRun]) -> Path:
    """Two finished runs of an experiment with two plans, one with an evaluation, all of it published."""
    records = tmp_path_factory.mktemp("whole")
    shutil.copy(store, records / "mlflow.db")
    write_experiment(records, load_experiment("quickstart").model_copy(update={"name": "first"}))
    write_plan(records, "first", whole_runs[:1], {})
    write_plan(records, "first", whole_runs, {})
    for run in whole_runs:
        record = Record(run_folder(records, run.key))
        record.begin(run.config, environment={}, world_size=1, device="cpu")
        record.epoch(0, {schema.VAL_TOP1: 0.5})
        record.predictions(TOP5)
        record.end(schema.FINISHED, metrics={schema.FINAL_TOP1: 0.5})
    evaluation = {
        **{"protocol": "10-crop", "crops": 10, "top1": 0.5, "top5": 0.9, "date": "2026-11-27T00:00:00Z"},
        "models": [{"run": whole_runs[0].key, "experiment": "first", "arm": "full"}],
        "data": {"source": "folder", "hash": "abc", "classes": 10, "images": 4},
    }
    write_evaluation(records / "evaluations" / "e", evaluation, TOP5)
    assert Publisher(records, uri(records)).publish(final=True)
    return records


@pytest.fixture(scope="module")
def whole_runs(planned: Callable[..., PlannedRun]) -> list[PlannedRun]:
    return [planned(0), planned(1)]


def uri(records: Path) -> str:
    return f"sqlite:///{records}/mlflow.db"


def readers(records: Path, runs: list[PlannedRun]) -> Iterator[Callable[[], object]]:
    yield lambda: evaluation_table(records)
    yield lambda: [own_validation(run) for run in find_runs(records, [runs[0].key, "first:full"])]
    yield lambda: pending(records, uri(records))


def said_of(read: Callable[[], object]) -> str | None:
    try:
        read()
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("pattern", FILES)
def test_a_damaged_file_is_a_sentence_or_is_done_without(
    pattern: str,
    whole: Path,
    whole_runs: list[PlannedRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    records = tmp_path / "records"
    shutil.copytree(whole, records)
    os.replace(next((records / "publisher").glob("????????")), records / "publisher" / "old")
    damaged = sorted(records.glob(pattern))
    assert len(damaged) == FILES[pattern]
    for file in damaged:
        content = file.read_bytes()
        for name, damage in DAMAGES.items():
            file.write_bytes(damage(content))
            for command in (["status", "first"], ["clean"], ["status", "first", "--json"]):
                code = main([*command, "--records", str(records)])
                printed = capsys.readouterr()
                assert code in (DONE, WRONG_INPUT), (file, name, printed.err)
                assert code == DONE or file.name in printed.err
            for read in readers(records, whole_runs):
                said = said_of(read)
                assert said is None or file.name in said or file.parent.name in said, (file, name, said)
        Publisher(records, uri(records)).publish(final=True)  # it raises nothing
        file.write_bytes(content)


@pytest.mark.parametrize("pattern", FILES)
def test_a_folder_in_place_of_a_file_is_named_in_a_sentence(
    pattern: str, whole: Path, whole_runs: list[PlannedRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "records"
    shutil.copytree(whole, records)
    os.replace(next((records / "publisher").glob("????????")), records / "publisher" / "old")
    for file in sorted(records.glob(pattern)):
        content = file.read_bytes()
        file.unlink()
        file.mkdir()
        for command in (["status", "first"], ["clean"]):
            code = main([*command, "--records", str(records)])
            printed = capsys.readouterr()
            assert code in (DONE, WRONG_INPUT), (file, printed.err)
            assert code == DONE or file.name in printed.err
        Publisher(records, uri(records)).publish(final=True)  # it raises nothing
        file.rmdir()
        file.write_bytes(content)


@pytest.mark.parametrize("pattern", ["runs/*/config.yaml", "runs/*/predictions.parquet"])
def test_a_changed_bit_of_a_configuration_or_of_predictions_is_found(
    pattern: str, whole: Path, whole_runs: list[PlannedRun], tmp_path: Path
) -> None:
    records = tmp_path / "records"
    shutil.copytree(whole, records)
    file = sorted(records.glob(pattern))[0]
    content = file.read_bytes()
    values = [own_validation(run) for run in find_runs(records, ["first:full"])]
    found = 0
    for place in range(4, len(content) - 8, 3):
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            assert [own_validation(run) for run in find_runs(records, ["first:full"])] == values
        except UserError:
            found += 1
    assert found > len(content) / 30


def test_a_changed_bit_of_an_event_leaves_its_line_out(whole: Path, whole_runs: list[PlannedRun]) -> None:
    folder = run_folder(whole, whole_runs[0].key)
    content, events = (folder / schema.ARTIFACT_EVENTS).read_bytes(), read_events(folder)
    try:
        for place in range(len(content)):
            changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
            (folder / schema.ARTIFACT_EVENTS).write_bytes(changed)
            found = read_events(folder)
            # A bit of the name of the checksum makes a further field of it.
            assert all(any(event.items() <= one.items() for event in events) for one in found), place
            assert len(found) >= len(events) - 2, "the line, and the next if the line break between them is gone"
    finally:
        (folder / schema.ARTIFACT_EVENTS).write_bytes(content)


@pytest.mark.parametrize("record", ["4fc8fd0aa446", "f151210792c5"])
def test_a_changed_bit_of_an_older_line_stops_neither_display_nor_publisher(record: str, tmp_path: Path) -> None:
    """Lines of committed records have no checksums."""
    lines = (COMMITTED / record / schema.ARTIFACT_EVENTS).read_bytes().splitlines(keepends=True)
    content = lines[0] + lines[1] + lines[-1]
    assert b"crc32" not in content
    entry = PlanEntry(key=record, arm="a", seed=0, name="a s0", epochs=2)
    for place in range(0, len(content), 3):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        (tmp_path / schema.ARTIFACT_EVENTS).write_bytes(changed)
        rows_as_json([Row(entry, read_state(tmp_path))])
        for news in read_run_news(tmp_path, 0):
            shape_new_run("e", entry, news.events[0], {})
            shape_run_news("e", entry, news, epoch=0)
