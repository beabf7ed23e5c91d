"""`deeper verify`: what it reads from a result, what it says, and its exit codes. `tests/integration` trains for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.comparisons.reproduction import EQUAL, UNDECIDED, WITHIN, compare_run
from bench.cli import main
from bench.commands.verify.reference import read_reference
from bench.records.plan import write_plan
from bench.records.record import Record
from bench.records.states import read_state, run_folder
from reproduce import schema
from reproduce.data import load_manifest
from reproduce.spec import DataConfig, NetworkConfig, PlannedRun, RecipeConfig, RunConfig, Seeds

LEDGER = Path(__file__).parents[3] / "results" / "claims" / "ledger.json"


def planned(data: Path, arm: str, seed: int) -> PlannedRun:
    config = RunConfig(
        data=DataConfig(path=data.name),
        data_hash=load_manifest(data).hash,
        network=NetworkConfig(classes=10, aux=arm),
        recipe=RecipeConfig(epochs=1, batch_size=8, learning_rate=0.1, resolution=32),
        seeds=Seeds.of(seed),
        workers=1,
    )
    return PlannedRun(experiment="tiny", arm=arm, seed=seed, config=config)


def write(records: Path, run: PlannedRun, top1: float) -> None:
    keeper = Record(run_folder(records, run.key))
    keeper.begin(
        run.config, environment={"commit": "abc"}, world_size=1, device="cpu", resources={"cpus_per_worker": 2}
    )
    keeper.end(schema.FINISHED, metrics={schema.FINAL_TOP1: top1, schema.FINAL_IMAGES_PER_S: 10.0})


@pytest.fixture
def results(tmp_path: Path, synthetic_data: Path) -> Path:
    """Three finished runs of an arm, and one of another."""
    runs = [*(planned(synthetic_data, "none", seed) for seed in range(3)), planned(synthetic_data, "both", 0)]
    for run, top1 in zip(runs, (0.70, 0.71, 0.72, 0.75), strict=True):
        write(tmp_path / "results" / "records", run, top1)
    write_plan(tmp_path / "results" / "records", "tiny", runs, {})
    return tmp_path / "results"


@pytest.fixture
def verify(
    results: Path, synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Any, str]]:
    def run(*options: str) -> tuple[int, Any, str]:
        words = ["verify", str(results), *options, "--data", str(synthetic_data.parent)]
        code = main([*words, "--records", str(tmp_path / "records"), "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out.startswith("{") else None, printed.err

    return run


def repeated(tmp_path: Path, run: PlannedRun, top1: float) -> None:
    """What training leaves behind."""
    write(tmp_path / "records" / "verification" / "tiny", run, top1)


@pytest.mark.parametrize(
    ("top1", "verdict", "code"), [(0.70, EQUAL, 0), (0.715, WITHIN, 0), (0.9, "not reproduced", 1)]
)
def test_a_repeated_run_is_judged_by_the_runs_of_its_arm(
    verify: Any, tmp_path: Path, synthetic_data: Path, top1: float, verdict: str, code: int
) -> None:
    repeated(tmp_path, planned(synthetic_data, "none", 0), top1)
    exit_code, found, _ = verify("--arm", "none", "--seed", "0")
    (run,) = found["runs"]
    assert (exit_code, found["reproduced"]) == (code, code == 0)
    assert [(one["metric"], one["verdict"], one["n"]) for one in run["metrics"]] == [(schema.FINAL_TOP1, verdict, 3)]


def test_one_recorded_run_decides_only_what_is_equal(verify: Any, tmp_path: Path, synthetic_data: Path) -> None:
    repeated(tmp_path, planned(synthetic_data, "both", 0), 0.74)
    code, found, _ = verify("--arm", "both")
    (metric,) = found["runs"][0]["metrics"]
    assert code == 1
    assert (metric["verdict"], metric["reason"]) == (UNDECIDED, "one reference run has no interval")
    assert (metric["low"], metric["high"]) == ("NaN", "NaN")


def test_the_recorded_resources_are_asked_for_and_nothing_of_the_result_changes(verify: Any, results: Path) -> None:
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    reference = read_reference(results, None)
    assert {run.resources.cpus_per_worker for run in reference.runs} == {2}
    verify("--arm", "nothing")
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_the_committed_ablation_is_readable_though_it_is_old() -> None:
    reference = read_reference(LEDGER.parents[1] / "ablation-imagenette", None)
    assert (reference.experiment, len(reference.runs)) == ("ablation-imagenette", 12)
    assert {run.resources.cpus_per_worker for run in reference.runs} == {1}


def test_the_committed_verification_follows_from_the_raw_records() -> None:
    results = LEDGER.parents[1]
    content = json.loads((results / "verification" / "ablation-imagenette.json").read_text(encoding="utf-8"))
    (run,) = content["runs"]
    reference = read_reference(results / "ablation-imagenette", None)
    recorded = next(one for one in reference.runs if one.entry.key == run["key"])
    repeated = read_state(run_folder(results / "verification" / "records", run["key"]))
    found = compare_run(
        repeated.metrics, recorded.metrics, [one.metrics for one in reference.of_arm(recorded.entry.arm)]
    )
    assert [one.verdict for one in found] == [one["verdict"] for one in run["metrics"]]
    for one, written in zip(found, run["metrics"], strict=True):
        assert (one.measured, one.low, one.high) == pytest.approx(
            (written["measured"], written["low"], written["high"]), rel=1e-9
        )
    document = (results / "verification" / "README.md").read_text(encoding="utf-8")
    assert all(f"| {one.metric} | {one.measured:.4f} | {one.recorded:.4f} |" in document for one in found)


def test_wrong_input_is_named_before_anything_is_trained(verify: Any, results: Path, synthetic_data: Path) -> None:
    assert verify("--arm", "other")[0] == 2
    code, _, said = verify("--arm", "both", "--seed", "1")
    assert code == 2
    assert "no finished run of both has seed 1" in said
    assert "holds no 'other'; it holds tiny" in verify("--experiment", "other")[2]
    assert "--static repeats none" in verify("--static", "--arm", "none")[2]
    shutil.rmtree(results / "records" / "experiments")
    assert "holds no records" in verify()[2]


def test_other_data_are_refused(results: Path, photo_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = read_reference(results, None).runs[0].planned.config.data.path
    place = results / "data"
    shutil.copytree(photo_data, place / name)
    assert main(["verify", str(results), "--data", str(place), "--records", str(results / "own")]) == 2
    assert "the same images, prepared with the same options, have the same hash" in capsys.readouterr().err


def test_static_rows_are_those_that_were_committed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(LEDGER.read_text(encoding="utf-8"))
    content["claims"] = [row for row in content["claims"] if row["id"] in ("S-shapes", "S-params-vgg")]
    file = tmp_path / "ledger.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    assert main(["verify", str(tmp_path), "--static"]) == 0
    assert "values: 18 equal" in capsys.readouterr().out.replace("\n", " ")
    content["claims"][0]["parts"][0]["value"] = [1, 2, 3]
    file.write_text(json.dumps(content), encoding="utf-8")
    assert main(["verify", str(file), "--static", "--json"]) == 1
    first = json.loads(capsys.readouterr().out)["static"][0]
    assert (first["recorded"], first["verdict"]) == ([1, 2, 3], "not reproduced")
    file.write_text("{}", encoding="utf-8")
    assert main(["verify", str(file), "--static"]) == 2
