"""The way from the decoder to a device: FFCV's `ToDevice` with a CPU as its device, and with one that is late.

No GPU is needed. What a GPU adds is that the device does its work later than it is asked to, in an order that only
streams and events give; `Stream` and `Event` here do that with CUDA's rules and as late as those allow.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ffcv.loader import epoch_iterator

from reproduce.data.loading import loaders
from reproduce.data.loading.engine import ToDevice
from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig, ValLoader, ValLoaderConfig

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def train_loader(folder: Path) -> TrainLoader:
    return TrainLoader(folder, TrainLoaderConfig(batch_size=8, seed_order=1, seed_augmentation=2))


def val_loader(folder: Path) -> ValLoader:
    return ValLoader(folder, ValLoaderConfig(batch_size=8, resolution=32))


def trained_on(loader: TrainLoader, epoch: int, resolution: int = 32) -> Batches:
    return [(images.clone(), labels.clone()) for images, labels in loader.epoch(epoch, resolution)]


def validated_on(loader: ValLoader) -> Batches:
    return [(images.clone(), labels.clone()) for images, labels, _ in loader]


def same(first: Batches, second: Batches) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


@pytest.fixture
def expected(synthetic_data: Path) -> dict[str, Batches]:
    """What the loaders give without a copy."""
    train = train_loader(synthetic_data)
    return {
        "first": trained_on(train, 0),
        "second": trained_on(train, 1),
        "larger": trained_on(train, 1, 48),
        "val": validated_on(val_loader(synthetic_data)),
    }


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaders copy their images, to a CPU."""
    monkeypatch.setattr(loaders, "_copies", lambda device: [ToDevice(device, non_blocking=True)])


@pytest.mark.usefixtures("copying")
@pytest.mark.parametrize("inference", [False, True], ids=["plain", "inference mode"])
def test_epochs_in_and_outside_inference_mode_share_a_loaders_buffers(
    synthetic_data: Path, expected: dict[str, Batches], inference: bool
) -> None:
    train, val = train_loader(synthetic_data), val_loader(synthetic_data)
    with torch.inference_mode(inference):
        assert same(trained_on(train, 0), expected["first"])
        assert same(validated_on(val), expected["val"])
    with torch.inference_mode(not inference):
        assert same(trained_on(train, 1), expected["second"])
        assert same(validated_on(val), expected["val"])
    with torch.inference_mode(inference):
        abandoned = train.epoch(0, 32)
        next(abandoned)
        abandoned.close()
        assert same(trained_on(train, 1, 48), expected["larger"])
        assert same(validated_on(val), expected["val"])
    assert same(trained_on(train, 1), expected["second"])


@pytest.mark.usefixtures("copying")
def test_a_batch_of_an_epoch_that_began_in_inference_mode_can_be_trained_on(synthetic_data: Path) -> None:
    train = train_loader(synthetic_data)
    with torch.inference_mode():
        trained_on(train, 0)
    images, _ = next(iter(train.epoch(1, 32)))
    assert not images.is_inference()
    weight = torch.ones((), requires_grad=True)
    (images * weight).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None


class Stream:
    """Work in order, done as late as it may be: when somebody on the host, or work that waits for it, needs it."""

    lock = threading.RLock()

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.done = 0

    def put(self, work: Callable[[], None]) -> None:
        with self.lock:
            self.work.append(work)

    def run(self, until: int) -> None:
        with self.lock:
            while self.done < until:
                self.work[self.done]()
                self.done += 1

    def synchronize(self) -> None:
        self.run(len(self.work))

    def wait_stream(self, other: Stream) -> None:
        until = len(other.work)
        self.put(lambda: other.run(until))


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    target.copy_(source)


class Late:
    """A device, as FFCV's iterator sees CUDA's."""

    def __init__(self) -> None:
        self.computing = Stream()
        self.copying: list[Stream] = []
        self._current = threading.local()

    def new_stream(self) -> Stream:
        self.copying.append(Stream())
        return self.copying[-1]

    def current_stream(self) -> Stream:
        return getattr(self._current, "stream", self.computing)

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self._current.stream = stream
        try:
            yield
        finally:
            del self._current.stream

    def event(self) -> Any:
        late = self

        class Event:
            def record(self, stream: Stream) -> None:
                self.stream, self.until = stream, len(stream.work)

            def wait(self) -> None:
                late.current_stream().put(lambda: self.stream.run(self.until))

        return Event()

    def copy(self, device: torch.device) -> ToDevice:
        late = self

        class LateToDevice(ToDevice):  # type: ignore[misc]
            def generate_code(self) -> Callable[..., Any]:
                def to_device(images: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
                    target = buffer[: len(images)]
                    late.current_stream().put(partial(_copy, target, images))
                    return target

                return to_device

        return LateToDevice(device)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Late:
    device = Late()
    cuda = SimpleNamespace(
        Stream=device.new_stream, Event=device.event, current_stream=device.current_stream, stream=device.stream
    )
    monkeypatch.setattr(epoch_iterator, "IS_CUDA", True)
    monkeypatch.setattr(epoch_iterator, "ch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(loaders, "_copies", lambda where: [device.copy(where)])
    return device


def test_labels_come_with_the_pixels_in_one_copy_for_each_batch(
    synthetic_data: Path, expected: dict[str, Batches], late: Late, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: list[int] = []
    monkeypatch.setattr(loaders._Pipeline, "_labels_of", lambda self, numbers: alone.append(len(numbers)))
    copies: list[torch.Size] = []

    def copy(target: torch.Tensor, source: torch.Tensor) -> None:
        assert source.is_contiguous()
        assert target.is_contiguous()
        copies.append(source.shape)
        target.copy_(source)

    monkeypatch.setattr(sys.modules[__name__], "_copy", copy)
    train = train_loader(synthetic_data)
    for images, labels in train.epoch(0, 33):
        late.computing.synchronize()
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype is torch.int64
    assert copies == [torch.Size((8, 8 + 3 * 33 * 33))] * len(expected["first"])
    assert alone == []


def test_a_device_that_is_late_computes_on_the_images_that_it_was_given(
    synthetic_data: Path, expected: dict[str, Batches], late: Late
) -> None:
    train = train_loader(synthetic_data)
    assert len(expected["first"]) > 6, "FFCV has five slots; the fault needs more batches"
    seen: Batches = []

    def keep(images: torch.Tensor, labels: torch.Tensor) -> None:
        seen.append((images.clone(), labels.clone()))

    for epoch in (0, 1):
        for images, labels in train.epoch(epoch, 32):
            late.computing.put(partial(keep, images, labels))
    late.computing.synchronize()
    assert same(seen, expected["first"] + expected["second"])


def test_no_copy_is_under_way_to_the_buffers_of_an_abandoned_epoch(synthetic_data: Path, late: Late) -> None:
    epoch = train_loader(synthetic_data).epoch(0, 32)
    next(epoch)
    epoch.close()
    assert any(stream.work for stream in late.copying)
    assert all(stream.done == len(stream.work) for stream in late.copying)
