"""`deeper merge`: each run once, by rules that are said, and nothing of the sources or of the target is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.cli import main
from bench.records.evaluations import evaluation_files
from bench.records.plan import read_plan, write_plan
from bench.records.record import Record
from bench.records.states import read_events, read_state, run_folder
from reproduce import schema
from reproduce.spec import DataConfig, NetworkConfig, PlannedRun, RecipeConfig, RunConfig, Seeds


def planned(arm: str, seed: int, *, epochs: int = 1) -> PlannedRun:
    config = RunConfig(
        data=DataConfig(path="d"),
        data_hash="0",
        network=NetworkConfig(classes=2, aux=arm),
        recipe=RecipeConfig(epochs=epochs, batch_size=2, learning_rate=0.1),
        seeds=Seeds.of(seed),
        workers=1,
    )
    return PlannedRun(experiment="tiny", arm=arm, seed=seed, config=config)


def train(records: Path, run: PlannedRun, outcome: str = schema.FINISHED, host: str = "a") -> None:
    keeper = Record(run_folder(records, run.key))
    keeper.begin(run.config, environment={"machine": {"hostname": host}}, world_size=1, device="cpu")
    keeper.end(outcome, metrics={schema.FINAL_TOP1: 0.5} if outcome == schema.FINISHED else {})


def plan(records: Path, runs: list[PlannedRun], description: str = "") -> None:
    write_plan(records, "tiny", runs, {})
    content = {"name": "tiny", "description": description, "seeds": sorted({run.seed for run in runs})}
    content["arms"] = {run.arm: {"description": f"{run.arm} by {description}"} for run in runs}
    (records / "experiments" / "tiny" / "experiment.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Ann has the first seed of two arms; Bob has the same first run as a copy, and the second seed."""
    ann, bob = tmp_path / "ann", tmp_path / "bob"
    own = [planned("none", 0), planned("both", 0)]
    for run in own:
        train(ann, run, host="ann")
    plan(ann, own, "Ann")
    shutil.copytree(run_folder(ann, own[0].key), run_folder(bob, own[0].key))
    train(bob, planned("none", 1), host="bob")
    plan(bob, [own[0], planned("none", 1), planned("both", 1)], "Bob")
    return ann, bob


@pytest.fixture
def merge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    def run(*words: Path | str) -> tuple[int, Any, str]:
        code = main(["merge", *map(str, words), "--into", str(tmp_path / "pooled"), "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else None, printed.err

    return run


def test_runs_are_pooled_once_and_the_sources_stay(two: tuple[Path, Path], merge: Any, tmp_path: Path) -> None:
    before = [files(source) for source in two]
    code, said, _ = merge(*two)
    pooled = tmp_path / "pooled"
    assert code == 0
    assert (len(said["copied"]), said["repeated"], said["absent"]) == (3, 1, 1)
    assert [(entry.arm, entry.seed) for entry in read_plan(pooled, "tiny")] == [
        ("none", 0), ("both", 0), ("none", 1), ("both", 1)
    ]  # fmt: skip
    hosts = {read_events(run_folder(pooled, key))[0]["environment"]["machine"]["hostname"] for key in said["copied"]}
    assert hosts == {"ann", "bob"}, "each run keeps the environment that it was trained in"
    experiment = yaml.safe_load((pooled / "experiments" / "tiny" / "experiment.yaml").read_text(encoding="utf-8"))
    assert (experiment["description"], experiment["seeds"]) == ("Ann", [0, 1])
    assert experiment["arms"]["none"]["description"] == "none by Ann"
    notes = [json.loads(line) for line in (pooled / "merged.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {note["key"]: note["source"] for note in notes}[planned("none", 1).key] == str(two[1])
    assert [files(source) for source in two] == before
    assert not [name for name in files(pooled) if name.endswith(("lock", "lease"))]


def test_a_second_merge_adds_what_is_new_and_repeats_nothing(
    two: tuple[Path, Path], merge: Any, tmp_path: Path
) -> None:
    merge(*two)
    before = files(tmp_path / "pooled" / "runs")
    assert merge(*two)[1]["copied"] == []
    assert files(tmp_path / "pooled" / "runs") == before
    train(two[1], planned("both", 1))
    assert merge(two[1])[1]["copied"] == [planned("both", 1).key]


def test_a_record_that_goes_on_where_a_copy_ends_is_taken(two: tuple[Path, Path], merge: Any, tmp_path: Path) -> None:
    ann, bob = two
    run = planned("none", 2)
    train(ann, run, schema.INTERRUPTED)
    shutil.copytree(run_folder(ann, run.key), run_folder(bob, run.key))
    plan(ann, [run])
    plan(bob, [run])
    merge(ann)
    train(bob, run)
    assert merge(ann, bob)[1]["copied"] == [run.key]
    assert read_state(run_folder(tmp_path / "pooled", run.key)).status == schema.FINISHED


def test_of_two_trainings_the_only_finished_one_is_taken_and_two_are_an_error(
    two: tuple[Path, Path], merge: Any, tmp_path: Path
) -> None:
    ann, bob = two
    run = planned("both", 0)
    train(bob, run, schema.INTERRUPTED, host="bob")
    plan(bob, [run])
    assert merge(bob)[0] == 0
    code, said, _ = merge(bob, ann)
    assert (code, said["runs"][run.key]) == (0, str(ann))
    assert len(list((tmp_path / "pooled" / "set-aside").iterdir())) == 1, "nothing that was recorded is lost"
    train(bob, run, host="bob")
    code, _, said = merge(ann, bob)
    assert code == 2
    assert f"were trained more than once, and their records differ: {run.key}" in said
    shutil.rmtree(tmp_path / "pooled")
    code, said, _ = merge(bob, ann, "--first-wins")
    assert (code, said["runs"][run.key]) == (0, str(bob))


def test_two_experiments_under_one_name_are_not_pooled(two: tuple[Path, Path], merge: Any, tmp_path: Path) -> None:
    plan(two[1], [planned("none", 0, epochs=3)])
    code, _, said = merge(*two)
    assert code == 2
    assert "two experiments under one name" in said
    assert not (tmp_path / "pooled").exists()


def test_a_run_in_hand_is_refused(two: tuple[Path, Path], merge: Any) -> None:
    run = planned("both", 1)
    with Record(run_folder(two[1], run.key)) as keeper:
        keeper.begin(run.config, environment={}, world_size=1, device="cpu")
        code, _, said = merge(*two)
    assert code == 2
    assert f"1 runs are being trained: {run.key}" in said


def test_wrong_input_is_named(two: tuple[Path, Path], merge: Any, tmp_path: Path) -> None:
    assert "holds no experiment" in merge(tmp_path)[2]
    assert "'other' is in none of the records, which hold tiny" in merge(*two, "--experiment", "other")[2]
    assert "is one of the folders that are read" in merge(two[0], tmp_path / "pooled")[2]


def test_evaluations_come_along(two: tuple[Path, Path], merge: Any, tmp_path: Path) -> None:
    for source in two:
        (source / "evaluations" / "abc").mkdir(parents=True)
        (source / "evaluations" / "abc" / "evaluation.json").write_text(json.dumps({"by": source.name}))
    merge(*two)
    (file,) = evaluation_files(tmp_path / "pooled")
    assert json.loads(file.read_text(encoding="utf-8")) == {"by": "ann"}
