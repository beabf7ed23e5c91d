"""The study on paper: its arithmetic on cases done by hand, its counts against the code, its page against the model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.records.record import Record
from bench.records.states import read_state
from reproduce import schema
from reproduce.spec import PlannedRun, SpecError
from reproduce.training import checkpoint

sys.path.insert(0, str(Path(__file__).parents[2] / "results" / "study-imagenet"))
from study import document, dumps
from study_model import GPUS, RESULTS, Counted, Limit, Model, Study, makespan, medians


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(Study(runs=14, nodes=4), {**medians(), "loader_images_per_cpu_s": 500, "jpeg_bytes_per_pixel": 0.25})


# --- arithmetic ------------------------------------------------------------------------------------


def test_jobs_go_to_the_first_free_place() -> None:
    assert makespan([3, 2, 2, 1], places=2) == 4  # 3 + 1 beside 2 + 2
    assert makespan([3, 2], places=1) == 5


def test_a_limit_breaks_where_its_proportional_load_fills_it() -> None:
    limit = Limit("", load=20, capacity=80, unit="", grows_with="runs", now=1000, source="", remedy="")
    assert limit.used == 0.25
    assert limit.breaks_at == 4000


def test_two_runs_fit_on_sixteen_gpus(model: Model) -> None:
    assert model.at_once == 4
    assert Model(Study(runs=14, nodes=4, gpus_per_node=16), medians()).at_once == 8


@pytest.mark.parametrize(
    ("study", "said"),
    [(Study(gpus_per_node=4), "--gpus-per-node: 4 GPUs hold no run"), (Study(runs=0), "--runs: 0 is too few")],
)
def test_a_study_that_cannot_be_is_refused(study: Study, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Model(study, medians())


def test_images_a_second_of_a_gpu() -> None:
    # A tenth of 312 TFLOP/s over 3 passes x 2 x 1 G multiply-adds.
    assert Model(Study(runs=7), medians(), GPUS[0], 0.1).gpu_images_per_s(1e9, passes=3) == pytest.approx(5200)


def test_a_run_is_as_fast_as_the_slower_of_gpu_and_loader(model: Model) -> None:
    assert model.loader_images_per_s == 8 * 500
    runs = {run.arm: run for run in model.plan.runs}
    # reduced-none: its GPU could do 10 414 images/s in training, more in validation; 8 loaders do 4 000 each.
    assert model.epoch_seconds(runs["reduced-none"]) == pytest.approx((1_281_167 + 50_000) / (8 * 4000))
    # naive-both: 98.9 TFLOP/s over 6 x 12.58233152 G is 1 310 images/s; validation is held back by the loader.
    training = 1_281_167 / (98.9e12 / (6 * 12.58233152e9))
    validation = 50_000 / min(4000, 98.9e12 / (2 * 12.568061056e9))
    assert model.epoch_seconds(runs["naive-both"]) == pytest.approx((training + validation) / 8)


def test_sums_over_the_plan(model: Model) -> None:
    assert len(model.plan.runs) == 14
    assert model.epochs == 14 * 90
    assert model.image_bytes == pytest.approx(0.25 * 65536 * 4 / 3)
    assert model.read_bytes == pytest.approx(14 * 90 * model.image_bytes * 1_331_167)
    assert model.device_hours == pytest.approx(8 * sum(model.run_seconds(run) for run in model.plan.runs) / 3600)
    calls = model.calls_per_s(drivers=2)  # 4 running, 10 waiting
    assert calls["the drivers' looks at the records"] == pytest.approx(2 * (4 * 4 + 10 * 2) / 15)
    assert calls["the publisher's passes"] == pytest.approx((4 * 7 + 10 * 3) / 2)


# --- counts ----------------------------------------------------------------------------------------

CALLS: list[str] = []
COUNTED = {"open", "os.rename", "fcntl.flock"}


@pytest.fixture(scope="module")
def calls() -> Callable[[Callable[[], object]], int]:
    """Opens, renames and flocks that a call makes; stats raise no audit event."""
    counting = False
    sys.addaudithook(lambda event, _: CALLS.append(event) if counting and event in COUNTED else None)

    def count(call: Callable[[], object]) -> int:
        nonlocal counting
        CALLS.clear()
        counting = True
        try:
            call()
        finally:
            counting = False
        return len(CALLS)

    return count


def test_calls_of_a_look_and_of_a_heartbeat(
    model: Model, calls: Callable[[Callable[[], object]], int], tmp_path: Path
) -> None:
    run: PlannedRun = model.plan.runs[0]
    assert calls(lambda: read_state(tmp_path / "waiting")) == Counted().look_waiting_calls
    progress = {"epoch": 0, "epochs": 90, "step": 1, "steps": 2, "images_per_s": 1.0, "loss": 1.0, "top1": None}
    with Record(tmp_path / run.key) as record:
        record.begin(run.config, environment={}, world_size=8, device="cuda:0")
        assert calls(lambda: record.progress(**progress)) == Counted().heartbeat_calls
        assert read_state(tmp_path / run.key).status == "running"
        assert calls(lambda: read_state(tmp_path / run.key)) == Counted().look_running_calls


def test_calls_of_a_checkpoint(calls: Callable[[Callable[[], object]], int], tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {})  # torch's own imports
    assert calls(lambda: checkpoint.save(tmp_path, {})) == Counted().checkpoint_calls


def test_a_checkpoint_is_counted_as_weights_and_momentum(model: Model) -> None:
    run = model.plan.runs[0]
    assert model.checkpoint_bytes(run) == 2 * 4 * model.plan.costs[run.key][schema.COST_PARAMETERS]


# --- the page --------------------------------------------------------------------------------------


def test_the_committed_page_is_what_the_model_says() -> None:
    """If not: python results/study-imagenet/study.py --out results/study-imagenet"""
    text, numbers = document(Study())
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == text
    assert (RESULTS / "study.json").read_text(encoding="utf-8") == dumps(numbers)
