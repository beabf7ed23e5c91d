"""Loaders: what determines a batch, and what does not."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import normalize

from reproduce.data import DataError
from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig, ValLoader, ValLoaderConfig, subset
from reproduce.data.loading.normalise import Normalise

Images = dict[int, tuple[torch.Tensor, int]]


_FILES = ("cmyk.jpg", "gray.jpg", "rgb.JPEG")


def train_loader(folder: Path, **changes: Any) -> TrainLoader:
    return TrainLoader(
        folder, TrainLoaderConfig(**{"batch_size": 8, "seed_order": 1, "seed_augmentation": 2, **changes})
    )


@pytest.fixture(scope="module")
def loader(synthetic_data: Path) -> TrainLoader:
    return train_loader(synthetic_data)


def images_of(loader: TrainLoader, epoch: int, resolution: int = 32) -> Images:
    """Every image of an epoch by its number, with its label."""
    numbers = loader.order(epoch)[:, loader.config.rank].ravel().tolist()
    pixels, labels = [], []
    for images, batch_labels in loader.epoch(epoch, resolution):
        pixels += list(images.clone())
        labels += batch_labels.tolist()
    assert len(numbers) == len(pixels)
    return dict(zip(numbers, zip(pixels, labels, strict=True), strict=True))


def same(first: Images, second: Images) -> bool:
    assert set(first) == set(second)
    return all(torch.equal(first[number][0], second[number][0]) for number in first)


def test_batches_are_uint8_channels_last_with_the_labels_of_the_files(loader: TrainLoader) -> None:
    images, labels = next(loader.epoch(0, 32))
    assert images.shape == (8, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [number % 4 for number in loader.order(0)[0, 0]]


def test_an_epoch_repeats_and_the_next_differs_in_order_and_pixels(loader: TrainLoader) -> None:
    first = images_of(loader, 0)
    assert same(first, images_of(loader, 0))
    assert loader.order(0).tolist() != loader.order(1).tolist()
    assert not same(first, images_of(loader, 1))


def test_threads_batch_size_and_world_size_change_no_image(loader: TrainLoader, synthetic_data: Path) -> None:
    expected = images_of(loader, 3)
    assert same(expected, images_of(train_loader(synthetic_data, batch_size=16, threads=2), 3))
    ranks = [train_loader(synthetic_data, batch_size=4, rank=rank, world_size=2) for rank in (0, 1)]
    union = images_of(ranks[0], 3) | images_of(ranks[1], 3)
    assert same(expected, union)
    together = np.concatenate([rank.order(3)[:, rank.config.rank] for rank in ranks], axis=1)
    assert together.tolist() == loader.order(3)[:, 0].tolist()


def test_the_order_seed_changes_the_order_alone(loader: TrainLoader, synthetic_data: Path) -> None:
    other = train_loader(synthetic_data, seed_order=5)
    assert other.order(0).tolist() != loader.order(0).tolist()
    assert same(images_of(loader, 0), images_of(other, 0))


def test_the_augmentation_seed_changes_the_pixels_alone(loader: TrainLoader, synthetic_data: Path) -> None:
    other = train_loader(synthetic_data, seed_augmentation=5)
    assert other.order(0).tolist() == loader.order(0).tolist()
    assert not same(images_of(loader, 0), images_of(other, 0))


def test_starting_at_a_step_gives_the_rest_of_the_epoch(loader: TrainLoader) -> None:
    whole = [(images.clone(), labels) for images, labels in loader.epoch(2, 32)]
    rest = [(images.clone(), labels) for images, labels in loader.epoch(2, 32, start_step=5)]
    assert len(whole) == loader.steps == 12
    assert len(rest) == 7
    for (images, labels), (expected, expected_labels) in zip(rest, whole[5:], strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)


def test_the_resolution_may_change_from_epoch_to_epoch(loader: TrainLoader) -> None:
    for epoch, resolution in enumerate((32, 48, 32)):
        images, _ = next(loader.epoch(epoch, resolution))
        assert images.shape[2:] == (resolution, resolution)


def test_epochs_at_once_share_no_buffer(loader: TrainLoader) -> None:
    expected = [images_of(loader, epoch) for epoch in (0, 1)]
    both = [images.clone() for pair in zip(loader.epoch(0, 32), loader.epoch(1, 32), strict=True) for images, _ in pair]
    for epoch in (0, 1):
        pixels = torch.cat(both[epoch::2])
        numbers = loader.order(epoch)[:, loader.config.rank].ravel().tolist()
        assert all(
            torch.equal(image, expected[epoch][number][0]) for number, image in zip(numbers, pixels, strict=True)
        )


def test_an_epoch_left_early_leaves_no_thread(loader: TrainLoader) -> None:
    before = threading.active_count()
    batches = loader.epoch(0, 32)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_an_error_in_the_loaders_thread_reaches_the_caller(synthetic_data: Path) -> None:
    broken = train_loader(synthetic_data)

    def fail(**_: Any) -> None:
        raise RuntimeError("decoder failed")

    broken._pipeline._loader.code = ([(fail, [])], [])
    with pytest.raises(RuntimeError, match="decoder failed"):
        next(broken.epoch(0, 32))


def test_loading_leaves_torchs_threads_alone(synthetic_data: Path) -> None:
    before = torch.get_num_threads()
    for threads in (1, 2):
        next(iter(ValLoader(synthetic_data, ValLoaderConfig(batch_size=8, resolution=32, threads=threads))))
        assert torch.get_num_threads() == before


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_validation_image_comes_exactly_once(synthetic_data: Path, world_size: int) -> None:
    numbers, labels = [], []
    for rank in range(world_size):
        part = ValLoader(synthetic_data, ValLoaderConfig(batch_size=5, resolution=32, rank=rank, world_size=world_size))
        for _, batch_labels, batch_numbers in part:
            labels += batch_labels.tolist()
            numbers += batch_numbers.tolist()
    assert sorted(numbers) == list(range(part.images))
    assert labels == [number % 4 for number in numbers]


def test_a_share_of_a_split_is_the_same_whatever_the_world_size(synthetic_data: Path) -> None:
    def numbers(loader: ValLoader) -> list[int]:
        return [int(number) for _, _, batch in loader for number in batch]

    def val_loader(rank: int, world_size: int) -> ValLoader:
        config = ValLoaderConfig(
            batch_size=5, resolution=32, split="train", at_most=20, rank=rank, world_size=world_size
        )
        return ValLoader(synthetic_data, config)

    whole = val_loader(0, 1)
    parts = [val_loader(rank, 2) for rank in range(2)]
    assert [number for part in parts for number in numbers(part)] == numbers(whole)
    assert len(set(numbers(whole))) == whole.images == 20
    samples = [[int(number) for _, _, batch in part.sample(7) for number in batch] for part in parts]
    assert samples[0] == samples[1]
    assert len(samples[0]) == 7


@pytest.mark.parametrize(("resolution", "most"), [(96, 3), (48, 5)], ids=["full decoding", "decoding at half size"])
def test_validation_shows_the_central_crop(photo_data: Path, image_folder: Path, resolution: int, most: float) -> None:
    images, labels, numbers = next(
        iter(ValLoader(photo_data, ValLoaderConfig(batch_size=9, resolution=resolution, val_crop=0.8)))
    )
    files = [image_folder / "val" / name / file for name in ("ant", "bee", "cat") for file in _FILES]
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for image, number in zip(images, numbers.tolist(), strict=True):
        picture = Image.open(files[number]).convert("RGB")
        side = round(0.8 * min(picture.size))
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        expected = picture.crop((left, top, left + side, top + side)).resize(
            (resolution, resolution), Image.Resampling.BOX
        )
        difference = np.abs(np.asarray(expected, float) - image.permute(1, 2, 0).numpy().astype(float))
        assert difference.mean() < most


def test_a_flip_mirrors_and_large_jpegs_are_shrunk_in_decoding(photo_data: Path) -> None:
    whole = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "batch_size": 12}
    plain = images_of(train_loader(photo_data, flip=False, **whole), 0, resolution=33)
    flipping = images_of(train_loader(photo_data, flip=True, **whole), 0, resolution=33)
    mirrored = [not torch.equal(plain[number][0], flipping[number][0]) for number in plain]
    assert 0 < sum(mirrored) < len(mirrored)
    for number in plain:
        kinds = (plain[number][0], plain[number][0].flip(2))
        assert any(torch.equal(flipping[number][0], kind) for kind in kinds)


def test_a_subset_is_equal_over_classes_and_part_of_a_larger_one() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    half, less = subset(labels, 80), subset(labels, 32)
    assert len(half) == 80
    assert np.bincount(labels[half]).tolist() == [35, 35, 10]
    assert sorted(np.bincount(labels[less]).tolist()) == [10, 11, 11]
    assert set(less) < set(half)
    assert subset(labels, None).tolist() == list(range(160))


def test_a_number_of_images_takes_precedence_over_the_share(synthetic_data: Path) -> None:
    assert train_loader(synthetic_data, train_fraction=0.5).images == 48
    assert train_loader(synthetic_data, train_fraction=0.5, train_images=49).images == 49


def test_too_few_images_for_a_step_and_a_truncated_file_are_refused(synthetic_data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="96 training images are fewer than one step of 100"):
        train_loader(synthetic_data, batch_size=100)
    spoilt = Path(shutil.copytree(synthetic_data, tmp_path / "data"))
    with (spoilt / "train.beton").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(DataError, match="truncated"):
        train_loader(spoilt)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalise_is_torchvisions_in_channels_last(dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    normalised = Normalise(dtype)(images)
    expected = normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert normalised.dtype == dtype
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        normalised, expected.to(dtype), rtol=1e-2 if dtype is torch.bfloat16 else 1e-5, atol=1e-5
    )
