"""Loads photographs as torchvision's reference scripts do: ImageFolder with transforms of PIL images, and DataLoader.

The loaders have the methods of ours that a training needs, so that either can feed either step. Order and augmentation
are drawn from torch's global generator, as in the scripts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from reproduce.data.loading.normalise import MEAN, STD
from reproduce.spec import RecipeConfig

START_METHOD = "fork"  # what DataLoader takes where nothing was spawned; the processes of the benchmark are
TO_INPUT = (transforms.ToTensor(), transforms.Normalize(MEAN, STD))


class FolderTrainLoader:
    """A loader of randomly cropped and mirrored training images in a random order, like `TrainLoader`.

    Incomplete batches are left out.

    Args:
        folder: ImageNet-style folder with `train/<class>/*`.
        recipe: Batch size and crops.
        workers: Number of worker processes.
        dtype: Type of the images.
        memory_format: Order of the images in memory.
    """

    def __init__(
        self,
        folder: Path,
        recipe: RecipeConfig,
        workers: int,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._dataset, self._recipe, self._workers = ImageFolder(folder / "train"), recipe, workers
        self._dtype, self._memory_format = dtype, memory_format
        self.steps = len(self._dataset) // recipe.batch_size
        """Number of batches of an epoch."""

    def epoch(self, epoch: int, resolution: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Load the batches of an epoch in worker processes, which end with the epoch.

        Args:
            epoch: Number of the epoch, which changes nothing here.
            resolution: Side of the images, in pixels.
            start_step: Must be 0: the generator decides the order.

        Yields:
            Normalised images, [batch_size, 3, resolution, resolution], and labels, int64 [batch_size].
        """
        assert start_step == 0, "an epoch is always loaded from its beginning"
        recipe = self._recipe
        crop = transforms.RandomResizedCrop(resolution, scale=recipe.crop_scale, ratio=recipe.crop_ratio)
        self._dataset.transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), *TO_INPUT])
        loader = DataLoader(
            self._dataset,
            recipe.batch_size,
            shuffle=True,
            num_workers=self._workers,
            drop_last=True,
            multiprocessing_context=START_METHOD,
        )
        for images, labels in loader:
            yield images.to(dtype=self._dtype, memory_format=self._memory_format), labels


class FolderValLoader:
    """An iterable over central crops of all validation images, in batches, like `ValLoader`.

    It yields normalised images, [N, 3, resolution, resolution], labels and image numbers, both int64 [N].

    Args:
        folder: ImageNet-style folder with `val/<class>/*`.
        recipe: Batch size, resolution, and the share of the shorter side that is cropped.
        workers: Number of worker processes.
        dtype: Type of the images.
        memory_format: Order of the images in memory.
    """

    def __init__(
        self,
        folder: Path,
        recipe: RecipeConfig,
        workers: int,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        shorter_side = round(recipe.resolution / recipe.val_crop)
        central = [transforms.Resize(shorter_side), transforms.CenterCrop(recipe.resolution), *TO_INPUT]
        dataset = ImageFolder(folder / "val", transforms.Compose(central))
        self._loader = DataLoader(dataset, recipe.batch_size, num_workers=workers, multiprocessing_context=START_METHOD)
        self._dtype, self._memory_format = dtype, memory_format
        self.images = len(dataset)
        """Number of images."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        first = 0
        for images, labels in self._loader:
            numbers = torch.arange(first, first + len(labels))
            first += len(labels)
            yield images.to(dtype=self._dtype, memory_format=self._memory_format), labels, numbers
