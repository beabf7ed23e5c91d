"""`deeper bench loader`: loaders that do the same work in worker processes, and the pictures that they read."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bench import cli
from bench.suites.harness.errors import WorkerProcessError
from bench.suites.loader import suite as loader
from bench.suites.loader.entropy import BYTES, EFFICIENCY, ENTROPY, SPEED, started_entropy_decoding
from bench.suites.loader.implementations import LoaderWorkload
from bench.suites.loader.pictures import MIXED_SIZES, Pictures, generated, mixed, mosaics, photographs
from bench.suites.loader.suite import LoaderOptions
from bench.suites.loader.worker import DELIVERED, MEMORY, START, started_loader, whole_epochs

TINY = {"images": 8, "batch": 4, "repetitions": 1, "seconds": 0.01}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return generated(tmp_path_factory.mktemp("generated"), images=8, size=(96, 72))


def test_our_loader_and_its_baselines_take_turns_at_the_same_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pictures: Pictures
) -> None:
    hidden = tmp_path / "nvidia" / "__init__.py"  # hides DALI, if it is installed, from the spawned processes, too
    hidden.parent.mkdir()
    hidden.touch()
    monkeypatch.syspath_prepend(tmp_path)
    names = ("deeper", "FFCV jpeg", "DALI", "torchvision, PIL")
    comparison = loader._compare(pictures, 32, names, LoaderOptions(**TINY), 1, Console(quiet=True))
    assert comparison.name == "generated-32"
    assert list(comparison.absent) == ["DALI"]
    assert "pip install" in comparison.absent["DALI"]
    *loaders, last = comparison.repetitions
    assert (loaders, last) == (["deeper", "FFCV jpeg", "torchvision, PIL"], ENTROPY)
    for name in loaders:
        (measurement,) = comparison.repetitions[name]
        assert measurement[SPEED] > 0, name
        assert measurement[EFFICIENCY] > 0, name
        once = comparison.once[name]
        assert once[START] > 0.1
        assert 0.05 < once[MEMORY] < 4
        assert once[loader.FILE] > 0.5
        assert once[DELIVERED] == 8
    (limit,) = comparison.repetitions[ENTROPY]
    assert 0 < limit[BYTES] < limit[EFFICIENCY], "a picture is far smaller than a megabyte"
    assert comparison.goals == ()  # since the pictures are tiny


def test_a_loader_that_fails_is_not_taken_for_one_that_is_not_installed(tmp_path: Path) -> None:
    workload = LoaderWorkload(source=tmp_path, side=32, batch=4, threads=1)
    with (
        pytest.raises(WorkerProcessError, match="deeper: its process ended with exit code 1"),
        started_loader("deeper", workload, partial(whole_epochs, seconds=0.1)),
    ):
        pass


def test_each_loader_is_told_to_refuse_a_damaged_file_or_to_deliver_or_to_leave_out_its_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pictures: Pictures
) -> None:
    monkeypatch.setattr(loader, "MAIN", ("deeper", "torchvision, decode_jpeg"))
    assert loader._fates(pictures, tmp_path, Console(quiet=True)) == {
        "deeper": "refuses it by name when the data are prepared",
        "torchvision, decode_jpeg": "ends with an error",
    }


def test_entropy_decoding_stops_at_a_damaged_file(pictures: Pictures, tmp_path: Path) -> None:
    path = tmp_path / "train" / "any" / "0.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no JPEG")
    with (
        pytest.raises(WorkerProcessError, match=ENTROPY),
        started_entropy_decoding(tmp_path, seconds=0.01) as measure,
    ):
        measure(0)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_photographs_are_rgb_jpegs_from_all_classes_of_a_folder(tmp_path: Path, image_folder: Path) -> None:
    chosen = photographs(image_folder, tmp_path / "copies", images=3)
    paths = sorted((chosen.source("folder") / "train").rglob("*.jpg"))
    assert [path.parent.name for path in paths] == ["ant", "bee", "cat"]
    assert all(Image.open(path).mode == "RGB" for path in paths)
    larger = mosaics(chosen, tmp_path / "larger", (240, 180))
    assert {Image.open(path).size for path in (larger.folder / "images" / "train").rglob("*.jpg")} == {(240, 180)}
    assert larger.pixels == 240 * 180
    assert "240x180" in larger.description


def test_mixed_pictures_have_all_sizes_and_kinds_of_jpegs(tmp_path: Path, pictures: Pictures) -> None:
    many = replace(generated(tmp_path / "many", images=16, size=(96, 72)), name="many")
    made = mixed(many, tmp_path / "mixed")
    images = [Image.open(path) for path in (made.folder / "images" / "train").rglob("*.jpg")]
    assert {image.size for image in images} == set(MIXED_SIZES)
    assert Counter(image.mode for image in images) == {"RGB": 14, "L": 1, "CMYK": 1}
    assert sum("progression" in image.info for image in images) == 2


def test_generated_pictures_are_as_hard_to_decode_as_photographs(tmp_path: Path) -> None:
    made = generated(tmp_path, images=4)
    assert 60 < made.kib_per_image("folder") < 140  # ImageNet: about 110 KB at this size
    values = np.asarray(Image.open(next((tmp_path / "images" / "train").rglob("*.jpg"))))
    assert values.std() > 20


def test_only_photographs_of_imagenets_size_have_goals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loader, "interleave", lambda running, **_: {})
    monkeypatch.setattr(loader, "started_loader", lambda *_, **__: nullcontext((lambda index: {}, {})))
    monkeypatch.setattr(loader, "started_entropy_decoding", lambda *_, **__: nullcontext(lambda index: {}))
    monkeypatch.setattr(Pictures, "source", lambda *_: tmp_path)
    monkeypatch.setattr(Pictures, "kib_per_image", lambda *_: 1.0)
    options, console = LoaderOptions(), Console(quiet=True)

    def goals(pixels: float, side: int, threads: int) -> int:
        made = Pictures("any", "any", tmp_path, 512, pixels)
        return len(loader._compare(made, side, ("deeper", "FFCV jpeg", "SPDL"), options, threads, console).goals)

    assert goals(500 * 375, 224, 1) == 2
    assert [goals(224 * 224, 224, 1), goals(500 * 375, 64, 1), goals(500 * 375, 224, 2)] == [0, 0, 0]


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "large", "{folder}"], "size: 'large' is not a size; give WIDTHxHEIGHT"),
        (["--size", "500x8", "{folder}"], "size.1: 8: use at least 16"),
        (["--size", "500x375"], "size: mosaics are made of the photographs of a folder"),
        (["--images", "8"], "images: 8 are fewer than one batch of 32"),
        (["--side", "0"], "sides.0: 0: use at least"),
        (["{empty}"], "no folder train/ in it"),
        (["{folder}"], "3 RGB JPEGs in train/<class>/, not 512"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(folder=image_folder, empty=tmp_path) for argument in arguments]
    assert cli.main(["bench", "loader", *given]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deeper: ")]
    assert len(errors) == 1
    assert message in errors[0]
