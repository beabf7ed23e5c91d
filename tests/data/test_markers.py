"""Restart markers: the same pixels from less of the file, and the decoder of whole images for unsuitable files."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from drawn import SUBSAMPLINGS, Box, crop_all, jpeg, picture
from PIL import Image

from reproduce.data.loading.decoding import RandomCrop
from reproduce.data.markers import damage_of, turbojpeg_damage_of, with_restart_markers

SHAPE = (203, 331)  # multiples of no minimum coded unit


def marked(content: bytes) -> bytes:
    found = with_restart_markers(content)
    assert found is not None
    return found


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def random_boxes(count: int, shape: tuple[int, int] = SHAPE) -> list[Box]:
    crop = RandomCrop((0.02, 1.0), (1 / 2, 2), True)
    boxes = crop.boxes(5, np.arange(count), np.full(count, shape[0]), np.full(count, shape[1]))
    return [(0, 0, *shape, False), *((*box[:4], bool(box[4])) for box in boxes.tolist())]


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_markers_change_no_pixel_of_a_picture_or_a_crop(subsampling: str, progressive: bool) -> None:
    content = jpeg(picture(*SHAPE), subsampling=subsampling, progressive=progressive)
    with_markers = marked(content)
    assert np.array_equal(pixels(with_markers), pixels(content))
    boxes = random_boxes(60)
    for side in (7, 32, 100):
        crops, expected = (
            crop_all([stored] * len(boxes), [SHAPE] * len(boxes), boxes, side) for stored in (with_markers, content)
        )
        assert not crops[1]
        assert np.array_equal(crops[0], expected[0])


def test_markers_change_no_pixel_of_grey_or_tiny_pictures() -> None:
    for content, shape in ((jpeg(picture(*SHAPE).convert("L")), SHAPE), (jpeg(picture(9, 5)), (9, 5))):
        boxes = random_boxes(20, shape)
        crops, expected = (
            crop_all([stored] * len(boxes), [shape] * len(boxes), boxes, 24)[0] for stored in (marked(content), content)
        )
        assert np.array_equal(crops, expected)


def test_a_crop_reads_only_the_segments_that_it_needs() -> None:
    content = bytearray(marked(jpeg(picture(256, 256), subsampling="4:2:0")))
    markers = [at for at in range(len(content) - 1) if content[at] == 0xFF and 0xD0 <= content[at + 1] <= 0xD7]
    assert len(markers) == 16 * 8 - 1
    box: Box = (100, 100, 64, 64, False)
    expected, _ = crop_all([bytes(content)], [(256, 256)], [box], 64)
    for number in (2 * 8 + 4, 8 * 8 + 1, 13 * 8 + 4):  # above, beside and below it
        content[markers[number - 1] + 2 : markers[number]] = b"\0" * (markers[number] - markers[number - 1] - 2)
    found, failed = crop_all([bytes(content)], [(256, 256)], [box], 64)
    assert not failed
    assert np.array_equal(found, expected)


def test_a_jpeg_that_lost_a_marker_is_refused() -> None:
    content = jpeg(picture(*SHAPE))
    with_markers = marked(content)
    places = [at for at in range(len(with_markers) - 1) if with_markers[at : at + 2] == b"\xff\xd3"]
    without = with_markers[: places[3]] + with_markers[places[3] + 2 :]
    boxes = random_boxes(10)
    _, failed = crop_all([without] * 11, [SHAPE] * 11, boxes, 32)
    assert len(failed) == 11
    assert "extraneous bytes" in failed[0]  # libjpeg goes on with the next marker and makes up what is missing
    cut = with_markers[: len(with_markers) // 2]
    _, failed = crop_all([cut], [SHAPE], [(0, 0, *SHAPE, False)], 32)
    assert "Premature end" in failed[0]


@pytest.mark.parametrize("shape", [(SHAPE[0] - 1, SHAPE[1]), (SHAPE[0], SHAPE[1] + 1)])
def test_a_picture_of_another_size_than_in_the_table_is_refused(shape: tuple[int, int]) -> None:
    _, failed = crop_all([marked(jpeg(picture(*SHAPE)))], [shape], [(40, 40, 64, 64, False)], 32)
    assert "331x203 pixels, and the file's table says" in failed[0]


@pytest.mark.parametrize("interval", [{"restart_marker_blocks": 3}, {"restart_marker_rows": 1}], ids=str)
def test_jpegs_with_markers_of_other_encoders_are_decoded(interval: dict[str, int]) -> None:
    boxes = random_boxes(20)
    contents = jpeg(picture(*SHAPE), **interval), jpeg(picture(*SHAPE))
    crops, expected = (crop_all([stored] * 21, [SHAPE] * 21, boxes, 32)[0] for stored in contents)
    assert np.array_equal(crops, expected)


def test_damaged_and_incomplete_jpegs_get_no_markers() -> None:
    content = jpeg(picture(*SHAPE))
    progressive = jpeg(picture(*SHAPE), progressive=True)
    last_scan = progressive.rindex(b"\xff\xda")
    assert with_restart_markers(content) is not None
    assert with_restart_markers(progressive) is not None
    assert with_restart_markers(content[: len(content) // 2]) is None
    assert with_restart_markers(progressive[:last_scan] + b"\xff\xd9") is None
    assert with_restart_markers(b"no image") is None
    assert with_restart_markers(b"") is None


def test_a_jpeg_that_would_grow_by_an_eighth_gets_no_markers() -> None:
    flat = jpeg(Image.new("RGB", (512, 512), (90, 120, 150)), quality=20, optimize=True)
    assert with_restart_markers(flat) is None


def zeroed(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(600) + content[middle + 600 :]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("find", [damage_of, turbojpeg_damage_of])
def test_codes_that_are_damaged_in_the_middle_are_found(
    find: Callable[[bytes], str | None], mode: str, progressive: bool
) -> None:
    buffer = io.BytesIO()
    picture(*SHAPE).convert(mode).save(buffer, "JPEG", progressive=progressive, quality=95)
    assert find(buffer.getvalue()) is None
    assert "orrupt JPEG data" in (find(zeroed(buffer.getvalue())) or "")


def test_an_image_of_made_up_pixels_is_refused_while_loading() -> None:
    content = jpeg(picture(*SHAPE))
    for stored in (content, marked(content)):
        _, failed = crop_all([stored, zeroed(stored)], [SHAPE] * 2, [(0, 0, *SHAPE, False)] * 2, 32)
        assert list(failed) == [1]
        assert "Corrupt JPEG data" in failed[1]
