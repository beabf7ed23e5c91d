"""Preparing: what is stored and what is refused."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reproduce.data import (
    DataError,
    PrepareOptions,
    fashion_mnist,
    folder,
    imagenette,
    load_manifest,
    source_from,
    synthetic,
    tar,
    verify,
)
from reproduce.data.encoding import UnreadableImageError, encode
from reproduce.data.loading.engine import Loader
from reproduce.data.writing import PrepareConfig, prepare
from reproduce.native import DECODER


@pytest.fixture
def images(image_folder: Path, tmp_path: Path) -> Path:
    """A copy of the image folder that a test may spoil."""
    return Path(shutil.copytree(image_folder, tmp_path / "images"))


def stored(file: Path) -> tuple[np.ndarray, list[bytes]]:
    """The metadata and the stored bytes of each image, found through FFCV's own reader."""
    loader = Loader(str(file), batch_size=1, num_workers=1, pipelines={"image": None, "label": None})
    content = file.read_bytes()
    order = np.argsort(loader.reader.alloc_table["sample_id"])
    table = loader.reader.alloc_table[order]
    return loader.reader.metadata, [content[row["ptr"] : row["ptr"] + row["size"]] for row in table]


def test_every_kind_of_image_is_stored_as_rgb_with_imagefolders_class_numbers(
    photo_data: Path, image_folder: Path
) -> None:
    manifest = load_manifest(photo_data)
    assert manifest.classes == ("ant", "bee", "cat")
    assert {split: entry.images for split, entry in manifest.splits.items()} == {"train": 12, "val": 9}
    metadata, _ = stored(photo_data / "train.beton")
    assert metadata["f1"].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_an_rgb_jpeg_keeps_its_pixels_and_without_markers_its_bytes(
    photo_data: Path, image_folder: Path, tmp_path: Path
) -> None:
    unmarked = prepare(
        folder(image_folder),
        tmp_path,
        PrepareConfig(options=PrepareOptions(write_mode="jpg"), workers=1, markers=False),
    )
    marked = load_manifest(photo_data)
    assert [entry.marked for entry in marked.splits.values()] == [12, 9]
    assert [entry.marked for entry in unmarked.splits.values()] == [0, 0]
    assert marked.hash == unmarked.hash
    _, contents = stored(tmp_path / "train.beton")
    assert (image_folder / "train/ant/rgb.JPEG").read_bytes() in contents
    assert (image_folder / "train/ant/cmyk.jpg").read_bytes() not in contents
    for before, after in zip(contents, stored(photo_data / "train.beton")[1], strict=True):
        assert before != after
        assert np.array_equal(*(np.asarray(Image.open(io.BytesIO(content))) for content in (before, after)))


def test_without_the_native_decoder_no_marker_is_written(
    photo_data: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DECODER.variable, "stock")
    manifest = prepare(
        folder(image_folder), tmp_path, PrepareConfig(options=PrepareOptions(write_mode="jpg"), workers=1)
    )
    assert [entry.marked for entry in manifest.splits.values()] == [0, 0]
    assert manifest.hash == load_manifest(photo_data).hash


def test_max_resolution_bounds_the_shorter_side_and_small_images_are_raw(image_folder: Path, tmp_path: Path) -> None:
    prepare(folder(image_folder), tmp_path, PrepareConfig(options=PrepareOptions(max_resolution=32), workers=1))
    metadata, contents = stored(tmp_path / "train.beton")
    heights, widths = metadata["f0"]["height"], metadata["f0"]["width"]
    assert (np.minimum(heights, widths) == 32).all()
    assert [len(content) for content in contents] == (3 * heights.astype(int) * widths).tolist()


def test_preparing_twice_gives_the_same_hash_and_file_whatever_the_workers(tmp_path: Path) -> None:
    source = synthetic(classes=3, images=200, size=24)
    first = prepare(source, tmp_path / "a", PrepareConfig(workers=1))
    second = prepare(source, tmp_path / "b", PrepareConfig(workers=2))
    other = prepare(synthetic(classes=3, images=200, size=24, seed=1), tmp_path / "c", PrepareConfig(workers=1))
    assert first.hash == second.hash
    assert first.splits == second.splits
    assert other.hash != first.hash


