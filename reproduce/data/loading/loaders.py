"""FFCV loaders for training and validation, on CPU and GPU, for one rank each.

A batch of images is a view of a buffer that FFCV reuses: it is valid until the next batch is asked for. Labels and
image numbers belong to the caller.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reproduce.data.loading.decoding import CentralCrop, CropDecoder, NativeDecoder, RandomCrop, StockDecoder, epoch_key
from reproduce.data.loading.engine import Epoch, Loader, ToDevice, ToTensor, ToTorchImage, compiling
from reproduce.data.loading.normalise import Normalise
from reproduce.data.loading.photometric import distorted
from reproduce.data.manifest import DataError, Split, beton, load_manifest
from reproduce.native import DECODER

Numbers = npt.NDArray[np.int64]
NONE: Numbers = np.empty(0, np.int64)

SUBSET_SEED = 2014  # of the shuffle behind train_fraction, which no seed of a run changes


@dataclass(frozen=True, kw_only=True, eq=False)
class LoaderConfig:
    """What the loaders for training and validation have in common."""

    batch_size: int
    """Images in a batch of one rank."""
    rank: int = 0
    world_size: int = 1
    threads: int = 1
    """Threads that decode."""
    device: torch.device | str = "cpu"
    """Where batches are wanted."""
    dtype: torch.dtype = torch.uint8
    """Type of the images: uint8 for pixels. float32 or bfloat16: normalised like `Normalise` does, as they are decoded,
    which saves passes over memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainLoaderConfig(LoaderConfig):
    """How training images are ordered and augmented."""

    seed_order: int
    seed_augmentation: int
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Minimum and maximum area of a crop, as a share of the image's."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Minimum and maximum aspect ratio of a crop, width / height."""
    flip: bool = True
    """Mirror half of the crops."""
    photometric: bool = False
    """Distort the colours, see `photometric.distorted`."""
    train_fraction: float = 1.0
    """Share of the images that are used, see `subset`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ValLoaderConfig(LoaderConfig):
    """Which images are evaluated, and what is shown of them."""

    resolution: int
    """Side of the images that the network sees, in pixels."""
    val_crop: float = 0.875
    """Side of the central crop, as a share of the image's shorter side."""
    split: Split = "val"
    at_most: int | None = None
    """Maximum number of images; of a larger split, `subset` chooses them."""
    leave_out: Numbers = field(default_factory=lambda: NONE)
    """Numbers of images that are not wanted."""


class TrainLoader:
    """Random crops of the training images in a random order.

    Global step s of an epoch takes images `order[s * B : (s + 1) * B]` with B = batch_size x world_size, and rank r
    takes the r-th slice of these. The last images, which fill no step, are left out. The order is a permutation drawn
    from (seed_order, epoch); crops, flips and distortions of an image are drawn from (seed_augmentation, epoch, image
    number).

    Raises:
        DataError: The folder's files are missing or damaged, or hold too few images for one step.
    """

    def __init__(self, folder: Path, config: TrainLoaderConfig) -> None:
        crop, device = RandomCrop(config.crop_scale, config.crop_ratio, config.flip), torch.device(config.device)
        self.config = config
        self._distort: Callable[[Tensor, int, Numbers], Tensor] = lambda images, key, numbers: images
        decoded = config.dtype
        if config.photometric:
            decoded, finish = torch.uint8, Normalise(config.dtype).to(device)
            self._distort = lambda images, key, numbers: finish(distorted(images, key, numbers))
        self._pipeline = _Pipeline(folder, "train", crop, config, decoded)
        labels = self._pipeline.labels
        self._subset = subset(labels, int(len(labels) * config.train_fraction))
        step = config.batch_size * config.world_size
        self.steps = len(self._subset) // step
        """Optimiser steps of an epoch, the same on every rank."""
        self.images = len(self._subset)
        """Images that all ranks together use."""
        if self.steps == 0:
            raise DataError(f"{folder}: {len(self._subset)} training images are fewer than one step of {step}")

    def order(self, epoch: int) -> Numbers:
        """The image numbers of all ranks in an epoch, [steps, world_size, batch_size]."""
        shape = self.steps, self.config.world_size, self.config.batch_size
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.config.seed_order, epoch])))
        return random.permutation(self._subset)[: math.prod(shape)].reshape(shape)

    def epoch(self, epoch: int, resolution: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's batches of an epoch from `start_step` on.

        Yields:
            Images [N, 3, resolution, resolution] in channels_last, and labels int64 [N], on the device.
        """
        order = self.order(epoch)[start_step:, self.config.rank].ravel()
        key = epoch_key(self.config.seed_augmentation, epoch)
        for images, numbers in self._pipeline.batches(order, resolution, key):
            yield self._distort(images, key, numbers), self._pipeline.labels_of(numbers)


class ValLoader:
    """Central crops of a split's images. All ranks together give every image exactly once, without padding.

    Iterating yields images [N, 3, resolution, resolution] in channels_last and labels int64 [N], on the device, and
    image numbers int64 [N], on the CPU. The last batch may be short, and ranks may differ by one image.

    Raises:
        DataError: The folder's files are missing or damaged.
    """

    def __init__(self, folder: Path, config: ValLoaderConfig) -> None:
        self.config = config
        self._pipeline = _Pipeline(folder, config.split, CentralCrop(config.val_crop), config, config.dtype)
        numbers = np.setdiff1d(subset(self._pipeline.labels, config.at_most), config.leave_out)
        self.images = len(numbers)
        """Images that all ranks together evaluate."""
        self._order = np.array_split(numbers, config.world_size)[config.rank]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        yield from self._batches(self._order)

    def sample(self, images: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of at most `images` images of the split, the same on every rank."""
        yield from self._batches(subset(self._pipeline.labels, images))

    def _batches(self, order: Numbers) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for images, numbers in self._pipeline.batches(order, self.config.resolution):
            yield images, self._pipeline.labels_of(numbers), torch.from_numpy(numbers.copy())


def subset(labels: Numbers, images: int | None) -> Numbers:
    """Choose `images` images, or all if there are not more; returns their numbers, sorted.

    Each class is shuffled in a fixed order, and the classes take turns. Classes are therefore equally large as far as
    their images last, and a smaller subset is contained in a larger one.

    Args:
        labels: [N], the class of every image.
        images: How many images to choose; None for all.
    """
    shuffled = np.random.Generator(np.random.Philox(SUBSET_SEED)).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    turn = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[np.argsort(turn, kind="stable")][:images])


