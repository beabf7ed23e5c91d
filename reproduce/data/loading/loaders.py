"""FFCV loaders of training and validation batches for one rank, on CPUs and GPUs.

The tensor of a batch's images may be a view of a buffer that FFCV reuses. It is valid until the next batch is
requested; clone it to keep it longer. The same holds for labels on a GPU, which come there in one transfer with the
pixels: FFCV's thread copies them from pinned memory, in a stream for each of its buffers, up to three batches ahead.
Labels on a CPU and image numbers stay valid.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import math
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
from reproduce.data.loading.packing import PackingDecoder, unpacked
from reproduce.data.loading.photometric import distorted
from reproduce.data.loading.read_ahead import ReadAhead
from reproduce.data.manifest import DataError, Split, beton, load_manifest
from reproduce.native import DECODER

Numbers = npt.NDArray[np.int64]
NONE: Numbers = np.empty(0, np.int64)

SUBSET_SEED = 2014  # of the shuffle behind train_fraction, which no seed of a run changes


@dataclass(frozen=True, kw_only=True, eq=False)
class LoaderConfig:
    """Options that the loaders of training and of validation images have in common."""

    batch_size: int
    """Number of images in a batch of one rank."""
    rank: int = 0
    """Rank whose batches the loader yields."""
    world_size: int = 1
    """Number of ranks that share the images."""
    threads: int = 1
    """Number of threads that decode."""
    device: torch.device | str = "cpu"
    """Device on which the loader places images and labels."""
    dtype: torch.dtype = torch.uint8
    """Type of the images. uint8: pixels. float32 or bfloat16: images normalised as by `Normalise`; the native decoder
    normalises while it decodes, which saves passes over memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainLoaderConfig(LoaderConfig):
    """Options of `TrainLoader`: the order of the training images and their augmentation."""

    seed_order: int
    """Seed of the order of the images."""
    seed_augmentation: int
    """Seed of crops, flips and photometric distortions."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Minimum and maximum area of a crop, as a share of the image's area."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Minimum and maximum aspect ratio of a crop, width / height."""
    flip: bool = True
    """Whether to mirror each crop with probability 1/2."""
    photometric: bool = False
    """Distort brightness, contrast and colour, see `photometric.distorted`."""
    train_fraction: float = 1.0
    """Share of the training images that are used; `subset` chooses them."""
    train_images: int | None = None
    """Number of training images that are used, see `RunConfig.train_images`. None computes it from the share."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ValLoaderConfig(LoaderConfig):
    """Options of `ValLoader`: the images to evaluate and their crop."""

    resolution: int
    """Side of the images that the loader yields, in pixels."""
    val_crop: float = 0.875
    """Side of the central crop, as a share of the image's shorter side."""
    split: Split = "val"
    """Split whose images are loaded."""
    at_most: int | None = None
    """Maximum number of images of all ranks together; `subset` chooses them from a larger split. None takes all."""
    leave_out: Numbers = field(default_factory=lambda: NONE)
    """Numbers of images to leave out. They are removed after `at_most` is applied."""


class TrainLoader:
    """A loader of randomly cropped and augmented training images in a random order.

    The order of an epoch is a permutation drawn from (seed_order, epoch). Global step s takes the images at positions
    s * B to (s + 1) * B - 1 of it, with B = batch_size x world_size, and rank r takes the r-th slice of batch_size of
    these. The remaining images at the end, too few for a step, are left out of the epoch. Crops, flips and distortions
    of an image are drawn from (seed_augmentation, epoch, image number).

    Args:
        folder: A prepared data set.
        config: Order, augmentation, batches and device.

    Raises:
        DataError: The manifest is missing or invalid, an FFCV file is missing or has the wrong size, or there are too
            few images for one step.
        ImplementationError: The environment variable `DEEPER_DECODER` has an invalid value, or the native decoder is
            unavailable and the variable does not ask for FFCV's own.
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
        self._subset = subset(labels, config.train_images or int(len(labels) * config.train_fraction))
        step = config.batch_size * config.world_size
        self.steps = len(self._subset) // step
        """Number of optimiser steps of an epoch, the same on every rank."""
        self.images = len(self._subset)
        """Number of images that all ranks share, including those that an epoch may leave out at its end."""
        if self.steps == 0:
            raise DataError(f"{folder}: {len(self._subset)} training images are fewer than one step of {step}")

    def order(self, epoch: int) -> Numbers:
        """Compute the image numbers of every step and rank in an epoch, int64 [steps, world_size, batch_size]."""
        shape = self.steps, self.config.world_size, self.config.batch_size
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.config.seed_order, epoch])))
        return random.permutation(self._subset)[: math.prod(shape)].reshape(shape)

    def epoch(self, epoch: int, resolution: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Load this rank's batches of an epoch.

        This is a generator. A thread decodes ahead of the consumer; it ends when the generator is exhausted or closed.

        Args:
            epoch: Number of the epoch, from 0.
            resolution: Side of the images, in pixels.
            start_step: Number of steps to skip at the beginning of the epoch.

        Yields:
            Images, [batch_size, 3, resolution, resolution] in channels_last and of `config.dtype`, and labels, int64
            [batch_size]; both on the device and valid until the next batch is requested.

        Raises:
            DataError: An image is damaged. FFCV's own decoder does not report this.
        """
        order = self.order(epoch)[start_step:, self.config.rank].ravel()
        key = epoch_key(self.config.seed_augmentation, epoch)
        for images, labels, numbers in self._pipeline.batches(order, resolution, key):
            yield self._distort(images, key, numbers), labels


