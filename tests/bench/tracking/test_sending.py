"""What a tracking store rejects, and what may pass."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bench.tracking.sending import RejectedError, Sender, batches, is_rejection
from bench.tracking.shaping import Metric, NewRun, RunDescription, RunUpdate


@pytest.mark.parametrize(
    ("status", "stays"),
    [(400, True), (404, True), (401, False), (403, False), (408, False), (429, False), (500, False), (503, False)],
)
def test_client_errors_stay_unless_they_are_known_to_pass(status: int, stays: bool) -> None:
    assert is_rejection(status) is stays


def test_a_metric_that_the_store_cannot_name_is_a_rejection(tmp_path: Path, store: Path) -> None:
    sender = Sender(f"sqlite:///{shutil.copy(store, tmp_path)}")
    experiment = sender.create_experiment("rejections", None)
    run = sender.client.create_run(experiment).info.run_id
    update = RunUpdate(0, metrics=(Metric("no (such) name?", 1.0, 0, 0),))
    with pytest.raises(RejectedError, match="no \\(such\\) name"):
        sender.update_run(run, update, status="RUNNING")


@pytest.mark.parametrize("killed_in", ["log_inputs", "log_batch"])
def test_a_description_that_was_cut_short_is_completed_by_the_next_call(
    killed_in: str, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = Sender(f"sqlite:///{shutil.copy(store, tmp_path)}")
    run = sender.client.create_run(sender.create_experiment("cut", None)).info.run_id
    description = RunDescription((("network.aux", "both"),), {"deeper.data": "tiny"}, "tiny", "abc", '{"uri": "tiny"}')

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sender.client, killed_in, killed)
        with pytest.raises(KeyboardInterrupt):
            sender.update_run(run, sender.describe_run(run, description, RunUpdate(0)), status="RUNNING")
    sender.update_run(run, sender.describe_run(run, description, RunUpdate(0)), status="RUNNING")
    found = sender.client.get_run(run)
    assert found.data.params == {"network.aux": "both"}
    assert found.data.tags["deeper.data"] == "tiny"
    assert [entry.dataset.name for entry in found.inputs.dataset_inputs] == ["tiny"]


def test_a_request_searches_for_no_module(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client looks for Databricks before each, which took half of its time."""
    Sender(f"sqlite:///{shutil.copy(store, tmp_path)}")
    from mlflow.tracking.request_header.registry import resolve_request_headers

    searched = []

    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            searched.append(name)

    resolve_request_headers()
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    resolve_request_headers()
    assert searched == []


def test_the_artifacts_of_a_new_run_are_uploaded_without_asking_where_to(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = Sender(f"sqlite:///{shutil.copy(store, tmp_path)}")
    experiment = sender.create_experiment("artifacts", (tmp_path / "artifacts").as_uri())
    run = sender.create_run(experiment, NewRun("new", 1, {}))
    (tmp_path / "config.yaml").write_text("seed: 0", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(sender.client, "get_run", None)
        patch.setattr(sender.client, "log_artifact", None)
        sender.update_run(run, RunUpdate(0, artifacts=(tmp_path / "config.yaml",)), status="RUNNING")
    assert [file.path for file in sender.client.list_artifacts(run)] == ["config.yaml"]


def test_requests_are_as_few_as_the_limits_of_mlflow_allow_and_end_with_the_tags() -> None:
    metrics = [Metric("m", float(step), 0, step) for step in range(1950)]
    params = [(f"p{index}", "v") for index in range(30)]
    tags = {f"t{index}": "v" for index in range(150)}
    found = batches(metrics, params, tags)
    assert [{kind: len(part) for kind, part in batch.items()} for batch in found] == [
        {"metrics": 1000},
        {"metrics": 950, "params": 30, "tags": 20},
        {"tags": 100},
        {"tags": 30},
    ]
    assert [metric for batch in found for metric in batch.get("metrics", ())] == metrics
    assert batches([], [], {}) == []