def _copies(device: torch.device) -> list[Any]:
    """FFCV's operations that move decoded images to the device; on a CPU they stay where they were decoded."""
    return [] if device.type == "cpu" else [ToDevice(device, non_blocking=True)]


class _Pipeline:
    """One FFCV loader for all resolutions, with the decoder that `native.DECODER` selects."""

    def __init__(
        self, folder: Path, split: Split, crop: RandomCrop | CentralCrop, config: LoaderConfig, dtype: torch.dtype
    ) -> None:
        load_manifest(folder)
        self._device = torch.device(config.device)
        normalise = None if dtype is torch.uint8 else Normalise(dtype)
        file = beton(folder, split)
        decoder = DECODER.implementation()
        if decoder.hint:
            hint = f"{decoder.hint[0].upper()}{decoder.hint[1:]}"
            warnings.warn(f"decoding with stock FFCV: {decoder.detail}. {hint}", stacklevel=1)
        self._decoder: CropDecoder
        self._finish: Callable[[Tensor], Tensor] = lambda images: images.view(dtype)
        if decoder.native:
            self._decoder = NativeDecoder(crop, 1, config.threads, file, normalise)
        else:
            self._decoder = StockDecoder(crop, 1)
            if normalise is not None:
                self._finish = normalise.to(self._device)
        operations = [self._decoder, ToTensor(), *_copies(self._device), ToTorchImage()]
        pipelines: dict[str, Any] = {"image": operations, "label": None}
        with compiling(not decoder.native):
            self._loader = Loader(
                str(file),
                batch_size=config.batch_size,
                num_workers=config.threads,
                os_cache=True,
                drop_last=False,
                pipelines=pipelines,
            )
        self._spare: tuple[int, Any] | None = None
        """Resolution and buffers of a finished epoch; the first write to a page of new ones would cost more time."""
        self._sizes = self._loader.memory_manager.sizes
        self.labels: Numbers = self._loader.reader.metadata["f1"].astype(np.int64)

    def batches(self, order: Numbers, resolution: int, key: int = 0) -> Iterator[tuple[Tensor, Numbers]]:
        """Batches of images and their numbers, in the given order."""
        self._decoder.resolution = resolution
        self._loader.memory_manager.sizes = np.append(self._sizes, np.uint64(key))  # see CropDecoder
        batch_size = self._loader.batch_size
        spare, self._spare = self._spare, None
        epoch = Epoch(self._loader, order, spare[1] if spare is not None and spare[0] == resolution else None)
        try:
            for start in range(0, len(order), batch_size):
                (images,) = cast(Any, next(epoch))
                yield self._finish(images), order[start : start + batch_size]
        finally:
            epoch.close()
            self._spare = resolution, epoch.memory_allocations

    def labels_of(self, numbers: Numbers) -> Tensor:
        return torch.from_numpy(self.labels[numbers]).to(self._device, non_blocking=True)
