"""Events, configurations and evaluations in MLflow's terms. No store is needed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.records.plan import PlanEntry, RecordedPlan, read_plans
from bench.records.states import RunState, read_state
from bench.tracking.pages.arms import planned_configs, recorded_configs, settings_of_arms
from bench.tracking.pages.colours import COLOURS, colours_of_arms
from bench.tracking.pages.notes import NOTE, experiment_note, run_note
from bench.tracking.reader import EvaluationNews, KilledRun, RunNews
from bench.tracking.shaping import (
    Metric,
    describe_devices,
    shape_description,
    shape_evaluation,
    shape_killed_run,
    shape_names,
    shape_new_run,
    shape_other_code,
    shape_plan,
    shape_run_news,
)
from reproduce import schema

RESULTS = Path(__file__).parents[3] / "results" / "ablation-imagenette"
ENTRY = PlanEntry("0123456789ab", "full", 7, "full s7", 3, {schema.COST_PARAMETERS: 7e6})
ENVIRONMENT: dict[str, Any] = {
    "commit": "c0ffee",
    "dirty": True,
    "packages": {"torch": "2.14.1"},
    "machine": {"hostname": "h", "python": "3.11.7", "cpu": "a CPU", "cores": 2},
    "gpus": [{"name": "H200", "uuid": "GPU-a"}],
}
ARTIFACTS = (Path("config.yaml"), Path("events.jsonl"))
STATE = RunState(ENTRY.key, "finished", attempt=1, duration_s=90.0)


def plan(*entries: PlanEntry) -> RecordedPlan:
    return RecordedPlan("aa", entries, 1.0, "a on b")


def start(attempt: int = 1, t: float = 10.0, **content: Any) -> dict[str, Any]:
    event = {"t": t, "attempt": attempt, "kind": "start", "environment": ENVIRONMENT, "device": "cuda:0"}
    return {**event, **content}


def epoch(number: int, t: float = 20.0, **metrics: float) -> dict[str, Any]:
    return {"t": t, "attempt": 1, "kind": "epoch", "epoch": number, "metrics": metrics}


def end(outcome: str = "finished", t: float = 30.0, **content: Any) -> dict[str, Any]:
    event = {"t": t, "attempt": 1, "kind": "end", "outcome": outcome, "error": None, "metrics": {}, "telemetry": None}
    return {**event, **content}


def news(*events: dict[str, Any]) -> RunNews:
    state = STATE if any(event["kind"] != "epoch" for event in events) else None
    return RunNews(events, 100, None, state, ARTIFACTS)


def test_a_new_run_carries_the_tags_by_which_it_is_found() -> None:
    plans = [RecordedPlan("aa", (ENTRY,), 2.0, ""), RecordedPlan("bb", (), 1.0, "")]
    new = shape_new_run("first", ENTRY, start(t=1.5), shape_names(ENTRY, plans, "#123456"))
    assert (new.name, new.start_ms) == ("full s7", 1500)
    assert new.tags == {
        "deeper.key": ENTRY.key,
        "deeper.experiment": "first",
        "deeper.arm": "full",
        "deeper.seed": "7",
        "mlflow.source.name": "deeper run first",
        "mlflow.source.type": "LOCAL",
        "mlflow.runColor": "#123456",
        "deeper.plan.aa": "yes",
    }


def test_a_configuration_becomes_flat_params_and_a_data_set() -> None:
    config = {"data": {"path": "sets/tiny", "source": None}, "data_hash": "a" * 40, "seeds": {"init": 1}}
    description = shape_description(config)
    assert description.params == (
        *(("data.path", "sets/tiny"), ("data.source", "None")),
        *(("data_hash", "a" * 40), ("seeds.init", "1")),
    )
    assert description.tags == {"deeper.data": "tiny", "deeper.data_hash": "a" * 40}
    assert (description.dataset_name, description.dataset_digest) == ("tiny", "a" * 36)
    assert description.dataset_source == '{"uri": "sets/tiny"}'


def test_a_start_sets_the_environment_and_the_costs() -> None:
    update = shape_run_news("first", ENTRY, news(start()), epoch=0)
    assert (update.status, update.ended_ms, update.artifacts) == ("RUNNING", None, ())
    assert update.metrics == (Metric(schema.COST_PARAMETERS, 7e6, 10_000, 0),)
    assert {name: value for name, value in update.tags.items() if name != NOTE} == {
        "deeper.attempt": "1",
        "deeper.outcome": "running",
        "deeper.host": "h",
        "deeper.gpu": "H200",
        "deeper.environment.torch": "2.14.1",
        "deeper.environment.python": "3.11.7",
        "deeper.environment.cpu": "a CPU, 2 cores",
        "mlflow.source.git.commit": "c0ffee",
        "deeper.dirty": "true",
    }


def test_a_later_attempt_clears_the_error_and_repeats_no_costs() -> None:
    update = shape_run_news("first", ENTRY, news(start(attempt=2)), epoch=1)
    assert update.tags["deeper.error"] == "-"
    assert update.metrics == ()


def test_a_start_without_an_environment_has_no_tags_of_it() -> None:
    update = shape_run_news("first", ENTRY, news(start(environment={})), epoch=0)
    assert set(update.tags) == {"deeper.attempt", "deeper.outcome", NOTE}


def test_epochs_become_steps_and_the_last_one_that_of_final_metrics() -> None:
    update = shape_run_news("first", ENTRY, news(epoch(0, 1.0, a=1.0), epoch(1, 2.0, a=2.0)), epoch=0)
    assert update.metrics == (Metric("a", 1.0, 1000, 0), Metric("a", 2.0, 2000, 1))
    assert (update.epoch, update.status, update.tags) == (1, "RUNNING", {})
    final = shape_run_news("first", ENTRY, news(end(metrics={"b": 3.0})), epoch=update.epoch)
    assert final.metrics == (Metric("b", 3.0, 30_000, 1),)


@pytest.mark.parametrize(
    ("outcome", "status"), [("finished", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")]
)
def test_an_end_sets_the_status_and_keeps_the_artifacts(outcome: str, status: str) -> None:
    update = shape_run_news("first", ENTRY, news(start(), end(outcome, error="why")), epoch=0)
    assert (update.status, update.ended_ms, update.artifacts) == (status, 30_000, ARTIFACTS)
    assert (update.tags["deeper.outcome"], update.tags["deeper.error"]) == (outcome, "why")


def test_a_run_that_starts_again_after_an_end_is_running() -> None:
    update = shape_run_news("first", ENTRY, news(end("interrupted"), start(attempt=2)), epoch=0)
    assert (update.status, update.ended_ms, update.artifacts) == ("RUNNING", None, ())


@pytest.mark.parametrize(
    ("telemetry", "tag"),
    [
        (None, "-"),
        ({"gpu_absent": None}, "-"),
        ({"gpu_absent": schema.NO_GPU_USED}, "-"),
        ({"gpu_absent": "no NVML"}, "no NVML"),
    ],
)
def test_missing_gpu_readings_are_tagged(telemetry: dict[str, Any] | None, tag: str) -> None:
    assert shape_run_news("first", ENTRY, news(end(telemetry=telemetry)), epoch=0).tags["deeper.gpu_absent"] == tag


def test_a_killed_run_ends_when_it_was_last_seen() -> None:
    update = shape_killed_run("first", ENTRY, KilledRun(12.5, STATE, ARTIFACTS), epoch=2)
    assert (update.epoch, update.status, update.ended_ms, update.artifacts) == (2, "KILLED", 12_500, ARTIFACTS)
    assert update.tags["deeper.outcome"] == "interrupted"
    assert update.tags["deeper.error"].startswith("killed")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"device": "cuda:0", "resources": {"gpus_per_worker": 0.25}}, "H200, 0.25 of one a run"),
        ({"device": "cuda:0", "resources": {"gpus_per_worker": 1}}, "H200"),
        ({"device": "cuda:0"}, "H200"),  # as in records from before resources were recorded
        ({"device": "cpu"}, "not used (H200)"),
        ({"environment": {"gpus": [], "gpu_absent": "no NVML"}}, "no NVML"),
    ],
)
def test_devices_are_described_with_the_share_of_a_run(content: dict[str, Any], text: str) -> None:
    assert describe_devices(start(**content)) == text


def test_only_the_evaluation_of_one_run_becomes_its_metrics() -> None:
    content = {"protocol": "10-crop", "date": "1970-01-01T00:00:02Z", "top1": 0.8, "top5": 0.9}
    alone = EvaluationNews(Path("evaluation.json"), {**content, "models": [{"run": "a"}]}, ("a",))
    assert shape_evaluation(alone) == (
        Metric("evaluation/10-crop/top1", 0.8, 2000, 0),
        Metric("evaluation/10-crop/top5", 0.9, 2000, 0),
    )
    ensemble = EvaluationNews(alone.path, {**content, "models": [{"run": "a"}, {"sha256": "b"}]}, ("a",))
    assert shape_evaluation(ensemble) == ()


def test_each_arm_has_a_colour() -> None:
    arms = [f"arm {index}" for index in range(len(COLOURS) + 2)]
    plan = [PlanEntry("k", arm, seed, "", 1) for arm in arms for seed in range(2)]
    colours = colours_of_arms(plan)
    assert [colours[arm] for arm in arms] == [*COLOURS, *COLOURS[:2]]


def test_a_runs_note_shows_outcome_accuracy_and_error_in_a_table() -> None:
    state = RunState(ENTRY.key, "failed", attempt=2, metrics={schema.FINAL_TOP1: 0.5}, error="a\n|b|", duration_s=90.0)
    note = run_note("first", ENTRY, state)
    assert note.startswith("**full**, seed 7, of experiment *first* (key `0123456789ab`)")
    duration = "| duration of all attempts | 1.5 min |"
    for row in ("| outcome | failed |", "| attempts | 2 |", "| top-1 | 50.00% |", duration):
        assert row in note
    assert r"| error | a \|b\| |" in note


def test_an_experiments_note_lists_its_arms() -> None:
    experiment = {"description": "What it asks.", "arms": {"full": {"description": "as published"}}}
    note = experiment_note("first", [plan(ENTRY, ENTRY)], experiment)
    assert note.splitlines()[:2] == ["## first", "What it asks."]
    assert "| full | as published | 2 | 7.00 M | - |" in note
    assert "| full |  | 1 | 7.00 M | - |" in experiment_note("first", [plan(ENTRY)], {})


def test_an_experiments_note_counts_the_runs_of_older_plans() -> None:
    older = replace(ENTRY, key="of an older plan")
    note = experiment_note("first", [plan(ENTRY), plan(ENTRY, older)], {})
    assert 'Plan `aa`: 1 run, `tags."deeper.plan.aa" = "yes"`' in note
    assert "Runs of older plans under this name: 1" in note


def test_a_long_plan_is_cut_into_pieces_that_any_server_takes() -> None:
    entries = [replace(ENTRY, key=f"{seed:012x}", seed=seed) for seed in range(2000)]
    tags = shape_plan(plan(*entries))
    assert list(tags)[-1] == "deeper.plan.aa", "the head, which says that the pieces are complete, comes last"
    pieces = [tags[f"deeper.plan.aa.{index}"] for index in range(json.loads(tags["deeper.plan.aa"])["pieces"])]
    assert max(map(len, pieces)) < 5000
    assert json.loads("".join(pieces)) == {"full": {str(entry.seed): entry.key for entry in entries}}


def test_how_an_attempt_is_computed_becomes_tags_and_a_change_stays_one() -> None:
    computation = {"machine": "H200", "code": "c0de", "threads": None}
    resources = {"precision": "bf16"}
    first = start(computation=computation, resources=resources, changes={"code": ["beef", "c0de"]})
    later = start(attempt=2, computation=computation, resources=resources, changes={})
    tags = shape_run_news("first", ENTRY, news(first, later), epoch=0).tags
    assert {name: value for name, value in tags.items() if "comput" in name or "changes" in name} == {
        "deeper.computation.machine": "H200",
        "deeper.computation.code": "c0de",
        "deeper.computation.threads": "-",
        "deeper.computation.precision": "bf16",
        "deeper.changes.code": "beef -> c0de",
    }


def test_an_older_run_that_was_resumed_under_another_commit_went_on_with_other_code() -> None:
    state = read_state(RESULTS / "records" / "runs" / "81e92f45be41")
    assert shape_other_code(state) == {"deeper.changes.code": "ceccf3dc18f0 -> f6e20f443c3a"}
    tags = shape_run_news("first", ENTRY, replace(news(start(2)), state=state), epoch=0).tags
    assert tags["deeper.changes.code"] == "ceccf3dc18f0 -> f6e20f443c3a"
    assert shape_other_code(read_state(RESULTS / "records" / "runs" / "8d21e5f19163")) == {}, "resumed under one commit"


def test_arms_without_descriptions_are_told_apart_by_their_settings() -> None:
    plans = read_plans(RESULTS / "records", "ablation-imagenette")
    settings = settings_of_arms(recorded_configs(RESULTS / "records", plans[0].entries))
    note = experiment_note("first", plans, {}, settings)
    assert "| arm | what sets it apart | runs |" in note
    assert "| reduced-none | network.reduction reduced, network.aux none | 3 |" in note
    described = {"arms": {"reduced-none": {"description": "plain"}}}
    assert "| reduced-none | plain | 3 |" in experiment_note("first", plans, described, settings)


def test_arms_of_an_experiment_that_has_not_begun_are_told_apart_by_its_file() -> None:
    recipe = {"epochs": 2}
    content = {"recipe": recipe, "arms": {"full": {}, "long": {"recipe": {"epochs": 4}, "network": {"aux": "none"}}}}
    assert settings_of_arms(planned_configs(content)) == {
        "full": "recipe.epochs 2",
        "long": "recipe.epochs 4, network.aux none",
    }
