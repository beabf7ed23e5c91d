"""An experiment that is edited under its old name, in a real MLflow store: every reader takes the runs of one plan."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.frames import read
from bench.cli import main
from bench.planning.plan import make_plan
from bench.records.evaluations import evaluation_table, write_evaluation
from bench.records.finished_runs import find_runs
from bench.records.plan import plan_hash, read_plan, write_plan
from bench.records.record import Record
from bench.tracking.cursors import ExperimentCursors
from bench.tracking.dashboard import run_dashboard
from bench.tracking.pages import FORMAT
from bench.tracking.pages.views import plan_filter, view_page
from bench.tracking.publishing import Publisher
from bench.tracking.reader import pending
from reproduce import schema
from reproduce.spec import PlannedRun, load_experiment

Begin = Callable[[Path, PlannedRun], Record]
Grid = Callable[..., list[PlannedRun]]


@pytest.fixture
def records(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def grid(planned: Callable[..., PlannedRun]) -> Grid:
    """Plans two arms with two seeds."""

    def make(
        *,
        epochs: int = 3,
        data_hash: str = "abc",
        arms: Sequence[str] = ("full", "bare"),
        seeds: Sequence[int] = (0, 1),
    ) -> list[PlannedRun]:
        def changed(run: PlannedRun) -> PlannedRun:
            recipe = run.config.recipe.model_copy(update={"epochs": epochs})
            config = run.config.model_copy(update={"recipe": recipe, "data_hash": data_hash})
            return run.model_copy(update={"config": config})

        return [changed(planned(seed, arm=arm)) for seed in seeds for arm in arms]

    return make


@pytest.fixture
def record(begin: Begin) -> Callable[[Path, PlannedRun, float], None]:
    def finish(records: Path, run: PlannedRun, top1: float) -> None:
        made = begin(records, run)
        made.epoch(0, {schema.VAL_TOP1: top1, schema.TRAIN_LOSS: 1.0})
        made.end("finished", metrics={schema.FINAL_TOP1: top1})

    return finish


def uri(records: Path) -> str:
    return f"sqlite:///{records}/mlflow.db"


def publish(records: Path, store: Path | None = None) -> None:
    assert Publisher(records, uri(store or records)).publish(final=True)


def report(records: Path, *options: str) -> tuple[pd.DataFrame, str, str]:
    """The arms, the page and results.md."""
    out = records / "report"
    assert main(["report", "first", "--records", str(records), "--output", str(out), *options]) == 0
    page, markdown = ((out / name).read_text(encoding="utf-8") for name in ("index.html", "results.md"))
    return pd.read_csv(out / "arms.csv").set_index("arm"), page, markdown


def run_tags(records: Path, condition: str) -> list[dict[str, str]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri(records))
    identity = client.get_experiment_by_name("first").experiment_id
    found = client.search_runs([identity], filter_string=condition)
    return [run.data.tags for run in found if schema.TAG_KEY in run.data.tags]  # not the run of the report


@pytest.mark.parametrize("change", [{"epochs": 5}, {"data_hash": "prepared anew"}])
def test_runs_of_an_edited_experiment_are_not_more_seeds(
    records: Path, grid: Grid, record: Any, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = grid(), grid(**change)
    for runs, top1 in ((old, 0.5), (new, 0.75)):
        write_plan(records, "first", runs, {})
        for run in runs:
            record(records, run, top1)
        publish(records)
    arms, page, markdown = report(records)
    assert arms["n"].to_dict() == {"full": 2, "bare": 2}
    assert arms["top1"].to_dict() == {"full": 0.75, "bare": 0.75}
    assert "4 of 4" in page
    assert "Complete" in page
    assert f"4 other runs under this name are not in plan {plan_hash(new)} and are left out." in page
    assert "n = 4 finished of 4 runs; plan " in markdown
    assert "4 other runs left out" in markdown

    arms, page, _ = report(records, "--plan", plan_hash(old)[:6])
    assert arms["top1"].to_dict() == {"full": 0.5, "bare": 0.5}
    assert f"These are the runs of the older plan {plan_hash(old)}" in page

    for digest, runs in ((plan_hash(old), old), (plan_hash(new), new)):
        tagged = run_tags(records, plan_filter(digest))
        assert {tags[schema.TAG_KEY] for tags in tagged} == {run.key for run in runs}, "what MLflow's pages filter by"

    capsys.readouterr()
    assert main(["status", "first", "--records", str(records)]) == 0
    shown = capsys.readouterr().out
    assert f"4 other recorded runs are not in plan {plan_hash(new)}" in " ".join(shown.split())
    assert main(["status", "first", "--records", str(records), "--plan", plan_hash(old), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["plan"], len(content["runs"]), len(content["others"])) == (plan_hash(old), 4, 4)


def test_an_edit_that_shares_runs_keeps_them(records: Path, grid: Grid, record: Any) -> None:
    old = grid(seeds=(0, 1, 2))
    write_plan(records, "first", old, {})
    for run in old:
        record(records, run, 0.5)
    publish(records)
    write_plan(records, "first", grid(arms=("full",)), {})
    assert pending(records, uri(records)) == 1, "the plan itself"
    publish(records)
    assert pending(records, uri(records)) == 0
    arms, page, _ = report(records)
    assert arms["n"].to_dict() == {"full": 2}
    assert "4 other runs left out" in page


def test_a_grid_that_lacks_a_run_is_not_complete(records: Path, grid: Grid, record: Any) -> None:
    runs = grid(seeds=(0, 1, 2))
    write_plan(records, "first", runs, {})
    for run in runs[:2]:
        if run.arm == "full":
            record(records, run, 0.5)
    publish(records)
    arms, page, markdown = report(records)
    assert arms["n"].to_dict() == {"full": 1, "bare": 0}, "an arm that never started is missing and not unknown"
    assert "1 of 6" in page
    assert "5 waiting" in page
    assert "Complete<" not in page
    assert "seed 2" in page
    assert "n = 1 finished of 6 runs" in markdown


def test_a_renamed_arm_has_its_new_name_everywhere(records: Path, grid: Grid, record: Any) -> None:
    old = grid()
    write_plan(records, "first", old, {})
    for run in old:
        record(records, run, 0.5)
    publish(records)
    renamed = [run.model_copy(update={"arm": {"full": "both heads"}.get(run.arm, run.arm)}) for run in old]
    write_plan(records, "first", renamed, {})
    publish(records)
    arms, page, _ = report(records)
    assert arms["n"].to_dict() == {"both heads": 2, "bare": 2}
    assert "left out" not in page
    tagged = run_tags(records, plan_filter(plan_hash(renamed)))
    assert {tags["mlflow.runName"] for tags in tagged} == {"both heads s0", "both heads s1", "bare s0", "bare s1"}
    assert {tags[schema.TAG_ARM] for tags in tagged} == {"both heads", "bare"}
    assert all("of experiment *first*" in tags["mlflow.note.content"] for tags in tagged)


def test_a_plan_that_is_not_published_yet_is_not_taken_for_the_older_one(
    records: Path, grid: Grid, record: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(records, "first", grid(), {})
    record(records, grid()[0], 0.5)
    publish(records)
    new = grid(epochs=5)
    write_plan(records, "first", new, {})
    assert main(["report", "first", "--records", str(records), "--output", str(records / "report")]) == 2
    told = capsys.readouterr().err
    assert f"the present plan of 'first' in these records, {plan_hash(new)}, is not published" in told
    assert main(["report", "first", "--records", str(records), "--output", str(records / "r"), "--plan", "zz"]) == 2
    assert f"--plan: 'zz' names no single plan of 'first'; there are: {plan_hash(grid())}" in capsys.readouterr().err
    publish(records)
    assert main(["report", "first", "--records", str(records), "--output", str(records / "report")]) == 2
    told = capsys.readouterr().err
    assert "no finished run; 4 waiting" in told
    assert f"1 other run under this name is not in plan {plan_hash(new)} and is left out." in told


def test_two_peoples_plans_under_one_name_are_told_apart(records: Path, grid: Grid, record: Any) -> None:
    mine, theirs = records / "mine", records / "theirs"
    for folder, runs, top1 in ((mine, grid(), 0.5), (theirs, grid(epochs=5), 0.75)):
        write_plan(folder, "first", runs, {})
        for run in runs:
            record(folder, run, top1)
        publish(folder, records)
    for folder, own, other, top1 in (
        (mine, grid(), grid(epochs=5), 0.5),
        (theirs, grid(epochs=5), grid(), 0.75),
        (None, grid(epochs=5), grid(), 0.75),
    ):
        found = read("first", tracking_uri=uri(records), own=plan_hash(own) if folder else None)
        assert set(found.finished[schema.FINAL_TOP1]) == {top1}
        assert found.others == 4
        assert found.notices[0].startswith(f"Two plans go by this name: these are the runs of {plan_hash(own)} ")
        assert plan_hash(other) in found.notices[0]

    write_plan(mine, "first", grid(epochs=5), {})  # and now they agree
    publish(mine, records)
    found = read("first", tracking_uri=uri(records))
    assert [notice for notice in found.notices if "Two plans" in notice] == []


def test_two_trainings_of_one_run_are_not_mixed(records: Path, grid: Grid, record: Any, begin: Begin) -> None:
    mine, theirs = records / "mine", records / "theirs"
    runs = grid(arms=("full",))
    for folder in (mine, theirs):
        write_plan(folder, "first", runs, {})
    for run in runs:
        record(mine, run, 0.5)
    publish(mine, records)
    time.sleep(0.002)  # two people do not start in one millisecond
    made = begin(theirs, runs[0])
    made.epoch(0, {schema.VAL_TOP1: 0.75, schema.TRAIN_LOSS: 7.0})
    made.end("failed", error="theirs")
    record(theirs, runs[1], 0.75)
    publish(theirs, records)
    for _ in range(2):
        found = read("first", tracking_uri=uri(records))
        assert found.finished[schema.FINAL_TOP1].tolist() == [0.5, 0.5]
        assert found.epochs[schema.VAL_TOP1].tolist() == [0.5, 0.5]
        assert found.repeated == 2
        assert found.notices == [
            "2 further trainings of these runs are left out: of each run, the finished training that began first "
            "counts."
        ]
        shutil.rmtree(mine / "publisher")  # a lost cursor finds the same runs again
        publish(mine, records)
    assert len(run_tags(records, f"tags.`{schema.TAG_KEY}` = '{runs[0].key}'")) == 2


def test_a_store_without_plans_is_read_as_before_and_never_called_complete(
    records: Path, grid: Grid, record: Any
) -> None:
    import sqlite3

    for runs, top1 in ((grid(), 0.5), (grid(epochs=5), 0.75)):
        write_plan(records, "first", runs, {})
        for run in runs:
            record(records, run, top1)
    publish(records)
    with sqlite3.connect(records / "mlflow.db") as database:
        database.execute("delete from experiment_tags where key like 'deeper.plan%'")
        database.execute("delete from tags where key like 'deeper.plan%'")
    arms, page, markdown = report(records)
    assert arms["n"].to_dict() == {"full": 4, "bare": 4}
    assert "Complete<" not in page
    assert "Several different runs have the same arm and seed (full s0, bare s0, full s1, bare s1)" in page
    assert "left out" not in markdown

    publish(records)  # a new publisher adds the plans
    assert report(records)[0]["n"].to_dict() == {"full": 2, "bare": 2}


def test_evaluations_of_older_runs_are_left_out_and_arms_have_their_present_names(
    records: Path, grid: Grid, record: Any
) -> None:
    old, new = grid(), grid(epochs=5)
    content = {"protocol": "10-crop", "date": "2026-11-24T12:00:00Z", "top1": 0.8, "top5": 0.9, "crops": 10}
    content["data"] = {"source": "tiny", "hash": "abc", "classes": 10, "images": 6}
    predictions = {"index": np.arange(2), "label": np.arange(2)}
    for number, runs in enumerate((old, new)):
        write_plan(records, "first", runs, {})
        record(records, runs[0], 0.5)
        models = [{"run": runs[0].key, "experiment": "first", "arm": "full"}]
        write_evaluation(records / "evaluations" / str(number), {**content, "models": models}, predictions)
    assert evaluation_table(records)["evaluation"].tolist() == ["1"]
    assert evaluation_table(records, {"first": plan_hash(old)})["evaluation"].tolist() == ["0"]
    write_plan(records, "first", [run.model_copy(update={"arm": "renamed"}) for run in new], {})
    assert evaluation_table(records)["arm"].tolist() == ["renamed"]


def test_runs_to_evaluate_are_those_of_the_plan(records: Path, grid: Grid, begin: Begin) -> None:
    for runs in (grid(), grid(epochs=5)):
        write_plan(records, "first", runs, {})
        for run in runs:
            made = begin(records, run)
            made.predictions({"index": np.arange(2), "label": np.arange(2)})
            made.end("finished")
    assert [run.config.recipe.epochs for run in find_runs(records, ["first:full"])] == [5, 5]
    assert [run.config.recipe.epochs for run in find_runs(records, ["first:full"], plan_hash(grid()))] == [3, 3]
    assert [run.label for run in find_runs(records, [grid()[0].key])] == ["first:full:0"], "of an older plan"


def test_a_job_that_is_requeued_leaves_a_newer_plan_the_present_one(
    tmp_path: Path, synthetic_data: Path, begin: Begin
) -> None:
    text = "name: tiny\ndata: {path: SET}\nrecipe: {epochs: 1, batch_size: 16, resolution: 32, learning_rate: 0.01}\n"
    file = tmp_path / "submitted.yaml"
    file.write_text(text.replace("SET", synthetic_data.name) + "arms: {full: {}}\nseeds: [0]\n", encoding="utf-8")
    submitted = load_experiment(file)
    plans = [
        make_plan(submitted.model_copy(update={"seeds": seeds}), synthetic_data.parent).runs for seeds in ((0,), (1,))
    ]
    for runs in plans:
        write_plan(tmp_path, "tiny", runs, {})
    begin(tmp_path, plans[0][0]).end("finished")
    command = ["run", str(file), "--no-publish", "--records", str(tmp_path), "--data", str(synthetic_data.parent)]
    assert main([*command, "--keep-newer-plan"]) == 0
    assert [entry.seed for entry in read_plan(tmp_path, "tiny")] == [1]
    assert not (tmp_path / "experiments" / "tiny" / "experiment.yaml").exists()
    assert main(command) == 0
    assert [entry.seed for entry in read_plan(tmp_path, "tiny")] == [0], "a person who takes an edit back means it"


def test_the_dashboards_link_shows_the_present_plan(
    records: Path, grid: Grid, record: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(records, "first", grid(), {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    cursors = ExperimentCursors(records, "http://server:5000", "first")
    cursors.write_experiment_id("7")
    cursors.write_plan(plan_hash(grid()))
    cursors.write_pages(FORMAT)
    assert run_dashboard(records, experiment="first") == 0
    link = capsys.readouterr().out
    assert view_page("7", plan_hash(grid())) in link
