"""`deeper evaluate`: its output, its records, and its answers to mistakes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from fixtures import run_model
from PIL import Image
from torchvision.models import googlenet

from bench.cli import main
from bench.commands.evaluate.paper_table import table_rows
from bench.records.evaluations import TABLE, evaluation_table
from bench.records.plan import write_plan
from bench.records.record import Record
from bench.records.states import run_folder
from reproduce import schema
from reproduce.data.manifest import Manifest
from reproduce.evaluation import ensemble
from reproduce.evaluation.ensemble import EvaluationConfig, evaluate
from reproduce.evaluation.models import RunModel
from reproduce.evaluation.protocols import is_imagenet
from reproduce.execution.metrics import topk_correct
from reproduce.execution.ranks import Ranks
from reproduce.spec import PlannedRun
from reproduce.training import checkpoint


def record(records: Path, data: Path, experiment: str, seeds: tuple[int, ...] = (0, 1)) -> list[RunModel]:
    """Finished runs of the arm `both`, with checkpoints and predictions."""
    models, planned = [], []
    for seed in seeds:
        made = run_model(records / "made", data, seed=seed)
        folder = run_folder(records, made.run.key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        model = RunModel(made.run, made.folder.rename(folder))
        validation = evaluate(EvaluationConfig([model], data, "single", threads=1), Ranks(0, 1, torch.device("cpu")))
        keeper = Record(folder)
        keeper.begin(model.run, environment={}, world_size=1, device="cpu")
        keeper.predictions(validation.predictions or {})
        keeper.end(schema.FINISHED, metrics={schema.FINAL_TOP1: validation.top1})
        models.append(model)
        planned.append(PlannedRun(experiment=experiment, arm="both", seed=seed, config=model.run))
    write_plan(records, experiment, planned, {})
    return models


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, raw_data: Path, synthetic_data: Path) -> Path:
    """Records of two runs on photographs and one on other images."""
    records = tmp_path_factory.mktemp("records")
    record(records, raw_data, "tiny")
    record(records, synthetic_data, "other", seeds=(0,))
    return records


@pytest.fixture
def records(recorded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(recorded, tmp_path / "records")


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    """Networks this small gain nothing from more cores, and are slow on shared ones."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture
def deeper(records: Path, raw_data: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: str) -> tuple[int, str, str]:
        places = ("--records", str(records), "--data", str(raw_data.parent))
        code = main(["evaluate", *words, *places])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_the_table_has_a_row_for_everything_evaluated_so_far(deeper: Any, records: Path) -> None:
    assert deeper("tiny:both:0", "--protocol", "10-crop")[0] == 0
    code, out, _ = deeper("tiny:both", "--protocol", "10-crop", "--json")
    content = json.loads(out)
    assert code == 0
    assert [(row["models"], row["crops"], row["cost"]) for row in content["table"]] == [
        (1, 1, 1),
        (1, 10, 10),
        (2, 10, 20),
    ]
    assert [model["name"] for model in content["models"]] == ["tiny:both:0", "tiny:both:1"]
    table = pd.read_parquet(Path(content["folder"]) / schema.ARTIFACT_PREDICTIONS)
    assert table["correct"].mean() == content["top1"]
    assert table["index"].tolist() == list(range(6))

    frame = evaluation_table(records)
    assert frame[["experiment", "arm", "models", "crops", "imagenet"]].values.tolist() == [
        ["tiny", "both", 1, 10, False],
        ["tiny", "both", 2, 10, False],
    ]
    assert frame.loc[1, "top1"] == content["top1"]


def test_an_evaluation_is_kept_and_never_repeated(deeper: Any, records: Path) -> None:
    before = {path: path.read_bytes() for path in (records / "runs").rglob("*") if path.is_file()}
    _, first, _ = deeper("tiny:both:1", "tiny:both:0")
    kept = {path: path.stat().st_mtime_ns for path in (records / "evaluations").rglob("*")}
    _, second, bar = deeper("tiny:both:0", "tiny:both:1")
    assert {path: path.stat().st_mtime_ns for path in (records / "evaluations").rglob("*")} == kept
    assert bar == ""
    assert "is not shown, because it is of ImageNet's 50 000 validation images" in second
    assert first.splitlines()[-1] == second.splitlines()[-1]
    assert {path: path.read_bytes() for path in (records / "runs").rglob("*") if path.is_file()} == before


