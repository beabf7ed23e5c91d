"""The experiment file of a report plans the same runs under the same keys, which nothing but MLflow's values give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import yaml

from analysis.details.repeating import experiment_file, repeat_commands
from analysis.frames import Recorded
from analysis.plans import Plan, PlanChoice
from bench.records.plan import plan_hash, read_plan
from bench.tracking.shaping import shape_description
from reproduce.grid import plan
from reproduce.spec import load_experiment

RECORDS = Path(__file__).parents[3] / "results" / "ablation-imagenette" / "records"
NAME = "ablation-imagenette"


def recorded_from_files() -> Recorded:
    """What MLflow holds of the committed runs, as the publisher shapes it, without a store."""
    entries = read_plan(RECORDS, NAME)
    rows = []
    for entry in entries:
        config = yaml.safe_load((RECORDS / "runs" / entry.key / "config.yaml").read_text(encoding="utf-8"))
        params = dict(shape_description(config).params)
        rows.append({"run_id": entry.key, "key": entry.key, "arm": entry.arm, "seed": entry.seed, **params})
    runs = {entry.key: (entry.arm, entry.seed) for entry in entries}
    choice = PlanChoice(plan=Plan(hash=plan_hash(entries), since=0, by="", runs=runs))
    frame = pd.DataFrame(rows).iloc[::-1].reset_index(drop=True)  # runs start in another order than they are planned
    return Recorded(experiment=NAME, experiment_id="1", description="", runs=frame, epochs=frame, choice=choice)


def test_the_experiment_file_plans_the_same_runs(tmp_path: Path) -> None:
    recorded = recorded_from_files()
    text = experiment_file(recorded, {"reduced-none": 'no auxiliary classifiers: "none"'})
    assert text is not None
    file = tmp_path / "experiment.yaml"
    file.write_text(text, encoding="utf-8")
    experiment = load_experiment(file)
    path, digest = experiment.data.path, str(recorded.runs["data_hash"].iloc[0])
    planned = plan(experiment, data_hashes={path: digest}, classes={path: 10}, train_images={path: 9469})
    assert recorded.choice.plan is not None
    assert plan_hash(planned) == recorded.choice.plan.hash
    assert experiment.arms["reduced-none"].description == 'no auxiliary classifiers: "none"'
    assert json.dumps(experiment.seeds) == "[0, 1, 2]"


def test_an_arm_with_more_workers_keeps_them() -> None:
    recorded = recorded_from_files()
    recorded.runs.loc[recorded.runs["arm"] == "reduced-both", "workers"] = "4"
    content = yaml.safe_load(experiment_file(recorded, {}) or "")
    workers = {arm: change.get("resources", content["resources"])["workers"] for arm, change in content["arms"].items()}
    assert workers.pop("reduced-both") == 4
    assert set(workers.values()) == {1}


def test_without_settings_of_an_arm_there_is_no_file() -> None:
    recorded = recorded_from_files()
    recorded.runs.loc[recorded.runs["arm"] == "reduced-both", "run_id"] = None
    assert experiment_file(recorded, {}) is None


def test_the_data_are_prepared_with_the_options_that_the_experiment_names() -> None:
    recorded = recorded_from_files()
    recorded = replace(recorded, runs=recorded.runs.assign(**{"outcome": "finished", "final/val_top1": 0.5}))
    commands = [command for command, _ in repeat_commands(recorded, has_file=True)]
    assert "deeper data prepare imagenette --output data/imagenette" in commands
    named = recorded.runs.assign(**{"data.max_resolution": "96", "data.write_mode": "jpg", "data.jpeg_quality": "None"})
    commands = [command for command, _ in repeat_commands(replace(recorded, runs=named), has_file=True)]
    assert "deeper data prepare imagenette --output data/imagenette --max-resolution 96 --write-mode jpg" in commands
