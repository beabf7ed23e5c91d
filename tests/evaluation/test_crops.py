"""The crops of the protocols have the right positions, and their pixels agree with a simple reference."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import run_model
from PIL import Image
from reference import crops_10, crops_144
from torchvision.transforms.functional import five_crop, pil_to_tensor

from reproduce.data import DataError
from reproduce.data.loading.loaders import LoaderConfig
from reproduce.data.loading.multicrop import MultiCrop, MultiCropLoader, shorter_sides
from reproduce.evaluation.distributed import evaluate_in_workers
from reproduce.evaluation.ensemble import Enlarged, EvaluationConfig, enlarged, multi_crop
from reproduce.evaluation.models import SingleCrop
from reproduce.evaluation.protocols import CROPS, sides

PAPER = multi_crop("144-crop", 224)


def test_scales_and_counts_are_the_papers() -> None:
    assert PAPER.sides == (256, 288, 320, 352)
    assert 2 * PAPER.count == CROPS["144-crop"]
    assert 2 * multi_crop("10-crop", 224).count == CROPS["10-crop"]
    assert sides("144-crop", 48) == (55, 62, 69, 75)


def test_positions_of_the_crops_in_a_landscape() -> None:
    boxes = PAPER.boxes(375, 500)
    assert boxes[:18].tolist() == [
        [256, 341, top, square + left, side]
        for square in (0, 42, 85)
        for top, left, side in (
            (0, 0, 224),
            (0, 32, 224),
            (32, 0, 224),
            (32, 32, 224),
            (16, 16, 224),
            (0, 0, 256),
        )
    ]
    assert boxes[-1].tolist() == [352, 469, 0, 117, 352]


@pytest.mark.parametrize(("height", "width", "distinct"), [(375, 500, 72), (640, 427, 72), (500, 500, 24)])
def test_crops_are_inside_and_distinct_except_in_a_square_image(height: int, width: int, distinct: int) -> None:
    boxes = PAPER.boxes(height, width)
    assert len(np.unique(boxes, axis=0)) == distinct
    h, w, top, left, side = boxes.T
    assert (np.minimum(h, w) == np.repeat(PAPER.sides, 18)).all()
    assert ((top >= 0) & (left >= 0) & (top + side <= h) & (left + side <= w)).all()


def crops_of(folder: Path, crops: MultiCrop) -> dict[int, torch.Tensor]:
    found = {}
    for pixels, _, numbers in MultiCropLoader(folder, crops, LoaderConfig(batch_size=4)):
        found.update(zip(numbers.tolist(), pixels, strict=True))
    return found


@pytest.mark.parametrize(("protocol", "reference"), [("10-crop", crops_10), ("144-crop", crops_144)])
@pytest.mark.parametrize("resolution", [56, 48])
@pytest.mark.parametrize("stored", ["raw_data", "jpeg_data"])
def test_crops_agree_with_the_reference(
    request: pytest.FixtureRequest, files: list[Path], protocol: str, reference: Any, resolution: int, stored: str
) -> None:
    crops = multi_crop(protocol, resolution)
    found = crops_of(request.getfixturevalue(stored), crops)
    for number, file in enumerate(files):
        pictures = reference(Image.open(file), resolution)[: crops.count]
        for one, picture in zip(found[number], pictures, strict=True):
            assert torch.equal(one, pil_to_tensor(picture)), number


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_image_is_named(jpeg_data: Path, tmp_path: Path, workers: int) -> None:
    damaged = shutil.copytree(jpeg_data, tmp_path / "damaged")
    content = bytearray((damaged / "val.beton").read_bytes())
    place = content.rindex(b"\xff\xd8\xff")
    content[place : place + 2] = b"no"
    (damaged / "val.beton").write_bytes(content)
    config = EvaluationConfig([run_model(tmp_path, jpeg_data)], damaged, "10-crop", threads=1)
    with pytest.raises(DataError, match=r"val\.beton: image 5 is damaged: .*; prepare the data set again"):
        evaluate_in_workers(config, workers=workers)


def test_corners_are_torchvisions_five_crop() -> None:
    """At 224 all margins are even, so nothing depends on how halves are rounded."""
    square = torch.arange(256 * 256).view(1, 256, 256)
    boxes = multi_crop("10-crop", 224).boxes(256, 256)
    ours = [square[:, top : top + side, left : left + side] for _, _, top, left, side in boxes.tolist()]
    for one, other in zip(ours, five_crop(square, 224), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_every_image_comes_exactly_once(raw_data: Path, world_size: int) -> None:
    seen = []
    for rank in range(world_size):
        loader = MultiCropLoader(
            raw_data, multi_crop("10-crop", 32), LoaderConfig(batch_size=2, rank=rank, world_size=world_size)
        )
        for _, labels, numbers in loader:
            assert labels.tolist() == [number // 3 for number in numbers.tolist()]
            seen += numbers.tolist()
    assert sorted(seen) == list(range(6))


def test_images_that_are_scaled_up_are_counted(raw_data: Path) -> None:
    assert sorted(shorter_sides(raw_data).tolist()) == [88, 89, 97, 113, 128, 131]
    single = SingleCrop(64, 0.875)
    assert enlarged(raw_data, "144-crop", single) == Enlarged(images=3, largest_side=101)
    assert enlarged(raw_data, "single", SingleCrop(80, 0.875)) == Enlarged(images=2, largest_side=80)
