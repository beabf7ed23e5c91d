"""What `deeper clean` shows and removes, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cli import main
from bench.records.leases import try_acquire
from bench.records.plan import write_plan
from bench.records.record import Record
from bench.records.states import read_events, run_folder
from reproduce import schema
from reproduce.spec import DataConfig, NetworkConfig, PlannedRun, RecipeConfig, RunConfig, Seeds
from reproduce.training import checkpoint


def run_config(seed: int) -> RunConfig:
    return RunConfig(
        data=DataConfig(path="d"),
        data_hash="0",
        network=NetworkConfig(classes=2),
        recipe=RecipeConfig(epochs=1, batch_size=2, learning_rate=0.1),
        seeds=Seeds.of(seed),
        workers=1,
    )


def content(run: RunConfig, *, finished: bool = True) -> dict[str, Any]:
    """A checkpoint as an early version wrote it: with momentum, and with both the last and the averaged weights."""
    weights, averaged, momentum = (torch.full((1000,), float(number)) for number in range(3))
    return {
        "key": run.key,
        "epoch": 1,
        "step": 0,
        "finished": finished,
        "network": {"w": weights},
        "averaged": {"network": {"w": averaged}, "steps": 3},
        "optimiser": {"state": {0: {"momentum_buffer": momentum}}},
        "history": [],
        "ranks": [],
    }


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A finished run with everything that could go (seed 0), and an interrupted one with two checkpoints (seed 1)."""
    place, planned = tmp_path / "records", []
    for seed in (0, 1):
        run = run_config(seed)
        folder = run_folder(place, run.key)
        keeper = Record(folder)
        keeper.begin(run, environment={}, world_size=1, device="cpu")
        for _ in range(2):
            checkpoint.save(folder, content(run, finished=seed == 0))
        keeper.progress(epoch=0, epochs=1, step=1, steps=1, images_per_s=1.0, loss=1.0, top1=None)
        keeper.end(schema.INTERRUPTED if seed else schema.FINISHED)
        (folder / "log.txt").write_text("warnings\n")
        (folder / f".config.yaml.{'0' * 16}").write_text("half")
        planned.append(PlannedRun(experiment="tiny", arm="a", seed=seed, config=run))
    write_plan(place, "tiny", planned, {})
    evaluation = place / "evaluations" / "abc"
    evaluation.mkdir(parents=True)
    (evaluation / "evaluation.json").write_text(json.dumps({"models": [{"experiment": "tiny"}]}))
    (evaluation / "predictions.parquet").write_bytes(b"1234")
    (place / "logs").mkdir()
    (place / "logs" / "ray.log").write_text("chatter")
    return place


def files(records: Path) -> set[str]:
    return {str(path.relative_to(records)) for path in records.rglob("*") if path.is_file()}


def clean(records: Path, *options: str) -> int:
    return main(["clean", *options, "--records", str(records)])


def test_nothing_is_removed_without_yes(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(records)
    assert clean(records, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert files(records) == before
    assert shown["removed"] is False
    kinds = {row["kind"]: (row["files"], row["shortened"]) for row in shown["leftovers"] if row["experiment"] == "tiny"}
    assert kinds == {"checkpoints": (1, 1), "scratch": (3, 0), "logs": (1, 0)}
    assert clean(records) == 0
    assert "nothing was removed" in capsys.readouterr().out


def test_records_and_final_weights_stay_and_an_unfinished_run_keeps_its_checkpoints(records: Path) -> None:
    done, begun = (run_folder(records, run_config(seed).key) for seed in (0, 1))
    events, size = read_events(done), (done / "checkpoint.pt").stat().st_size
    assert clean(records, "--yes") == 0
    names = {path.name for path in done.iterdir()}
    assert names == {"config.yaml", "environment.json", "events.jsonl", "checkpoint.pt", "lock", "lease"}
    assert read_events(done) == events
    state = checkpoint.load(done, done.name)
    assert state is not None, "it has its checksum"
    assert torch.equal(state["averaged"]["network"]["w"], torch.ones(1000))
    assert state["network"] is None
    assert state["optimiser"] is None
    assert (done / "checkpoint.pt").stat().st_size < size - 7000
    assert {"checkpoint.pt", "checkpoint-before.pt", "log.txt"} <= {path.name for path in begun.iterdir()}
    assert checkpoint.resume_point(begun, begun.name) == ({"epoch": 1, "step": 0}, [])
    assert not list((records / "logs").glob("*"))
    assert (records / "evaluations" / "abc" / "evaluation.json").is_file(), "evaluations go only if they are named"


def test_a_second_time_there_is_nothing_left(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean(records, "--yes")
    capsys.readouterr()
    assert clean(records, "--yes") == 0
    assert "nothing could go" in capsys.readouterr().out


def test_a_run_in_hand_is_left_alone_and_named(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_folder(records, run_config(0).key)
    lease = try_acquire(done)
    assert lease is not None
    before = files(records)
    with lease:
        assert clean(records, "--yes", "--kind", "checkpoints", "--kind", "logs") == 0
    assert f"in hand, and left alone: {done.name}" in capsys.readouterr().out
    assert files(records) == before, "shared logs stay as well while a run is in hand"


def test_a_removal_that_was_killed_is_completed(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, killed = Path.unlink, []

    def kill(path: Path, missing_ok: bool = False) -> None:
        if path.name == "checkpoint-before.pt" and not killed:
            killed.append(path)
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", kill)
        assert clean(records, "--yes") == 75
    assert killed
    assert clean(records, "--yes") == 0
    assert not (run_folder(records, run_config(0).key) / "checkpoint-before.pt").exists()


def test_evaluations_go_if_they_are_named(records: Path) -> None:
    before = files(records)
    assert clean(records, "tiny", "--kind", "evaluations", "--yes") == 0
    assert before - files(records) == {"evaluations/abc/evaluation.json", "evaluations/abc/predictions.parquet"}
    assert not (records / "evaluations" / "abc").exists()


def test_a_damaged_checkpoint_is_left_as_it_is_and_so_is_the_one_before(records: Path) -> None:
    path = run_folder(records, run_config(0).key) / "checkpoint.pt"
    damaged = path.read_bytes()[:-50]
    path.write_bytes(damaged)
    assert clean(records, "--yes", "--kind", "checkpoints") == 0
    assert path.read_bytes() == damaged
    assert (path.parent / "checkpoint-before.pt").is_file()
