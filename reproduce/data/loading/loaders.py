"""FFCV loaders for training and validation, on CPU and GPU, one process a rank.

A batch of images is a view of a buffer that FFCV reuses: it is valid until the next batch is asked for. Labels and
indices are the caller's.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
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

SUBSET_SEED = 2014  # of train_fraction's shuffle, which no seed of a run changes


class TrainLoader:
    """Random crops of the training images in a random order.

    Global step s of an epoch takes images `order[s * B : (s + 1) * B]` with B = batch_size x world_size, rank r its
    r-th slice; the last images that fill no step are left out. The order is a permutation drawn from (seed_order,
    epoch); crops, flips and distortions of an image are drawn from (seed_augmentation, epoch, image).

    batch_size: images a rank and step. train_fraction: share of the images, see `subset`. threads: of decoding.
    photometric: see `photometric.distorted`. dtype: of images; float32 or bfloat16: `Normalise`d as they are decoded,
    in place of passes over memory afterwards.
    Raises `DataError` if the folder's files are missing or damaged, or hold too few images for one step.
    """

    def __init__(
        self,
        folder: Path,
        *,
        batch_size: int,
        seed_order: int,
        seed_augmentation: int,
        rank: int = 0,
        world_size: int = 1,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = True,
        photometric: bool = False,
        train_fraction: float = 1.0,
        threads: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.uint8,
    ) -> None:
        crop, device = RandomCrop(crop_scale, crop_ratio, flip), torch.device(device)
        self._distort: Callable[[Tensor, int, Numbers], Tensor] = lambda images, key, numbers: images
        decoded = dtype
        if photometric:
            decoded, finish = torch.uint8, Normalise(dtype).to(device)
            self._distort = lambda images, key, numbers: finish(distorted(images, key, numbers))
        self._pipeline = _Pipeline(folder, "train", crop, batch_size, threads, device, decoded)
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.seed_order, self.seed_augmentation = seed_order, seed_augmentation
        labels = self._pipeline.labels
        self._subset = subset(labels, int(len(labels) * train_fraction))
        self.steps = len(self._subset) // (batch_size * world_size)
        """Optimiser steps of an epoch, the same on every rank."""
        self.images = len(self._subset)
        """That the training uses, of all ranks."""
        if self.steps == 0:
            raise DataError(
                f"{folder}: {len(self._subset)} training images are fewer than one step of {batch_size * world_size}"
            )

    def order(self, epoch: int) -> Numbers:
        """Image numbers of all ranks, [steps, world_size, batch_size]."""
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed_order, epoch])))
        kept = random.permutation(self._subset)[: self.steps * self.world_size * self.batch_size]
        return kept.reshape(self.steps, self.world_size, self.batch_size)

    def epoch(self, epoch: int, resolution: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's batches from `start_step` on: images [N, 3, r, r] in channels_last, labels int64 [N]."""
        order = self.order(epoch)[start_step:, self.rank].ravel()
        key = epoch_key(self.seed_augmentation, epoch)
        for images, numbers in self._pipeline.batches(order, resolution, key):
            yield self._distort(images, key, numbers), self._pipeline.labels_of(numbers)


class ValLoader:
    """Central crops of a split's images; over all ranks, every image exactly once, unpadded.

    Iterating gives images [N, 3, resolution, resolution] in channels_last, labels int64 [N], image numbers int64
    [N]. The last batch may be short; ranks may differ by one image. val_crop: side of the crop as a share of the
    image's shorter side. at_most: images, should the split have more; the first of `subset`'s shuffle. leave_out:
    numbers of images that are not wanted. dtype: see `TrainLoader`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        batch_size: int,
        resolution: int,
        rank: int = 0,
        world_size: int = 1,
        val_crop: float = 0.875,
        split: Split = "val",
        at_most: int | None = None,
        leave_out: Numbers = NONE,
        threads: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.uint8,
    ) -> None:
        self._pipeline = _Pipeline(
            folder, split, CentralCrop(val_crop), batch_size, threads, torch.device(device), dtype
        )
        self.resolution = resolution
        numbers = np.setdiff1d(subset(self._pipeline.labels, at_most), leave_out)
        self.images = len(numbers)
        """Of all ranks."""
        self._order = np.array_split(numbers, world_size)[rank]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        yield from self._batches(self._order)

    def sample(self, images: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of at most so many images of the split, the same on every rank."""
        yield from self._batches(subset(self._pipeline.labels, images))

    def _batches(self, order: Numbers) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for images, numbers in self._pipeline.batches(order, self.resolution):
            yield images, self._pipeline.labels_of(numbers), torch.from_numpy(numbers.copy())


def subset(labels: Numbers, images: int | None) -> Numbers:
    """Sorted numbers of `images` images, or of all if there are not more.

    The first of a fixed shuffle of each class, taken in turn over the classes, so classes are equal as far as they go
    and a smaller subset is part of a larger one.
    """
    shuffled = np.random.Generator(np.random.Philox(SUBSET_SEED)).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    turn = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[np.argsort(turn, kind="stable")][:images])


def _copies(device: torch.device) -> list[Any]:
    """FFCV's operations between the decoded images and the device; on a CPU images stay where they were decoded."""
    return [] if device.type == "cpu" else [ToDevice(device, non_blocking=True)]


class _Pipeline:
    """One FFCV loader over the decoder of `native.DECODER`, whatever resolutions follow."""

    def __init__(
        self,
        folder: Path,
        split: Split,
        crop: RandomCrop | CentralCrop,
        batch_size: int,
        threads: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        load_manifest(folder)
        self.device, self.dtype = device, dtype
        normalise = None if dtype is torch.uint8 else Normalise(dtype)
        file = beton(folder, split)
        choice = DECODER.choice()
        if choice.cure:
            warnings.warn(
                f"decoding with stock FFCV: {choice.detail}. {choice.cure[0].upper()}{choice.cure[1:]}", stacklevel=1
            )
        self._decoder: CropDecoder
        self._finish: Callable[[Tensor], Tensor] = lambda images: images.view(dtype)
        if choice.native:
            self._decoder = NativeDecoder(crop, 1, threads, file, normalise)
        else:
            self._decoder = StockDecoder(crop, 1)
            if normalise is not None:
                self._finish = normalise.to(device)
        operations = [self._decoder, ToTensor(), *_copies(device), ToTorchImage()]
        pipelines: dict[str, Any] = {"image": operations, "label": None}
        with compiling(not choice.native):
            self._loader = Loader(
                str(file),
                batch_size=batch_size,
                num_workers=threads,
                os_cache=True,
                drop_last=False,
                pipelines=pipelines,
            )
        self._spare: tuple[int, Any] | None = None
        """Resolution and buffers of an epoch that is over: in fresh ones, writing a page costs more than filling it."""
        self._sizes = self._loader.memory_manager.sizes
        self.labels: Numbers = self._loader.reader.metadata["f1"].astype(np.int64)

    def batches(self, order: Numbers, resolution: int, key: int = 0) -> Iterator[tuple[Tensor, Numbers]]:
        """Images and their numbers, in order."""
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
        return torch.from_numpy(self.labels[numbers]).to(self.device, non_blocking=True)