class ValLoader:
    """An iterable over central crops of a split's images, in batches.

    The ranks share the images: together they yield every image exactly once, without padding. One rank may have an
    image more than another, and then perhaps a batch more.

    Iterating yields tuples of images, [N, 3, resolution, resolution] in channels_last and of `config.dtype`, on the
    device; labels, int64 [N], on the device; and image numbers, int64 [N], on the CPU. N is batch_size, or less in the
    last batch. Images and labels are valid until the next batch is requested. A damaged image raises `DataError` during
    the iteration, unless FFCV's own decoder is used, which does not report it.

    Args:
        folder: A prepared data set.
        config: Images, crop, batches and device.

    Raises:
        DataError: The manifest is missing or invalid, or an FFCV file is missing or has the wrong size.
        ImplementationError: The environment variable `DEEPER_DECODER` has an invalid value, or the native decoder is
            unavailable and the variable does not ask for FFCV's own.
    """

    def __init__(self, folder: Path, config: ValLoaderConfig) -> None:
        self.config = config
        self._pipeline = _Pipeline(folder, config.split, CentralCrop(config.val_crop), config, config.dtype)
        numbers = np.setdiff1d(subset(self._pipeline.labels, config.at_most), config.leave_out)
        self.images = len(numbers)
        """Number of images of all ranks together."""
        self._order = np.array_split(numbers, config.world_size)[config.rank]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        yield from self._batches(self._order)

    def sample(self, images: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Load the same sample of the split on every rank, in batches as by iterating.

        `subset` chooses the sample from the whole split, whatever `at_most` and `leave_out` are.

        Args:
            images: Maximum number of images.

        Yields:
            Images, labels and image numbers, as by iterating over the loader.
        """
        yield from self._batches(subset(self._pipeline.labels, images))

    def _batches(self, order: Numbers) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for images, labels, numbers in self._pipeline.batches(order, self.config.resolution):
            yield images, labels, torch.from_numpy(numbers.copy())


def subset(labels: Numbers, images: int | None) -> Numbers:
    """Choose a subset of images that is balanced over the classes, the same at every call.

    Each class is shuffled with a fixed seed, and the classes take turns in giving an image until the subset is
    complete. A class that runs out of images is passed over; the others differ by at most one image. A smaller subset
    is contained in a larger one.

    Args:
        labels: int64 [N], the class of every image.
        images: Number of images to choose. None, or a number larger than N, chooses all.

    Returns:
        int64 [images], the chosen image numbers in ascending order.
    """
    shuffled = np.random.Generator(np.random.Philox(SUBSET_SEED)).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    turn = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[np.argsort(turn, kind="stable")][:images])


def _copies(device: torch.device) -> list[Any]:
    """Return FFCV's operations that copy decoded images to the device; none for a CPU."""
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
        decoder, copies = DECODER.implementation(), _copies(self._device)
        self._decoder: CropDecoder
        self._finish: Callable[[Tensor], Tensor] = lambda images: images.view(dtype)
        if decoder.native and copies and dtype is torch.uint8:
            self._decoder = PackingDecoder(crop, 1, config.threads, file)
        elif decoder.native:
            self._decoder = NativeDecoder(crop, 1, config.threads, file, normalise)
        else:
            self._decoder = StockDecoder(crop, 1)
            if normalise is not None:
                self._finish = normalise.to(self._device)
        packs = isinstance(self._decoder, PackingDecoder)
        operations = [self._decoder, ToTensor(), *copies, *([] if packs else [ToTorchImage()])]
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
        """Resolution and buffers of the last epoch, kept for the next: the first write to new memory takes longer."""
        manager = self._loader.memory_manager
        self._sizes = manager.sizes
        starts = self._loader.reader.metadata["f0"]["data_ptr"]
        places = np.minimum(np.searchsorted(manager.ptrs, starts), len(manager.ptrs) - 1)
        self._read_ahead = ReadAhead(file, starts, manager.sizes[places])
        self.labels: Numbers = self._loader.reader.metadata["f1"].astype(np.int64)
        if isinstance(self._decoder, PackingDecoder):
            self._decoder.labels = self.labels

    def batches(self, order: Numbers, resolution: int, key: int = 0) -> Iterator[tuple[Tensor, Tensor, Numbers]]:
        """Yield batches of images, labels and image numbers, in the order of the image numbers `order`."""
        self._decoder.resolution = resolution
        self._loader.memory_manager.sizes = np.append(self._sizes, np.uint64(key))  # see CropDecoder
        batch_size = self._loader.batch_size
        spare, self._spare = self._spare, None
        buffers = spare[1] if spare is not None and spare[0] == resolution else None
        epoch = Epoch(self._loader, order, buffers, read_ahead=self._read_ahead)
        try:
            for start in range(0, len(order), batch_size):
                (batch,) = cast(Any, next(epoch))
                numbers = order[start : start + batch_size]
                if isinstance(self._decoder, PackingDecoder):
                    yield *unpacked(batch), numbers
                else:
                    yield self._finish(batch), self._labels_of(numbers), numbers
        finally:
            epoch.close()
            self._spare = resolution, epoch.memory_allocations

    def _labels_of(self, numbers: Numbers) -> Tensor:
        return torch.from_numpy(self.labels[numbers]).to(self._device, non_blocking=True)
