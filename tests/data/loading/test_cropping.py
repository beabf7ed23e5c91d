"""Crops: boxes, pixels, errors; and the fallback for them."""

from __future__ import annotations

import ctypes
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import SUBSAMPLINGS, Box, crop_all, crop_one, jpeg, picture, pil
from PIL import Image

from reproduce.data import DataError
from reproduce.data.loading.cropping import StoredImages, crop
from reproduce.data.loading.decoding import CentralCrop, RandomCrop
from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig, ValLoader, ValLoaderConfig
from reproduce.data.loading.normalise import Normalise
from reproduce.native import DECODER


@pytest.mark.parametrize("crop", [RandomCrop((0.08, 1.0), (3 / 4, 4 / 3), True), RandomCrop((0.9, 1.0), (1, 2), False)])
def test_random_boxes_are_those_of_numba(crop: RandomCrop) -> None:
    random = np.random.default_rng(3)
    heights, widths = random.integers(1, 700, (2, 3000))
    indices = random.integers(0, 2**31, 3000)
    key = 0xFEDCBA9876543210
    box = crop.box()
    expected = [box(np.uint64(key), int(i), int(h), int(w)) for i, h, w in zip(indices, heights, widths, strict=True)]
    assert np.array_equal(crop.boxes(key, indices, heights, widths), expected)


def test_central_boxes_are_those_of_numba() -> None:
    heights, widths = np.random.default_rng(3).integers(1, 700, (2, 500))
    for share in (0.875, 0.5, 1.0):
        box = CentralCrop(share).box()
        expected = [box(np.uint64(0), 0, int(h), int(w)) for h, w in zip(heights, widths, strict=True)]
        assert np.array_equal(CentralCrop(share).boxes(0, heights, heights, widths), expected)


@pytest.mark.parametrize("shape", [(375, 500), (431, 287), (256, 256), (37, 53), (8, 301)])
@pytest.mark.parametrize("side", [7, 32, 224])
def test_pixels_are_near_pils_antialiased_ones(shape: tuple[int, int], side: int) -> None:
    image = picture(*shape)
    random = RandomCrop((0.08, 1.0), (3 / 4, 4 / 3), True)
    many = np.full(12, shape[0]), np.full(12, shape[1])
    boxes: list[Box] = [(0, 0, *shape, False), *map(tuple, random.boxes(5, np.arange(12), *many).tolist())]
    content, stored = jpeg(image), np.asarray(image).tobytes()
    decoded = Image.open(io.BytesIO(content))
    for box in boxes:
        difference = abs(crop_one(content, shape, box, side) - pil(decoded, box, side))
        reduced = min(box[2:4]) >= 3 * side
        assert difference.max() <= (24 if reduced else 1)
        assert difference.mean() <= (4 if reduced else 0.25)
        assert abs(crop_one(stored, shape, box, side, raw=True) - pil(image, box, side)).max() <= 1


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_a_part_is_decoded_as_in_the_whole(subsampling: str, progressive: bool) -> None:
    # Unscaled crops show the decoder's own pixels: PIL's, which decodes the whole.
    shape, side = (203, 171), 40
    content = jpeg(picture(*shape), subsampling=subsampling, progressive=progressive)
    whole = np.asarray(Image.open(io.BytesIO(content)), np.int64)
    places = np.random.default_rng(0).integers(0, (shape[0] - side + 1, shape[1] - side + 1), (60, 2)).tolist()
    boxes: list[Box] = [(top, left, side, side, False) for top, left in [*places, (0, 0), (163, 131)]]
    out, failed = crop_all([content] * len(boxes), [shape] * len(boxes), boxes, side)
    assert not failed
    for pixels, (top, left, *_) in zip(out, boxes, strict=True):
        assert np.array_equal(pixels, whole[top : top + side, left : left + side])


