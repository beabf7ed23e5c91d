"""The plan of an experiment beside its records."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.records.plan import (
    describe,
    experiments,
    plan_hash,
    planned_under,
    read_plan,
    read_plans,
    was_replaced,
    write_experiment,
    write_plan,
)
from reproduce import schema
from reproduce.spec import PlannedRun, RunConfig, Seeds, SpecError, load_experiment


def test_a_plan_is_read_back(tmp_path: Path, config: RunConfig) -> None:
    run = PlannedRun(experiment="e", arm="full", seed=0, config=config)
    write_plan(tmp_path, "e", [run], {run.key: {schema.COST_PARAMETERS: 7.0}})
    (entry,) = read_plan(tmp_path, "e")
    assert (entry.key, entry.name, entry.costs) == (run.key, "full s0", {schema.COST_PARAMETERS: 7.0})
    assert experiments(tmp_path) == ["e"]


def test_an_experiment_that_was_never_planned_is_reported_with_those_that_were(tmp_path: Path) -> None:
    write_plan(tmp_path, "known", [], {})
    with pytest.raises(SpecError, match=r"'unknown' has no records in .*, which holds known"):
        read_plan(tmp_path, "unknown")


def test_an_experiment_is_written_as_it_can_be_read_again(tmp_path: Path) -> None:
    experiment = load_experiment("ablation-imagenette")
    path = write_experiment(tmp_path, experiment)
    assert path == tmp_path / "experiments" / "ablation-imagenette" / "experiment.yaml"
    assert load_experiment(path) == experiment


def test_an_edited_experiment_keeps_its_older_plan(tmp_path: Path, config: RunConfig) -> None:
    old, new = runs_of(config, 1), runs_of(config, 3)
    write_plan(tmp_path, "e", old, {})
    assert not was_replaced(tmp_path, "e", old)
    write_plan(tmp_path, "e", new, {})
    assert [plan.hash for plan in read_plans(tmp_path, "e")] == [plan_hash(new), plan_hash(old)]
    assert [entry.epochs for entry in read_plan(tmp_path, "e")] == [3, 3]
    assert [entry.epochs for entry in read_plan(tmp_path, "e", plan_hash(old)[:5])] == [1, 1]
    assert was_replaced(tmp_path, "e", old)
    assert not was_replaced(tmp_path, "e", runs_of(config, 4)), "it was never the plan"
    with pytest.raises(SpecError, match=rf"--plan: 'x' names no single plan of 'e'; there are: {plan_hash(new)} "):
        read_plan(tmp_path, "e", "x")


def test_an_edit_that_is_taken_back_makes_the_older_plan_the_present_one(tmp_path: Path, config: RunConfig) -> None:
    old, new = runs_of(config, 1), runs_of(config, 3)
    for runs in (old, new, new, old):
        write_plan(tmp_path, "e", runs, {})
    plans = read_plans(tmp_path, "e")
    assert [plan.hash for plan in plans] == [plan_hash(old), plan_hash(new)]
    assert plans[0].since > plans[1].since
    assert " on " in plans[0].by
    assert len((tmp_path / "experiments" / "e" / "plans" / "history.jsonl").read_bytes().splitlines()) == 3


def test_the_plan_that_an_earlier_version_wrote_is_kept(tmp_path: Path, config: RunConfig) -> None:
    old, new = runs_of(config, 1), runs_of(config, 3)
    write_plan(tmp_path, "e", old, {})
    shutil.rmtree(tmp_path / "experiments" / "e" / "plans")  # as that version left it
    (before,) = read_plans(tmp_path, "e")
    assert (before.hash, before.by) == (plan_hash(old), "")
    write_plan(tmp_path, "e", new, {})
    assert read_plans(tmp_path, "e")[1] == before
    assert describe(before).startswith("2 runs, 20")


def test_a_torn_line_of_the_history_loses_nothing_else(tmp_path: Path, config: RunConfig) -> None:
    old, new = runs_of(config, 1), runs_of(config, 3)
    write_plan(tmp_path, "e", old, {})
    with open(tmp_path / "experiments" / "e" / "plans" / "history.jsonl", "ab") as file:
        file.write(b'{"t": 1')
    write_plan(tmp_path, "e", new, {})
    assert all(" on " in plan.by for plan in read_plans(tmp_path, "e"))


def test_a_run_of_two_plans_has_the_names_of_the_newer_one(tmp_path: Path, config: RunConfig) -> None:
    kept, left_out = runs_of(config, 3)
    write_plan(tmp_path, "e", [kept, left_out], {})
    write_plan(tmp_path, "e", [kept.model_copy(update={"arm": "renamed"})], {})
    entries = planned_under(read_plans(tmp_path, "e"))
    assert {key: entry.arm for key, entry in entries.items()} == {kept.key: "renamed", left_out.key: "full"}


def runs_of(config: RunConfig, epochs: int) -> list[PlannedRun]:
    recipe = config.recipe.model_copy(update={"epochs": epochs})
    return [
        PlannedRun(
            experiment="e",
            arm="full",
            seed=seed,
            config=config.model_copy(update={"recipe": recipe, "seeds": Seeds.of(seed)}),
        )
        for seed in (0, 1)
    ]


def test_a_plan_without_a_history_is_as_old_as_its_first_run() -> None:
    records = Path(__file__).parents[3] / "results" / "ablation-imagenette" / "records"
    (plan,) = read_plans(records, "ablation-imagenette")
    assert describe(plan) == "12 runs, 2026-11-24 07:27 UTC"