def test_a_stopped_command_resumes(deeper: Any, records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("tiny:both:0", "--protocol", "144-crop", "--json", "--no-publish")

    def stopped(probabilities: torch.Tensor, labels: torch.Tensor) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(probabilities)
        return topk_correct(probabilities, labels)

    calls: list[torch.Tensor] = []
    with monkeypatch.context() as stopping:
        stopping.setattr(ensemble, "topk_correct", stopped)
        code, out, _ = deeper(*words)
    assert (code, out) == (75, "")
    code, out, err = deeper(*words)
    assert code == 0
    assert "1 model, 144-crop: 2 images are done, 4 to do" in err
    content = json.loads(out)
    assert content["images_per_s"] == pytest.approx(4 / content["seconds"])
    assert not (Path(content["folder"]) / "parts").exists()
    assert len(pd.read_parquet(Path(content["folder"]) / "predictions.parquet")) == 6


def test_a_run_can_be_named_by_its_key(deeper: Any, records: Path) -> None:
    (key,) = (run["key"] for run in json.loads((records / "experiments/other/plan.json").read_text(encoding="utf-8")))
    shutil.rmtree(records / "experiments" / "other")
    assert deeper(key, "--on", "nowhere")[2].startswith("deeper: nowhere/manifest.json: no such file")
    code, _, error = deeper("feedfeedfeed")
    assert (code, error) == (2, f"deeper: run: 'feedfeedfeed' has no record in {records}\n")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], "run: nothing to evaluate; name a RUN, or --weights FILE --on FOLDER"),
        (["tiny:none"], "run: 'tiny:none': tiny has no arm 'none'; it has both"),
        (["tiny:both:7"], "run: 'tiny:both:7': both has no seed 7; it has 0, 1"),
        (["huge:both"], "experiment: 'huge' has no records in"),
        (["tiny"], "run: 'tiny' names no run; give a key (12 hexadecimal digits) or EXPERIMENT:ARM[:SEED]"),
        (["tiny:both", "other:both"], "run: other:both:0 was validated on other images"),
        (["tiny:both", "--plan", "zz"], "--plan: 'zz' names no single plan of 'tiny'; there are: "),
        (["0123456789ab", "--plan", "zz"], "--plan: 'zz' chooses among runs that are named as EXPERIMENT:ARM"),
        (["tiny:both", "--workers", "0"], "--workers: 0 is too few; use at least 1"),
        (["--weights", "none.pth"], "--on: missing; name the prepared data set"),
        (["--weights", "none.pth", "--on", "DATA"], "--weights: none.pth: no such file"),
        (
            ["tiny:both", "--transform-input", "yes"],
            "--transform-input: applies only to --weights in torchvision's layout",
        ),
    ],
)
def test_a_mistake_is_answered_in_one_line(deeper: Any, raw_data: Path, words: list[str], answer: str) -> None:
    code, _, error = deeper(*(str(raw_data) if word == "DATA" else word for word in words))
    assert code == 2
    assert error.startswith(f"deeper: {answer}")
    assert error.count("\n") == 1


def test_runs_that_lack_what_an_evaluation_needs_are_named(deeper: Any, records: Path, synthetic_data: Path) -> None:
    key, other = (
        run["key"] for run in json.loads((records / "experiments/tiny/plan.json").read_text(encoding="utf-8"))
    )
    code, _, error = deeper("tiny:both:0", "--on", str(synthetic_data))
    assert (code, error.count("\n")) == (2, 1)
    assert "name the same data set with --data or --on" in error
    (run_folder(records, key) / checkpoint.FILE_NAME).unlink()
    code, _, error = deeper("tiny:both:0")
    assert (code, error.count("\n")) == (2, 1)
    assert f"run {key}: no checkpoint.pt in" in error
    (run_folder(records, key) / schema.ARTIFACT_PREDICTIONS).unlink()
    assert f"run: tiny:both:0 ({key}) has no predictions.parquet" in deeper("tiny:both:0")[2]
    (run_folder(records, other) / "events.jsonl").write_text("", encoding="utf-8")
    assert f"run: tiny:both:1 ({other}) is waiting; only a finished run can be evaluated" in deeper("tiny:both:1")[2]
    assert list(evaluation_table(records).columns) == list(TABLE)
    assert evaluation_table(records).empty


