"""`deeper bench target`: trainings in turns until a target, kept epoch by epoch, on tiny photographs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import cli
from bench.suites.harness.cpu_time import cpu_seconds
from bench.suites.harness.worker_process import worker_process
from bench.suites.target.courses import Course
from bench.suites.target.folders import FolderValLoader
from bench.suites.target.implementations import BASELINE, IMPLEMENTATIONS, OURS, Workload, reference_recipe
from bench.suites.target.worker import serve
from reproduce.data import folder, load_manifest
from reproduce.data.writing import PrepareConfig, prepare


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that anyone can tell apart, with 64 training and 8 validation images each."""
    root, random = tmp_path_factory.mktemp("target") / "photographs", np.random.default_rng(0)
    for split, count in (("train", 64), ("val", 8)):
        for label, name in enumerate(("dark", "light")):
            place = root / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(128 * label, 128 * label + 127, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.jpg")
    return root


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("bench.suites.target.suite.latest_results_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def workload(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Workload:
    prepared = tmp_path_factory.mktemp("prepared") / "data"
    prepare(folder(photographs), prepared, PrepareConfig(workers=1))
    return Workload(
        photographs=photographs,
        prepared=prepared,
        data_hash=load_manifest(prepared).hash,
        classes=2,
        side=32,
        target=1.1,  # out of reach
        epochs=2,
        longest_epochs=2,
        threads=1,
        state=tmp_path_factory.mktemp("state"),
    )


def courses(name: str, workload: Workload, epochs: int) -> Iterator[Course]:
    """Train some epochs in a worker process, and yield the course at the start and after each of them."""
    with worker_process(name, serve, name, workload, 0) as worker:
        yield worker.receive()
        for _ in range(epochs):
            yield worker.request("the next epoch")


def curve(course: Course) -> list[tuple[float, float]]:
    return [(epoch.loss, epoch.top1) for epoch in course.epochs]


def bench(*words: object) -> int:
    fast = ("--side", "32", "--threads", "1", "--seeds", "1", "--epochs", "2", "--longest-epochs", "2")
    return cli.main(["bench", "target", *fast, *map(str, words)])


def test_both_implementations_train_to_the_target_and_are_not_repeated(
    photographs: Path, caches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "target.json"
    bench(photographs, "--target", "1", "--output", file)
    result = json.loads(file.read_text(encoding="utf-8"))
    (comparison,) = result["comparisons"]
    assert list(comparison["rounds"]) == [OURS, BASELINE]
    for (values,) in comparison["rounds"].values():
        assert values["best top-1 of the worst seed, %"] >= 1
        assert values["epochs"] == 1
        assert values["CPU-seconds to the target"] > 0.5
    ours = comparison["rounds"][OURS][0]
    assert ours["CPU-seconds with preparing the data"] > ours["CPU-seconds to the target"]
    assert set(comparison["once"]) == {OURS}
    assert "goal, CPU-seconds to the target, torchvision / deeper at least 5" in capsys.readouterr().out
    assert {path.name for path in caches.rglob("*") if path.is_file()} == {".lock"}

    bench(photographs, "--target", "1", "--output", file)
    assert "epoch" not in capsys.readouterr().err
    assert json.loads(file.read_text(encoding="utf-8"))["courses"] == result["courses"]


def test_a_target_out_of_reach_is_told(photographs: Path, caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(photographs, "--target", "99.99") == 1
    captured = capsys.readouterr()
    assert "torchvision, seed 0: 99.99 % not reached in 2 epochs" in captured.out
    assert "goal, best top-1 of the worst seed, %, deeper at least 99.99: " in captured.out
    assert "h left at the longest" in captured.err


@pytest.mark.parametrize(
    "name", [OURS, BASELINE, *(pytest.param(n, marks=pytest.mark.long) for n in IMPLEMENTATIONS if "without" in n)]
)
def test_a_training_that_is_killed_ends_as_if_it_had_not_been(name: str, workload: Workload) -> None:
    *_, undisturbed = courses(name, workload, 2)
    elsewhere = replace(workload, state=workload.state / "killed")
    with worker_process(name, serve, name, elsewhere, 0) as worker:
        worker.receive()
        before = worker.request("the next epoch")
        worker.send("the next epoch")
        worker.kill()
    after, resumed = courses(name, elsewhere, 1)
    assert after == before
    assert curve(resumed) == curve(undisturbed)
    assert resumed.ended
    assert not resumed.reached


def test_cpu_seconds_count_the_processes_that_load(photographs: Path) -> None:
    loader = FolderValLoader(photographs, reference_recipe(32, 1), workers=2)
    before, own_before = cpu_seconds(), time.process_time()
    assert sum(len(labels) for _, labels, _ in loader) == loader.images
    assert cpu_seconds() - before > time.process_time() - own_before + 0.02


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--side", "16"], "side: 16: use at least 32"),
        (["--target", "101"], "target: 101.0: use less than 100"),
        (["--target", "0"], "target: 0.0: use more than 0"),
        (["--seeds", "some"], "seeds: 'some'; give their number"),
        (["--implementation", "torch"], "'torch' is none of deeper, torchvision"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "target", str(tmp_path), *words]) == 2
    assert message in one_error(capsys)


def test_a_folder_without_validation_images_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train").mkdir()
    assert cli.main(["bench", "target", str(tmp_path)]) == 2
    assert "no folder val/ in it" in one_error(capsys)


def test_too_few_images_for_a_step_are_told(
    image_folder: Path, caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(image_folder) == 2
    assert "12 images in train/ are fewer than a step of 64" in one_error(capsys)


def test_results_of_another_setting_are_not_mixed(
    photographs: Path, caches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "target.json"
    content: dict[str, Any] = {"setting": {"side": 48}, "courses": [], "preparing": None}
    file.write_text(json.dumps(content), encoding="utf-8")
    assert bench(photographs, "--output", file) == 2
    assert "holds results with another" in (error := one_error(capsys))
    assert "side" in error


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deeper: ")]
    return error
