"""The plan of an experiment beside its records."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.records.plan import experiments, read_plan, write_experiment, write_plan
from reproduce import schema
from reproduce.spec import PlannedRun, RunConfig, SpecError, load_experiment


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
