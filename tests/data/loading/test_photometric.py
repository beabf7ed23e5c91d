"""Distortions: PIL's enhancements, ImageNet's noise, and what they are drawn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import picture
from PIL import Image, ImageEnhance

from reproduce.data.loading import photometric
from reproduce.data.loading.decoding import epoch_key, stream_of, uniform, uniforms
from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig
from reproduce.data.loading.normalise import Normalise
from reproduce.data.loading.photometric import BRIGHTNESS, COLOUR, CONTRAST, distorted

KEY = 0xFEDCBA9876543210
ENHANCERS = {BRIGHTNESS: ImageEnhance.Brightness, CONTRAST: ImageEnhance.Contrast, COLOUR: ImageEnhance.Color}


def batch(*images: Image.Image) -> torch.Tensor:
    pixels = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels_last, as loaders give them


def test_draws_of_many_images_are_those_of_each() -> None:
    numbers = np.array([0, 7, 2**31 - 1])
    found = uniforms(KEY, numbers, first=64, count=3)
    streams = [np.uint64(stream_of(np.uint64(KEY), int(number))) for number in numbers]
    assert found.tolist() == [[uniform(stream, draw) for draw in (64, 65, 66)] for stream in streams]


def test_an_image_is_distorted_as_pil_enhances_it(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [picture(40, 60, seed) for seed in range(24)]
    monkeypatch.setattr(photometric, "DEVIATION", 0.0)
    found = distorted(batch(*images), KEY, np.arange(24))
    orders, factors, _ = photometric._draws(KEY, np.arange(24))
    assert len(np.unique(orders, axis=0)) == 6
    for image, pixels, order, factor in zip(images, found, orders.tolist(), factors.tolist(), strict=True):
        expected = image
        for operation, strength in zip(order, factor, strict=True):
            expected = ENHANCERS[operation](expected).enhance(strength)
        difference = (pixels.permute(1, 2, 0).int() - torch.from_numpy(np.asarray(expected, np.int32))).abs()
        assert difference.max() <= 2  # where rounding in float32 falls to the other side of a level, and is amplified
        assert difference.float().mean() < 0.01


def test_factors_and_noise_have_the_documented_spread() -> None:
    orders, factors, noise = photometric._draws(KEY, np.arange(20_000))
    assert 0.5 <= factors.min() < 0.501 < 1.499 < factors.max() <= 1.5
    assert factors.mean() == pytest.approx(1, abs=0.01)
    assert np.bincount(orders[:, 0]) / 20_000 == pytest.approx([1 / 3] * 3, abs=0.02)
    along = noise @ np.array(photometric.EIGENVECTORS) / 255
    assert along.std(0) == pytest.approx(0.1 * np.array(photometric.EIGENVALUES), rel=0.05)
    assert abs(along.mean(0)).max() < 0.001


def test_an_image_gets_the_same_in_any_batch_and_something_else_by_another_key() -> None:
    images = batch(*(picture(30, 30, seed) for seed in range(6)))
    whole = distorted(images, KEY, np.arange(6))
    assert torch.equal(whole[2:5], distorted(images[2:5], KEY, np.arange(2, 5)))
    assert whole.dtype == torch.uint8
    assert whole.is_contiguous(memory_format=torch.channels_last)
    other = distorted(images, KEY + 1, np.arange(6))
    assert all(not torch.equal(*pair) for pair in zip(whole, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16], ids=str)
def test_the_loader_distorts_its_crops_before_they_are_normalised(photo_data: Path, dtype: torch.dtype) -> None:
    def first(**changes: object) -> tuple[TrainLoader, torch.Tensor]:
        config = TrainLoaderConfig(batch_size=5, seed_order=1, seed_augmentation=2, **changes)  # type: ignore[arg-type]
        loader = TrainLoader(photo_data, config)
        return loader, next(loader.epoch(0, 32))[0].clone()

    loader, plain = first()
    expected = distorted(plain, epoch_key(2, 0), loader.order(0)[0, 0])
    if dtype is not torch.uint8:
        expected = Normalise(dtype)(expected)
    assert torch.equal(first(photometric=True, dtype=dtype)[1], expected)