def test_a_reduced_part_is_decoded_as_in_the_whole() -> None:
    shape = (512, 768)
    content = jpeg(picture(*shape))
    for shrink, side in ((2, 32), (4, 16), (8, 8)):
        reader = Image.open(io.BytesIO(content))
        reader.draft("RGB", (shape[1] // shrink, shape[0] // shrink))
        top, left, size = 128, 320, 3 * shrink * side // 2
        box = (top // shrink, left // shrink, size // shrink, size // shrink, False)
        assert reader.size == (shape[1] // shrink, shape[0] // shrink)
        expected = pil(reader.convert("RGB"), box, side)
        pixels = crop_one(content, shape, (top, left, size, size, False), side)
        assert abs(pixels - expected).max() <= 1


def test_grey_jpegs_are_grey_and_cmyk_ones_are_refused() -> None:
    gray, box = picture(60, 80).convert("L"), (0, 0, 60, 80, False)
    content = jpeg(gray)
    pixels = crop_one(content, (60, 80), box, 32)
    assert abs(pixels - pil(Image.open(io.BytesIO(content)).convert("RGB"), box, 32)).max() <= 1
    _, failed = crop_all([jpeg(gray.convert("CMYK"))], [(60, 80)], [box], 32)
    assert "color conversion" in failed[0]


def test_threads_change_no_pixel_and_damage_affects_only_its_image() -> None:
    shapes = [(90, 120), (120, 90), (100, 100)] * 5
    contents = [jpeg(picture(*shape, seed)) for seed, shape in enumerate(shapes)]
    boxes: list[Box] = [(5, 7, 80, 70, bool(seed % 2)) for seed in range(15)]
    expected, failed = crop_all(contents, shapes, boxes, 32)
    assert not failed
    contents[4] = contents[4][: len(contents[4]) // 3]
    contents[9] = b"no image"
    shapes[11] = (99, 100)
    for threads in (1, 4):
        out, failed = crop_all(contents, shapes, boxes, 32, threads)
        assert sorted(failed) == [4, 9, 11]
        assert "Premature end" in failed[4]
        assert "Not a JPEG" in failed[9]
        assert "100x100 pixels, and the file's table says 100x99" in failed[11]
        kept = [place for place in range(15) if place not in failed]
        assert np.array_equal(out[kept], expected[kept])


def test_a_damaged_image_of_a_file_is_named(photo_data: Path, tmp_path: Path) -> None:
    spoilt = Path(shutil.copytree(photo_data, tmp_path / "data"))
    loader = ValLoader(spoilt, ValLoaderConfig(batch_size=4, resolution=32))
    image = loader._pipeline._loader.reader.metadata["f0"][6]
    with (spoilt / "val.beton").open("r+b") as file:
        file.seek(int(image["data_ptr"]))
        file.write(b"\0" * 64)
    with pytest.raises(DataError, match=r"val\.beton: image 6 is damaged: Not a JPEG file.*prepare the data set again"):
        list(loader)


def test_bytes_and_boxes_outside_the_file_or_the_image_are_refused() -> None:
    content, shape = jpeg(picture(60, 80)), (60, 80)

    def refusal(box: Box = (0, 0, 60, 80, False), **table: int) -> str:
        columns = {"offsets": 0, "sizes": len(content), "heights": shape[0], "widths": shape[1], **table}
        images = StoredImages(
            content=np.frombuffer(content, np.uint8),
            is_jpeg=np.array([True]),
            **{name: np.array([value]) for name, value in columns.items()},
        )
        return crop(images, np.array([box], np.int64), np.empty((1, 32, 32, 3), np.uint8)).get(0, "")

    assert refusal() == ""
    assert "are not within the file's" in refusal(offsets=1)
    assert "are not within the file's" in refusal(offsets=-1)
    assert "are not within the file's" in refusal(sizes=2**62)
    assert "sides are 1 to 65535" in refusal(heights=0)
    assert "the crop lies outside its 80x60 pixels" in refusal((0, 0, 61, 80, False))
    assert "the crop lies outside its 80x60 pixels" in refusal((-1, 0, 10, 10, False))


def test_arrays_of_another_type_or_shape_never_reach_the_c_code() -> None:
    content = jpeg(picture(60, 80))
    sides = np.array([60]), np.array([80])
    images = StoredImages(
        np.frombuffer(content, np.uint8), np.array([0]), np.array([len(content)]), *sides, np.array([True])
    )
    box, out = np.array([[0, 0, 60, 80, 0]]), np.empty((1, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="boxes: shape"):
        crop(images, box[:, :4], out)
    with pytest.raises(ctypes.ArgumentError):
        crop(images, box.astype(np.int32), out)
    for wrong in (out[:, :31], out[..., :2], out.astype(np.float64), out.swapaxes(1, 2)):
        with pytest.raises(ValueError, match="out: "):
            crop(images, box, wrong)
    with pytest.raises(ValueError, match="sizes: shape"):
        StoredImages(images.content, np.array([0, 0]), images.sizes, *sides, images.is_jpeg)


def test_an_image_that_the_files_table_does_not_know_is_named(photo_data: Path) -> None:
    loader = ValLoader(photo_data, ValLoaderConfig(batch_size=4, resolution=32))
    metadata = loader._pipeline._loader.reader.metadata
    metadata.setflags(write=True)
    metadata["f0"]["data_ptr"][5] += 1
    with pytest.raises(DataError, match=r"val\.beton: image 5 is damaged: its offset is not in the file's table"):
        list(loader)


@pytest.mark.parametrize(
    ("decoder", "dtype"), [("native", torch.float32), ("native", torch.bfloat16), ("stock", torch.bfloat16)]
)
def test_images_can_come_normalised(
    photo_data: Path, dtype: torch.dtype, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DECODER.variable, decoder)
    plain, normalised = (
        TrainLoader(photo_data, TrainLoaderConfig(batch_size=5, seed_order=1, seed_augmentation=2, dtype=kind))
        for kind in (torch.uint8, dtype)
    )
    for (pixels, _), (images, _) in zip(plain.epoch(0, 32), normalised.epoch(0, 32), strict=True):
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, Normalise(dtype)(pixels))
        assert Normalise(dtype)(images) is images


def test_both_decoders_show_the_same_crops(photo_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for decoder in ("native", "stock"):
        monkeypatch.setenv(DECODER.variable, decoder)
        loader = TrainLoader(photo_data, TrainLoaderConfig(batch_size=12, seed_order=1, seed_augmentation=2))
        images, labels = next(loader.epoch(0, 64))
        seen.append((images.float(), labels))
    assert torch.equal(seen[0][1], seen[1][1])
    assert (seen[0][0] - seen[1][0]).abs().mean() < 3


@pytest.mark.parametrize("threads", [2, 3])
def test_the_pixels_do_not_depend_on_the_number_of_threads(
    photo_data: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for decoder in ("native", "stock"):
        monkeypatch.setenv(DECODER.variable, decoder)
        one, several = (
            TrainLoader(photo_data, TrainLoaderConfig(batch_size=5, seed_order=1, seed_augmentation=2, threads=count))
            for count in (1, threads)
        )
        for (images, _), (others, _) in zip(one.epoch(0, 64), several.epoch(0, 64), strict=True):
            assert torch.equal(images, others)


def test_without_a_compiler_other_pixels_have_to_be_asked_for(synthetic_data: Path) -> None:
    loads = (
        "import pathlib; from reproduce.data.loading.loaders import ValLoader, ValLoaderConfig; "
        f"loader = ValLoader(pathlib.Path({str(synthetic_data)!r}), ValLoaderConfig(batch_size=24, resolution=32)); "
        "print(sum(len(images) for images, _, _ in loader), 'images')"
    )
    done = subprocess.run(
        [sys.executable, "-c", loads],
        env={**os.environ, "CC": "no-such-compiler"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 1
    assert "ImplementationError: decoder: no C compiler: no-such-compiler" in done.stdout
    assert "install a C compiler and libjpeg-turbo's header" in done.stdout
    assert "or set DEEPER_DECODER=stock" in done.stdout
