"""The experiment file of a report plans the same runs under the same keys, which nothing but MLflow's values give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import yaml

from analysis.details.repeating import experiment_file, repeat_steps
from analysis.frames import Recorded
from analysis.plans import Plan, PlanChoice
from bench.records.plan import plan_hash, read_plan
from bench.tracking.shaping import shape_description
from reproduce import schema
from reproduce.grid import plan
from reproduce.spec import load_experiment

RECORDS = Path(__file__).parents[3] / "results" / "ablation-imagenette" / "records"
NAME = "ablation-imagenette"
COMMIT = "864bfc9c6849c546cf00d03bbf9ec1330111867d"


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


def test_the_experiment_file_has_no_field_that_only_some_runs_recorded() -> None:
    recorded = recorded_from_files()
    recorded.runs.loc[recorded.runs["arm"] == "reduced-both", "probes"] = "['train_accuracy', 'channel_clusters']"
    recorded.runs.loc[recorded.runs["arm"] == "reduced-both", "data.max_resolution"] = "96"
    text = experiment_file(recorded, {}) or ""
    for field in ("photometric", "branches", "probes", "max_resolution"):
        assert field not in text


def test_the_experiment_file_keeps_what_newer_runs_did_otherwise() -> None:
    recorded = recorded_from_files()
    recorded.runs.loc[recorded.runs["arm"] == "reduced-both", "network.branches"] = "3x3"
    arms = yaml.safe_load(experiment_file(recorded, {}) or "")["arms"]
    assert [arm for arm, change in arms.items() if "branches" in change.get("network", {})] == ["reduced-both"]


def described(**columns: object) -> Recorded:
    recorded = recorded_from_files()
    finished = {"outcome": "finished", "final/val_top1": 0.5, schema.TAG_COMMIT: COMMIT}
    return replace(recorded, runs=recorded.runs.assign(**finished | columns))


def commands_and_words(recorded: Recorded, commit: str = COMMIT) -> tuple[list[str], str]:
    steps = repeat_steps(recorded, has_file=True, commit=commit)
    return [step.command for step in steps if step.command], " ".join(step.what for step in steps)


def test_runs_of_the_code_that_writes_the_report_are_repeated_by_its_commands() -> None:
    recorded = described()
    assert recorded.choice.plan is not None
    assert commands_and_words(recorded)[0] == [
        f"git checkout {COMMIT[:12]} && make setup",
        "deeper data prepare imagenette --output data/imagenette",
        "deeper run experiment.yaml",
        f"deeper report {NAME} --plan {recorded.choice.plan.hash}",
    ]


def test_of_other_code_no_command_is_named() -> None:
    for commit in ("", "b" * 40):
        commands, words = commands_and_words(described(), commit)
        assert commands == [f"git checkout {COMMIT[:12]}"]
        assert "another version" in words
        assert "the data from the source imagenette in the folder data/imagenette" in words
        assert "hash has to begin with ba5b14126" in words


def test_of_several_commits_the_one_of_most_runs_is_checked_out() -> None:
    commits = ["b" * 40, "c" * 40, *[COMMIT] * 10]
    commands, words = commands_and_words(described(**{schema.TAG_COMMIT: commits}))
    assert commands == [f"git checkout {COMMIT[:12]}"]
    assert "The runs come from 3 commits; most were made with this one." in words


def test_without_a_recorded_commit_nothing_is_checked_out() -> None:
    commands, words = commands_and_words(described(**{schema.TAG_COMMIT: None}))
    assert commands == []
    assert "commit of the code was not recorded" in words


def test_the_data_are_prepared_with_the_options_that_the_experiment_names() -> None:
    options = {"data.max_resolution": "96", "data.write_mode": "jpg", "data.jpeg_quality": "None"}
    commands, _ = commands_and_words(described(**options))
    assert "deeper data prepare imagenette --output data/imagenette --max-resolution 96 --write-mode jpg" in commands
    commands, words = commands_and_words(described(**options, **{"data.source": "None"}))
    assert not [command for command in commands if "prepare" in command]
    assert "from your own copy of the images in the folder data/imagenette" in words
    assert "with the options --max-resolution 96 --write-mode jpg." in words


def test_options_of_data_without_a_source_that_were_not_recorded_are_said_to_be_unknown() -> None:
    _, words = commands_and_words(described(**{"data.source": "None"}))
    assert (
        "from your own copy of the images in the folder data/imagenette, with options that were not recorded" in words
    )
