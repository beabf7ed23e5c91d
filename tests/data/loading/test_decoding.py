"""The counter-based generator and the crops drawn from it."""

from __future__ import annotations

import numpy as np

from reproduce.data.loading.decoding import CentralCrop, RandomCrop, epoch_key, stream_of, uniform


def test_the_generator_is_splitmix64() -> None:
    # First outputs of SplitMix64 with seed 1234567 (published test vector), as 53-bit fractions.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    drawn = [uniform(np.uint64(1234567), draw) for draw in range(3)]
    assert drawn == [(value >> 11) * 2.0**-53 for value in expected]


def test_draws_are_uniform_and_streams_of_neighbours_are_unrelated() -> None:
    key = np.uint64(epoch_key(0, 0))
    streams = [np.uint64(stream_of(key, index)) for index in range(4000)]
    drawn = np.array([[uniform(stream, draw) for draw in range(8)] for stream in streams])
    counts = np.histogram(drawn, bins=16, range=(0, 1))[0]
    assert abs(counts / drawn.size * 16 - 1).max() < 0.08
    assert abs(np.corrcoef(drawn.T) - np.eye(8)).max() < 0.08
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.03


def test_keys_differ_by_seed_and_by_epoch() -> None:
    assert len({epoch_key(seed, epoch) for seed in range(10) for epoch in range(10)}) == 100


def test_random_crops_keep_area_and_ratio_and_fit() -> None:
    box = RandomCrop(scale=(0.2, 0.8), ratio=(3 / 4, 4 / 3), flip=True).box()
    boxes = [box(np.uint64(9), index, 200, 300) for index in range(2000)]
    for top, left, height, width, _ in boxes:
        assert 0 <= top <= 200 - height
        assert 0 <= left <= 300 - width
        assert 0.19 < height * width / 60000 < 0.81
        assert 0.73 < width / height < 1.36
    mirrored = np.mean([box[4] for box in boxes])
    assert 0.45 < mirrored < 0.55
    assert len({box[:2] for box in boxes}) > 1500


def test_an_image_too_narrow_for_the_ratio_gets_its_largest_central_crop() -> None:
    box = RandomCrop(scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3), flip=False).box()
    assert box(np.uint64(0), 0, 100, 1000) == (0, (1000 - 133) // 2, 100, 133, False)
    assert box(np.uint64(0), 0, 1000, 100) == ((1000 - 133) // 2, 0, 133, 100, False)


def test_the_central_crop_is_a_share_of_the_shorter_side() -> None:
    assert CentralCrop(0.875).box()(np.uint64(0), 0, 256, 400) == (16, 88, 224, 224, False)
