from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Recorder, StopAt, assert_same_end, rank_setup, tiny_run

from reproduce import schema
from reproduce.data.loading import loaders
from reproduce.data.loading.engine import ToDevice
from reproduce.training.checkpoint import resume_point
from reproduce.training.interface import NonFiniteLossError, SilentObserver
from reproduce.training.loaders import build_val_loader
from reproduce.training.loop import train
from reproduce.training.step import Step

RUN = {"averaging": "ema", "label_smoothing": 0.1, "resolution": 48, "resolution_start": 32}


class Killed(BaseException):
    pass


class Dying(Recorder):
    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        raise Killed


def test_a_run_stopped_in_training_and_in_validation_ends_like_an_uninterrupted_one(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reproduce.training.loaders.VAL_BATCH_PIXELS", 0)  # one batch would hold all images
    run = tiny_run(**RUN)
    whole, broken = Recorder(tmp_path / "whole"), Recorder(tmp_path / "broken")
    end = train(run, rank_setup(whole.folder, data_root), whole)
    assert end.finished

    stop = StopAt(2, 6)  # the first epoch asks at each of its 5 steps, then before its validation
    attempts = [train(run, rank_setup(broken.folder, data_root, stop), broken) for _ in range(2)]
    place = resume_point(broken.folder, run.key)
    assert place == ({"epoch": 0, "step": 5}, [])
    with pytest.raises(Killed):  # once the first epoch is in the checkpoint, before it is in the record
        train(run, rank_setup(broken.folder, data_root, stop), Dying(broken.folder))
    assert broken.epochs_recorded == 0
    attempts.append(train(run, rank_setup(broken.folder, data_root, stop), broken))
    assert [attempt.finished for attempt in attempts] == [False, False, True]
    assert broken.epochs_recorded == 2

    assert_same_end(whole.folder, broken.folder)
    timed = {schema.FINAL_IMAGES_PER_S, schema.FINAL_WARM_UP_S}
    assert {k: v for k, v in end.metrics.items() if k not in timed} == {
        k: v for k, v in attempts[-1].metrics.items() if k not in timed
    }
    for name, column in whole.table.items():
        np.testing.assert_array_equal(column, broken.table[name])

    # What the observer of the whole run was told.
    assert whole.history_on_disk == [1, 2]  # each epoch once it is durable
    for metrics in whole.epochs:
        assert all(math.isfinite(value) for value in metrics.values())
    first, last = whole.epochs
    assert (first[schema.RESOLUTION], last[schema.RESOLUTION]) == (32, 48)
    assert first[schema.TRAIN_LOSS] == pytest.approx(
        first[schema.TRAIN_LOSS_MAIN] + 0.3 * (first[schema.TRAIN_LOSS_AUX1] + first[schema.TRAIN_LOSS_AUX2])
    )
    assert last[schema.IMAGES_PER_S] == pytest.approx(60 / last[schema.TRAIN_SECONDS])
    assert {f"{schema.GRADIENT_NORM}{stage}" for stage in ("stem", "3", "4", "5", "head", "aux1", "aux2")} < set(last)
    table = whole.table
    assert table["index"].tolist() == list(range(15))
    assert table["top5"].shape == (15, 3)  # of 3 classes
    assert table["correct"].mean() == pytest.approx(end.metrics[schema.FINAL_TOP1])
    assert end.metrics[schema.FINAL_TOP5] == 1
    seen = end.metrics[schema.FINAL_TRAIN_TOP1_PLAIN] * 15  # as many training images as there are for validation
    assert seen == pytest.approx(round(seen))
    assert end.metrics[schema.CLUSTER_DIFFERENCE] != end.metrics[schema.CLUSTER_UNTRAINED]

    # A finished run whose observer lost everything is told again.
    again = Recorder(whole.folder)
    assert train(run, rank_setup(whole.folder, data_root), again) == end
    assert again.epochs == whole.epochs
    np.testing.assert_array_equal(again.table["top5"], table["top5"])


@pytest.mark.parametrize(("side", "images"), [(32, 256), (48, 113), (224, 12)])
def test_small_images_are_validated_in_larger_batches_than_they_are_trained(
    side: int, images: int, tmp_path: Path, data_root: Path
) -> None:
    assert build_val_loader(tiny_run(resolution=side), rank_setup(tmp_path, data_root)).config.batch_size == images


def test_a_limit_of_the_validation_images_holds_for_every_epoch_but_the_last(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    load = loaders.ValLoader.__iter__

    def count(loader: loaders.ValLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        seen.append(loader.images)
        return load(loader)

    monkeypatch.setattr(loaders.ValLoader, "__iter__", count)
    limited, whole = Recorder(tmp_path / "limited"), Recorder(tmp_path / "whole")
    train(tiny_run(epochs=3, val_images=6), rank_setup(limited.folder, data_root), limited)
    assert seen[1:4] == [6, 6, 15], "the first one warms up"
    train(tiny_run(epochs=3), rank_setup(whole.folder, data_root), whole)
    assert limited.table["index"].tolist() == list(range(15))
    np.testing.assert_array_equal(limited.table["top5"], whole.table["top5"])
    assert limited.epochs[-1][schema.VAL_LOSS] == whole.epochs[-1][schema.VAL_LOSS]
    assert limited.epochs[0][schema.VAL_LOSS] != whole.epochs[0][schema.VAL_LOSS]


@pytest.mark.parametrize(("early", "expected"), [({}, [9, 9, 9]), ({"val_images": 6}, [6, 6, 9])])
def test_the_last_validation_may_be_limited_as_well(
    early: dict[str, int], expected: list[int], tmp_path: Path, data_root: Path
) -> None:
    trained = Recorder(tmp_path)
    train(tiny_run(epochs=3, final_val_images=9, **early), rank_setup(tmp_path, data_root), trained)
    tops = [epoch[schema.VAL_TOP1] * images for epoch, images in zip(trained.epochs, expected, strict=True)]
    assert tops == pytest.approx([round(top) for top in tops]), "of as many images"
    assert len(set(trained.table["index"].tolist())) == expected[-1]


def test_copying_the_images_to_a_device_changes_nothing(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(**RUN)
    plain, copied = Recorder(tmp_path / "plain"), Recorder(tmp_path / "copied")
    train(run, rank_setup(plain.folder, data_root), plain)
    monkeypatch.setattr(loaders, "_copies", lambda device: [ToDevice(device, non_blocking=True)])
    train(run, rank_setup(copied.folder, data_root), copied)
    assert_same_end(plain.folder, copied.folder)
    np.testing.assert_array_equal(plain.table["top5"], copied.table["top5"])


def test_a_deterministic_run_repeats_bit_for_bit_also_when_it_is_resumed(tmp_path: Path, data_root: Path) -> None:
    """On a CPU; a GPU uses the same switches."""
    run = tiny_run(**RUN).model_copy(update={"deterministic": True})
    whole, again, broken = (Recorder(tmp_path / name) for name in ("whole", "again", "broken"))
    try:
        for observer in (whole, again):
            assert train(run, rank_setup(observer.folder, data_root), observer).finished
        stop = StopAt(3)
        ends = [train(run, rank_setup(broken.folder, data_root, stop), broken).finished for _ in range(2)]
        assert ends == [False, True]
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_end(whole.folder, again.folder)
    assert_same_end(whole.folder, broken.folder)


def test_a_run_stopped_in_a_probe_ends_like_an_uninterrupted_one(tmp_path: Path, data_root: Path) -> None:
    run, whole, broken = tiny_run(), Recorder(tmp_path / "whole"), Recorder(tmp_path / "broken")
    count = StopAt()
    end = train(run, rank_setup(whole.folder, data_root, count), whole)
    attempts = [train(run, rank_setup(broken.folder, data_root, StopAt(count.count)), broken)]
    assert not attempts[0].finished, "at the last question that a whole run asks"
    attempts += [train(run, rank_setup(broken.folder, data_root), broken)]
    assert attempts[1].finished
    assert_same_end(whole.folder, broken.folder)
    assert attempts[1].metrics[schema.FINAL_TRAIN_TOP1_PLAIN] == end.metrics[schema.FINAL_TRAIN_TOP1_PLAIN]
    np.testing.assert_array_equal(whole.table["top5"], broken.table["top5"])


def test_warm_up_is_recorded_separately_and_not_part_of_the_throughput(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, warm_up, clock = [0.0], Step.warm_up, time.perf_counter

    def slow(step: Step, images: torch.Tensor, labels: torch.Tensor) -> None:
        warm_up(step, images, labels)
        late[0] += 1000

    monkeypatch.setattr(Step, "warm_up", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late[0])
    observer = Recorder(tmp_path)
    end = train(tiny_run(), rank_setup(tmp_path, data_root), observer)
    first, second = observer.epochs
    assert first[schema.WARM_UP_SECONDS] >= 1000
    assert second[schema.WARM_UP_SECONDS] == 0
    assert first[schema.TRAIN_SECONDS] < 1000
    assert end.metrics[schema.FINAL_WARM_UP_S] == first[schema.WARM_UP_SECONDS]


def test_a_loss_that_is_not_finite_ends_the_run_with_epoch_and_step(tmp_path: Path, data_root: Path) -> None:
    with pytest.raises(NonFiniteLossError, match="loss is not finite in epoch 1, step 2 of 5"):
        train(tiny_run(learning_rate=1e30), rank_setup(tmp_path, data_root), SilentObserver())


def test_a_stop_request_on_one_rank_stops_both_and_the_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, data_root: Path
) -> None:
    script = Path(__file__).with_name("two_ranks.py")
    ranks = [subprocess.Popen([sys.executable, script, str(rank), tmp_path, data_root]) for rank in range(2)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    assert_same_end(tmp_path / "whole", tmp_path / "broken")
