"""Our loader and its peers at one task, each as its documentation writes it.

Random resized crops (8 to 100 % of the area, ratio 3/4 to 4/3) to one side, flips, normalised float32 batches [N, 3,
side, side] in the consumer's hands. Every import is a contestant's own: its start and its memory pay for it.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MARKED = "marked"  # a form: JPEGs with restart markers, as our own files have them
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels scaled to [0, 1]

Epochs = Callable[[int], "Iterator[Tensor]"]
"""Batches of epoch number `index`; what is done before the first one is asked for is not timed."""


class AbsentError(Exception):
    """A peer that is not installed; the message says how to add it."""


@dataclass(frozen=True)
class Task:
    """What each contestant has to do, and with what."""

    source: Path
    """What it reads: an ImageNet-style folder, or a folder of FFCV files made from it."""
    side: int
    batch: int
    threads: int
    """That decode: FFCV's and DALI's threads, DataLoader's workers; the consumer comes on top."""


@dataclass(frozen=True)
class Contestant:
    """How a loader is built, and which form of the photographs it reads."""

    build: Callable[[Task], Epochs]
    form: str
    """folder; a `write_mode` of `PrepareOptions`: jpg, raw, proportion, all without restart markers; or `MARKED`."""
    dtype: str = "float32"
    """Of its batches."""


# --- ours ------------------------------------------------------------------------------------------------------------


def _deeper(task: Task, dtype: str = "float32") -> Epochs:
    import torch

    from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig

    config = TrainLoaderConfig(
        batch_size=task.batch,
        seed_order=0,
        seed_augmentation=0,
        threads=task.threads,
        device="cpu",
        dtype=getattr(torch, dtype),
    )
    loader = TrainLoader(task.source, config)
    return lambda index: (images for images, _ in loader.epoch(index, task.side))


# --- FFCV ------------------------------------------------------------------------------------------------------------


def _ffcv(task: Task) -> Epochs:
    import numpy as np
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage

    loader = Loader(
        str(task.source / "train.beton"),
        batch_size=task.batch,
        num_workers=task.threads,
        os_cache=True,
        order=OrderOption.RANDOM,
        drop_last=True,
        pipelines={
            "image": [
                RandomResizedCropRGBImageDecoder((task.side, task.side)),
                RandomHorizontalFlip(),
                NormalizeImage(
                    255 * np.array(MEAN), 255 * np.array(STD), np.dtype(np.float32)
                ),  # on CPU only before ToTensor
                ToTensor(),
                ToTorchImage(),
            ]
        },
    )
    return lambda _: (images for images, *_ in loader)


# --- torchvision -----------------------------------------------------------------------------------------------------


def _torchvision_pil(task: Task) -> Epochs:
    from torchvision import transforms
    from torchvision.datasets.folder import default_loader

    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(task.side),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return _data_loader(task, default_loader, augment)


def _torchvision_decode_jpeg(task: Task) -> Epochs:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms import v2

    augment = v2.Compose(
        [
            v2.RandomResizedCrop(task.side, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return _data_loader(task, lambda path: decode_jpeg(read_file(path), mode=ImageReadMode.RGB), augment)


def _data_loader(task: Task, load: Callable[[str], Any], augment: Callable[[Any], Tensor]) -> Epochs:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    loader = DataLoader(
        ImageFolder(str(task.source / "train"), augment, loader=load),
        task.batch,
        shuffle=True,
        num_workers=task.threads,
        drop_last=True,
        persistent_workers=True,
        multiprocessing_context="fork",  # DataLoader's own choice, were this process not a spawned one
    )
    return lambda _: (images for images, _ in loader)


# --- DALI ------------------------------------------------------------------------------------------------------------


def _dali(task: Task) -> Epochs:
    try:
        from nvidia.dali import fn, pipeline_def, types
        from nvidia.dali.plugin.pytorch import DALIGenericIterator
    except ImportError as error:
        raise AbsentError("not installed; add it with: pip install nvidia-dali-cuda130 (the extra `peers`)") from error

    @pipeline_def
    def pipeline() -> Any:
        files, labels = fn.readers.file(file_root=str(task.source / "train"), random_shuffle=True, name="files")
        images = fn.decoders.image_random_crop(
            files, device="cpu", random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
        )
        images = fn.resize(images, size=[task.side, task.side])
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="CHW",
            mirror=fn.random.coin_flip(),
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
        )
        return images, labels

    queue = 2
    built = pipeline(
        batch_size=task.batch, num_threads=task.threads, device_id=None, prefetch_queue_depth=queue, seed=0
    )
    built.build()
    steps = built.reader_meta("files")["epoch_size"] // task.batch
    endless = DALIGenericIterator([built], ["images", "labels"])

    def epoch(index: int) -> Iterator[Tensor]:
        # DALI fills its queue while it waits for its turn: empty it, so that every image counted is also timed.
        for _ in islice(endless, queue):
            pass
        return (output["images"] for (output,) in islice(endless, steps))

    return epoch


CONTESTANTS = {
    "deeper": Contestant(_deeper, MARKED),
    "deeper, uint8": Contestant(partial(_deeper, dtype="uint8"), MARKED, dtype="uint8"),
    "deeper, no markers": Contestant(_deeper, "jpg"),
    "deeper, raw": Contestant(_deeper, "raw"),
    "FFCV jpeg": Contestant(_ffcv, "jpg"),
    "FFCV mixed": Contestant(_ffcv, "proportion"),
    "FFCV raw": Contestant(_ffcv, "raw"),
    "DALI": Contestant(_dali, "folder"),
    "torchvision, decode_jpeg": Contestant(_torchvision_decode_jpeg, "folder"),
    "torchvision, PIL": Contestant(_torchvision_pil, "folder"),
}
"""By name, ours first. uint8 batches are what our training takes where a GPU normalises."""