def test_a_tar_a_compressed_tar_and_the_folder_hold_the_same(
    image_folder: Path, photo_data: Path, tmp_path: Path
) -> None:
    expected = load_manifest(photo_data).hash
    for name, mode in (("plain.tar", "w"), ("packed.tgz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as archive:  # type: ignore[call-overload]
            archive.add(image_folder, arcname="inner")
        out = tmp_path / f"{name}-out"
        source = source_from(f"imagenette:{tmp_path / name}")
        assert prepare(source, out, PrepareConfig(options=PrepareOptions(write_mode="jpg"), workers=1)).hash == expected
        assert [entry.name for entry in out.iterdir() if entry.is_dir()] == []


def test_unreadable_images_stop_the_job_and_are_listed(images: Path, tmp_path: Path) -> None:
    _spoil(images)
    with pytest.raises(DataError) as error:
        prepare(folder(images), tmp_path / "out", PrepareConfig(workers=1))
    message = str(error.value)
    assert "train/ant/broken.jpg" in message
    assert "train/bee/truncated.jpg" in message
    assert "train/cat/middle.jpg: Corrupt JPEG data" in message
    assert "--skip-bad" in message
    with pytest.raises(DataError, match=r"manifest\.json: no such file"):
        load_manifest(tmp_path / "out")


def test_unreadable_images_can_be_skipped_and_are_counted(images: Path, tmp_path: Path) -> None:
    _spoil(images)
    manifest = prepare(folder(images), tmp_path / "out", PrepareConfig(workers=1, skip_bad=True))
    assert (manifest.splits["train"].images, manifest.splits["train"].skipped) == (12, 3)
    verify(tmp_path / "out")


def test_a_changed_bit_of_a_png_is_found_or_changes_no_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    content, found = file.getvalue(), 0
    for place in range(8, len(content), 3):
        changed = content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]
        try:
            image = encode(changed, "a.png", PrepareOptions())
        except UnreadableImageError:
            found += 1
        else:
            assert image.data == pixels.tobytes(), place
    assert found > len(content) / 4


def _spoil(images: Path) -> None:
    (images / "train/ant/broken.jpg").write_bytes(b"no image")
    whole = (images / "train/bee/rgb.JPEG").read_bytes()
    (images / "train/bee/truncated.jpg").write_bytes(whole[: len(whole) // 2])
    middle = len(whole) * 2 // 3
    (images / "train/cat/middle.jpg").write_bytes(whole[:middle] + bytes(300) + whole[middle + 300 :])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: shutil.rmtree(root / "val"), r"no images in val/"),
        (lambda root: [shutil.rmtree(root / "train" / name) for name in ("ant", "bee")], r"1 class in train/ \(cat\)"),
        (lambda root: shutil.rmtree(root / "train/ant"), r"val/ant is no class of train/"),
        (lambda root: (root / "train/dog").mkdir(), r"no images in train/dog"),
    ],
    ids=["no val", "one class", "class of val only", "empty class"],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(images: Path, tmp_path: Path, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    spoil(images)
    with pytest.raises(DataError, match=message):
        prepare(folder(images), tmp_path / "out", PrepareConfig(workers=1))


def test_a_truncated_tar_is_refused(image_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(image_folder, arcname=".")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match=r"half\.tar: .*truncated|half\.tar: no images"):
        prepare(tar(path), tmp_path / "out", PrepareConfig(workers=1))


@pytest.mark.parametrize("text", ["nowhere", "synthetic:sides=3", "synthetic:classes=1"])
def test_an_unknown_source_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        source_from(text)


def test_fashion_mnist_is_read_from_idx_files(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for stem, count in (("train", 12), ("t10k", 10)):
        pixels = random.integers(0, 256, (count, 28, 28), np.uint8)
        header = b"\0\0\x08\x03" + np.array([count, 28, 28], ">u4").tobytes()
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + np.array([count], ">u4").tobytes() + labels.tobytes()
        )
    manifest = prepare(fashion_mnist(tmp_path), tmp_path / "out", PrepareConfig(workers=1))
    assert len(manifest.classes) == 10
    metadata, contents = stored(tmp_path / "out/val.beton")
    assert metadata["f1"].tolist() == list(range(10))
    image = np.frombuffer(contents[3], np.uint8).reshape(28, 28, 3)
    assert (image == pixels[3][..., None]).all()


def test_fashion_mnist_without_its_files_names_the_missing_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: no such file"):
        prepare(fashion_mnist(tmp_path), tmp_path / "out", PrepareConfig(workers=1))


def test_imagenette_from_a_folder_says_so(image_folder: Path, tmp_path: Path) -> None:
    manifest = prepare(imagenette(image_folder), tmp_path, PrepareConfig(workers=1))
    assert (manifest.source, manifest.origin) == ("imagenette", image_folder.name)


def test_sixteen_bit_images_are_scaled_not_clipped(images: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 0x80FF, np.uint16)).save(images / "train/ant/a16.png")
    prepare(folder(images), tmp_path / "out", PrepareConfig(workers=1))
    _, contents = stored(tmp_path / "out/train.beton")
    assert set(contents[0]) == {0x80}


@pytest.mark.parametrize("kind", [np.float32, np.int32], ids=["F", "I"])
def test_pixels_without_a_known_white_are_refused_not_clipped(kind: type, images: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 0.5).astype(kind)).save(images / "train/ant/a32.tif")
    with pytest.raises(DataError, match=r"a32\.tif: its pixels are .*; convert it to 8 or 16 bits"):
        prepare(folder(images), tmp_path / "out", PrepareConfig(workers=1))


def test_a_portable_greymap_of_16_bits_is_scaled(images: Path, tmp_path: Path) -> None:
    pixels = np.full((20, 20), 0x80FF, ">u2").tobytes()
    (images / "train/ant/a16.pgm").write_bytes(b"P5 20 20 65535\n" + pixels)
    prepare(folder(images), tmp_path / "out", PrepareConfig(workers=1))
    assert set(stored(tmp_path / "out/train.beton")[1][0]) == {0x80}


def test_a_class_without_a_readable_image_is_refused_even_if_bad_ones_are_skipped(images: Path, tmp_path: Path) -> None:
    for path in (images / "val/bee").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="val: no image of class bee can be read; the first of 3 unreadable ones is"):
        prepare(folder(images), tmp_path / "out", PrepareConfig(workers=1, skip_bad=True))


@pytest.mark.parametrize("workers", [0, -3])
def test_workers_are_at_least_one(workers: int) -> None:
    with pytest.raises(DataError, match=f"workers: {workers}; use 1 or more"):
        PrepareConfig(workers=workers)