def test_weights_of_other_classes_are_refused(deeper: Any, tmp_path: Path, raw_data: Path) -> None:
    torch.save(googlenet(num_classes=3, aux_logits=False, init_weights=False).state_dict(), tmp_path / "three.pth")
    code, _, error = deeper(
        *("--weights", str(tmp_path / "three.pth"), "--transform-input", "no", "--on", str(raw_data))
    )
    assert code == 2
    assert error.startswith("deeper: --weights: three.pth has 3 classes, ")


def test_classes_that_are_numbers_in_the_order_of_text_are_not_taken_for_those_of_weights(
    deeper: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        for number in range(11):
            place = tmp_path / "source" / split / str(number)
            place.mkdir(parents=True)
            Image.new("RGB", (16, 16), (number, 0, 0)).save(place / "0.png")
    data, weights = tmp_path / "data", tmp_path / "eleven.pth"
    code, printed, _ = deeper_data(capsys, "prepare", tmp_path / "source", "--output", data, "--workers", 1)
    assert code == 0
    assert "numbered in the order of text (0, 1, 10, 2, ...)" in " ".join(printed.split())
    torch.save(googlenet(num_classes=11, aux_logits=False, init_weights=False).state_dict(), weights)
    words = ["--weights", str(weights), "--transform-input", "no", "--on", str(data)]
    code, _, error = deeper(*words)
    assert code == 2
    assert "--class-order: missing" in error
    assert "(0, 1, 10, 2, ...)" in error
    assert deeper(*words, "--class-order", "text")[0] == 0


def deeper_data(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["data", *map(str, words)])
    return code, *capsys.readouterr()


def test_imagenet_is_known_by_its_counts_and_by_the_order_of_its_classes() -> None:
    counts = {"classes": 1000, "images": 50_000}
    assert is_imagenet(counts)  # as evaluations recorded it before the order was
    assert is_imagenet({**counts, "by_wordnet_id": True})
    assert not is_imagenet({**counts, "by_wordnet_id": False})
    assert not is_imagenet({**counts, "images": 49_999})


@pytest.mark.parametrize(
    ("classes", "by_wordnet_id", "numbers_as_text"),
    [
        (("n01440764", "n01443537"), True, False),
        (("n01443537", "n01440764"), False, False),
        (("0", "1", "10", "2"), False, True),
        (("00", "01", "02", "10"), False, False),
        (("class0", "class1", "class10", "class2"), False, True),
        (("class00", "class01", "class10"), False, False),
        (("10", "100", "11"), False, True),
        (("a1", "b10", "b2"), False, False),
        (("cat", "dog"), False, False),
    ],
)
def test_the_order_of_classes_is_recognised(
    classes: tuple[str, ...], by_wordnet_id: bool, numbers_as_text: bool
) -> None:
    manifest = Manifest.model_construct(classes=classes)
    assert (manifest.by_wordnet_id, manifest.numbers_as_text) == (by_wordnet_id, numbers_as_text)


def test_the_papers_numbers_are_compared_with_imagenet_only() -> None:
    found = [
        {"models": [{}], "crops": 1, "top1": 0.7, "top5": 0.9},
        {"models": [{}] * 7, "crops": 144, "top1": 0.7, "top5": 0.93},
    ]
    base, best = table_rows(found, imagenet=True)
    assert (best.compared_to_base, best.cost) == (pytest.approx(-3), 1008)
    assert base.paper is not None
    assert best.paper is not None
    assert (base.paper.top5_error, best.paper.top5_error) == (10.07, 6.67)
    assert all(row.paper is None for row in table_rows(found, imagenet=False))
