"""Device hours of a plan: which measured rate is used, how it is scaled, and what the user reads about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.planning import rates
from bench.planning.plan import Plan
from bench.planning.rates import Rates
from bench.records.plan import write_plan
from bench.records.record import Record
from bench.records.states import run_folder
from bench.results import store as results
from bench.suites.harness.reporting import report_comparisons
from reproduce import schema
from reproduce.grid import plan
from reproduce.spec import ExperimentConfig, SpecError, validated

HERE = {
    "gpus": [],
    "machine": {"cpu": "a CPU", "cpu_vendor": "amd", "cpu_flags": ["avx2"], "cores_physical": 2},
}
THERE = {"gpus": [{"name": "NVIDIA H100"}], "machine": {"cpu": "another", "cores_physical": 96}}
RATE = {"images_per_s": 50.0, "cpus": 1, "macs": 100e6, "parameters": 25e7}
MACS = {"none": 100e6, "both": 200e6}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rates, "machine_and_devices", lambda: HERE)
    monkeypatch.setattr(rates, "COMMITTED", tmp_path / "committed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def made_plan(*, workers: int = 1, gpus: float = 0, val_split: int = 0, **recipe: Any) -> Plan:
    """A plan with 3600 training images, ten epochs and the arms none and both."""
    content = {
        "name": "first",
        "data": {"path": "tiny"},
        "recipe": {"epochs": 10, "batch_size": 8, "learning_rate": 0.1, **recipe},
        "resources": {"workers": workers, "cpus_per_worker": 2, "gpus_per_worker": gpus},
        "arms": {arm: {"network": {"aux": arm}} for arm in MACS},
        "seeds": [0],
    }
    experiment = validated(ExperimentConfig, content, where="")
    runs = plan(experiment, data_hashes={"tiny": "-"}, classes={"tiny": 10}, train_images={"tiny": 3600})
    costs = {
        run.key: {
            schema.COST_MACS_TRAINING: MACS[run.arm],
            schema.COST_MACS: MACS[run.arm],
            schema.COST_PARAMETERS: 25e7,
        }
        for run in runs
    }
    return Plan(experiment, tuple(runs), costs, {"tiny": 3600}, {"tiny": val_split})


def recorded(
    records: Path, made: Plan, arm: str, images_per_s: float, *, share: float | None = None, cpus: int | None = None
) -> None:
    run = next(run for run in made.runs if run.arm == arm)
    write_plan(records, "first", made.runs, made.costs)
    record = Record(run_folder(records, run.key))
    if share is None:
        resources = None if cpus is None else {"cpus_per_worker": cpus}
        record.begin(run.config, environment=HERE, world_size=run.config.workers, device="cpu", resources=resources)
    else:
        resources = {"gpus_per_worker": share}
        record.begin(run.config, environment=THERE, world_size=1, device="cuda:0", resources=resources)
    record.end(schema.FINISHED, metrics={schema.FINAL_IMAGES_PER_S: images_per_s})


def result(folder: Path, environment: dict[str, Any], **setting: Any) -> Path:
    """A result file of `deeper bench scaling`."""
    rate = {**RATE, "cpus": None if environment["gpus"] else 1}
    content = {"suite": "scaling", "date": "2026-11-24", "setting": {"rates": [rate], **setting}}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scaling.json"
    path.write_text(json.dumps({**content, "environment": environment}), encoding="utf-8")
    return path


def estimates(found: Rates, made: Plan) -> dict[str, Any]:
    return {run.arm: found.estimate(made, run) for run in made.runs}


def test_recorded_runs_of_the_same_network_are_preferred_and_others_are_scaled(tmp_path: Path) -> None:
    made = made_plan()
    recorded(tmp_path, made, "none", 100.0)
    found = estimates(Rates(tmp_path, gpu=False), made)
    assert found["none"].device_hours == pytest.approx(36000 / 100 / 3600)
    assert found["none"].source.startswith("1 run of first, none, recorded on this device 20")
    assert found["both"].device_hours == pytest.approx(36000 / 50 / 3600)
    assert found["both"].source.startswith("scaled by multiply-adds from 1 run")


@pytest.mark.parametrize(
    ("recipe", "validated"),
    [
        ({}, 10 * 900),
        ({"val_images": 90}, 9 * 90 + 900),
        ({"val_images": 5000}, 10 * 900),
        ({"final_val_images": 300}, 10 * 300),
        ({"val_images": 90, "final_val_images": 300}, 9 * 90 + 300),
    ],
)
def test_only_images_that_are_validated_count(tmp_path: Path, recipe: dict[str, int], validated: int) -> None:
    made = made_plan(val_split=900, **recipe)
    recorded(tmp_path, made, "none", 100.0)
    found = estimates(Rates(tmp_path, gpu=False), made)["none"]
    assert found.device_hours == pytest.approx((36000 + validated / 3) / 100 / 3600)


def test_a_rate_that_was_recorded_on_other_cores_is_scaled_to_those_of_the_plan(tmp_path: Path) -> None:
    made = made_plan()
    recorded(tmp_path, made, "none", 100.0, cpus=1)
    found = estimates(Rates(tmp_path, gpu=False), made)["none"]
    assert found.images_per_s == pytest.approx(200)
    assert found.source.endswith(", by 2 for 1 cores")


def test_a_share_of_a_gpu_counts_as_that_share_and_has_rates_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "machine_and_devices", lambda: THERE)
    made = made_plan(gpus=0.25)
    recorded(tmp_path, made, "none", 1000.0, share=1)
    from_whole = estimates(Rates(tmp_path, gpu=True), made)["none"]
    assert from_whole.images_per_s == pytest.approx(250), "the same share of the speed of a whole one"
    assert from_whole.device_hours == pytest.approx(36000 / 1000 / 3600)
    assert from_whole.source.endswith(", 0.25 of a GPU for 1")

    recorded(tmp_path / "shared", made, "none", 800.0, share=0.25)
    own = estimates(Rates(tmp_path / "shared", gpu=True), made)["none"]
    assert own.images_per_s == pytest.approx(800)
    assert own.device_hours == pytest.approx(36000 / 800 / 3600 / 4), "four runs at once"


def test_a_kept_benchmark_of_this_device_is_found_and_scaled_by_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "environment", lambda: HERE)
    report_comparisons("step", [], setting={"rates": [RATE]}, keep_latest=True)
    found = estimates(Rates(tmp_path, gpu=False), made_plan())
    assert found["none"].images_per_s == pytest.approx(100)
    assert "`deeper bench step` on a CPU, 2 cores, 20" in found["none"].source
    assert "by 2 for 1 cores" in found["none"].source


def test_several_workers_pay_for_communication_and_the_error_of_the_model_is_stated(tmp_path: Path) -> None:
    link = {"ranks": 2, "backend": "nccl", "latency_s": 0.0, "bytes_per_s": 1e9, "error": -0.05}
    file = result(tmp_path, THERE, links=[link], overlap=0.0)
    found = estimates(Rates(tmp_path, gpu=True, file=file), made_plan(workers=2, gpus=1))["none"]
    step_s = 4 / 50 + 1.0  # a gigabyte of gradients over two ranks
    assert found.images_per_s == pytest.approx(8 / step_s)
    assert found.device_hours == pytest.approx(2 * 36000 / found.images_per_s / 3600)
    assert "fitted on 2 ranks of one machine and wrong by -5.0 % there" in found.source


@pytest.mark.parametrize(
    ("workers", "fitted_on"),
    [(2, "2 ranks of one machine"), (3, "4 ranks of one machine"), (6, "3 ranks of 3 machines")],
)
def test_the_link_is_that_of_a_machine_that_holds_all_workers_and_otherwise_one_between_machines(
    tmp_path: Path, workers: int, fitted_on: str
) -> None:
    same = {"backend": "nccl", "latency_s": 0.0, "bytes_per_s": 1e9, "error": 0.0}
    links = [{**same, "ranks": 2}, {**same, "ranks": 4, "machines": 1}, {**same, "ranks": 3, "machines": 3}]
    file = result(tmp_path, THERE, links=links, overlap=0.0)
    plan = made_plan(workers=workers, gpus=1, batch_size=12)
    assert f"fitted on {fitted_on}" in estimates(Rates(tmp_path, gpu=True, file=file), plan)["none"].source


def test_what_the_check_of_a_cluster_measured_names_its_command(tmp_path: Path) -> None:
    file = result(tmp_path, THERE)
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "suite": "scaling-nodes"}), encoding="utf-8")
    found = estimates(Rates(tmp_path, gpu=True, file=file), made_plan(gpus=1))["none"]
    assert found.source.startswith("`deeper slurm check` on NVIDIA H100")


def test_without_a_measured_link_the_source_says_that_communication_is_not_counted(tmp_path: Path) -> None:
    found = estimates(Rates(tmp_path, gpu=True, file=result(tmp_path, THERE)), made_plan(workers=2, gpus=1))["none"]
    assert found.images_per_s == pytest.approx(100)
    assert "communication not counted" in found.source


def test_there_is_no_estimate_if_nothing_was_measured(tmp_path: Path) -> None:
    result(tmp_path / "committed" / "nvidia-h100", THERE)
    assert estimates(Rates(tmp_path, gpu=False), made_plan()) == {"none": None, "both": None}


def test_a_named_device_must_have_been_measured(tmp_path: Path) -> None:
    result(tmp_path / "committed" / "nvidia-h100", THERE)
    assert Rates(tmp_path, gpu=True, device="h100").device == "NVIDIA H100"
    with pytest.raises(SpecError, match="--device: 'a100' is none of those measured: NVIDIA H100"):
        Rates(tmp_path, gpu=True, device="a100")


def test_a_file_that_is_no_result_is_reported_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(SpecError, match=r"x\.json: not what `deeper bench"):
        Rates(tmp_path, gpu=False, file=path)
    with pytest.raises(SpecError, match=r": cannot be read: Is a directory; name a file"):
        Rates(tmp_path, gpu=False, file=tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("date"),
        lambda content: content["setting"]["rates"][0].pop("macs"),
        lambda content: content["setting"].update(links=5, overlap=0.0),
        lambda content: content["setting"].update(links=[{"ranks": 2, "latency_s": 0.0, "bytes_per_s": 1.0}]),
    ],
    ids=["date", "rate", "links", "link"],
)
@pytest.mark.parametrize("given", [True, False], ids=["given", "kept"])
def test_a_damaged_result_is_named_with_what_to_do(damage: Callable[[Any], Any], given: bool, tmp_path: Path) -> None:
    path = result(results.latest_results(), HERE)
    content = json.loads(path.read_text(encoding="utf-8"))
    damage(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SpecError, match=r"\.json: not what `deeper bench .*; move it away, or measure again$"):
        Rates(tmp_path, gpu=False, file=path if given else None)
