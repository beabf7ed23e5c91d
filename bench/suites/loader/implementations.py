"""Defines our loader and its baselines, each written as its documentation recommends.

All deliver the same kind of batches to the memory of the consumer: square random resized crops (8 to 100 % of the area,
aspect ratio 3/4 to 4/3), randomly mirrored, normalised, float32 [N, 3, side, side]. The exception is `deeper, uint8`,
whose pixels are uint8 and not normalised. Each implementation imports its packages itself, so that its start-up time
and its memory include them.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.suites.harness.errors import NotInstalledError

if TYPE_CHECKING:
    from torch import Tensor

MARKED = "marked"  # an input format: JPEGs with restart markers, as in the files that `deeper data prepare` writes
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels scaled to [0, 1]

Epochs = Callable[[int], "Iterator[Tensor]"]
"""Returns an iterator over the batches of the epoch with the given index.

The time of the call itself is not measured; the time of the iteration is.
"""


@dataclass(frozen=True)
class LoaderWorkload:
    """The pictures that every loader reads, and the batches that it makes of them."""

    source: Path
    """The pictures, in the input format of the loader: an ImageNet-style folder, or a folder of FFCV files."""
    side: int
    """Side of the crops, in pixels."""
    batch: int
    """Images in a batch."""
    threads: int
    """Number of decoding threads of our loader, FFCV or DALI, or of worker processes of DataLoader. The consumer has
    one more thread."""


@dataclass(frozen=True)
class LoaderImplementation:
    """One loader: how it is built, which input format it reads, and which batches it delivers."""

    build: Callable[[LoaderWorkload], Epochs]
    """Builds the loader. Raises `NotInstalledError` if the packages of the loader are not installed."""
    input_format: str
    """The format of the pictures: "folder" (JPEG files); `MARKED` (FFCV files of JPEGs with restart markers); or FFCV
    files without restart markers, in which case it is the `write_mode` of `PrepareOptions`, such as "jpg" or "raw"."""
    dtype: str = "float32"
    """Type of the pixels in its batches: "float32" or "uint8"."""


# --- ours ------------------------------------------------------------------------------------------------------------


def _deeper(workload: LoaderWorkload, dtype: str = "float32") -> Epochs:
    import torch

    from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig

    config = TrainLoaderConfig(
        batch_size=workload.batch,
        seed_order=0,
        seed_augmentation=0,
        threads=workload.threads,
        device="cpu",
        dtype=getattr(torch, dtype),
    )
    loader = TrainLoader(workload.source, config)
    return lambda index: (images for images, _ in loader.epoch(index, workload.side))


# --- FFCV ------------------------------------------------------------------------------------------------------------


def _ffcv(workload: LoaderWorkload) -> Epochs:
    import numpy as np
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage

    loader = Loader(
        str(workload.source / "train.beton"),
        batch_size=workload.batch,
        num_workers=workload.threads,
        os_cache=True,
        order=OrderOption.RANDOM,
        drop_last=True,
        pipelines={
            "image": [
                RandomResizedCropRGBImageDecoder((workload.side, workload.side)),
                RandomHorizontalFlip(),
                NormalizeImage(
                    255 * np.array(MEAN), 255 * np.array(STD), np.dtype(np.float32)
                ),  # on a CPU it has to come before ToTensor
                ToTensor(),
                ToTorchImage(),
            ]
        },
    )
    return lambda _: (images for images, *_ in loader)


# --- torchvision -----------------------------------------------------------------------------------------------------


def _torchvision_pil(workload: LoaderWorkload, workers: int | None = None) -> Epochs:
    from torchvision import transforms
    from torchvision.datasets.folder import default_loader

    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(workload.side),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return _data_loader(workload, default_loader, augment, workers)


def _torchvision_decode_jpeg(workload: LoaderWorkload, workers: int | None = None) -> Epochs:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms import v2

    augment = v2.Compose(
        [
            v2.RandomResizedCrop(workload.side, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return _data_loader(workload, lambda path: decode_jpeg(read_file(path), mode=ImageReadMode.RGB), augment, workers)


def _data_loader(
    workload: LoaderWorkload, load: Callable[[str], Any], augment: Callable[[Any], Tensor], workers: int | None
) -> Epochs:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    workers = workload.threads if workers is None else workers
    loader = DataLoader(
        ImageFolder(str(workload.source / "train"), augment, loader=load),
        workload.batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,  # what DataLoader takes where nothing was spawned
    )
    return lambda _: (images for images, _ in loader)


# --- DALI ------------------------------------------------------------------------------------------------------------


def _dali(workload: LoaderWorkload) -> Epochs:
    try:
        from nvidia.dali import fn, pipeline_def, types
        from nvidia.dali.plugin.pytorch import DALIGenericIterator
    except ImportError as error:
        raise NotInstalledError(
            "not installed; add it with: pip install nvidia-dali-cuda130 (the extra `peers`)"
        ) from error

    @pipeline_def
    def pipeline() -> Any:
        files, labels = fn.readers.file(file_root=str(workload.source / "train"), random_shuffle=True, name="files")
        images = fn.decoders.image_random_crop(
            files, device="cpu", random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
        )
        images = fn.resize(images, size=[workload.side, workload.side])
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
        batch_size=workload.batch, num_threads=workload.threads, device_id=None, prefetch_queue_depth=queue, seed=0
    )
    built.build()
    steps = built.reader_meta("files")["epoch_size"] // workload.batch
    iterator = DALIGenericIterator([built], ["images", "labels"])

    def epoch(index: int) -> Iterator[Tensor]:
        # DALI fills its queue while other loaders are measured. Empty it, so that every counted image is also timed.
        for _ in islice(iterator, queue):
            pass
        return (output["images"] for (output,) in islice(iterator, steps))

    return epoch


# --- SPDL ------------------------------------------------------------------------------------------------------------


def _spdl(workload: LoaderWorkload) -> Epochs:
    try:
        import spdl.io
        from spdl.pipeline import PipelineBuilder
    except ImportError as error:
        raise NotInstalledError(
            "not installed; add it with: pip install spdl (the extra `peers`), and FFmpeg's libraries "
            "(Debian: apt-get install libavfilter8 libavdevice59)"
        ) from error
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import RandomResizedCrop

    paths = [path for path, _ in ImageFolder(str(workload.source / "train")).samples]
    scale = torch.tensor([1 / (255 * value) for value in STD]).view(3, 1, 1)
    shift = torch.tensor([-mean / std for mean, std in zip(MEAN, STD, strict=True)]).view(3, 1, 1)

    def decode(path: str) -> Any:
        packets = spdl.io.demux_image(path)
        codec = packets.codec
        picture = torch.empty(3, codec.height, codec.width, device="meta")  # only its shape matters
        top, left, height, width = RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3])
        mirror = "hflip," if torch.rand(()) < 0.5 else ""
        return spdl.io.decode_packets(
            packets,
            filter_desc=f"crop={width}:{height}:{left}:{top}:exact=1,"
            f"scale={workload.side}:{workload.side}:flags=bilinear,{mirror}format=pix_fmts=rgb24",
        )

    def collate(frames: Any) -> Tensor:
        pixels: Tensor = spdl.io.to_torch(spdl.io.convert_frames(frames))
        return torch.addcmul(shift, pixels.permute(0, 3, 1, 2), scale)

    def epoch(_: int) -> Iterator[Tensor]:
        order = [paths[place] for place in torch.randperm(len(paths)).tolist()]
        built = (
            PipelineBuilder()
            .add_source(order)
            .pipe(decode, concurrency=workload.threads)
            .aggregate(workload.batch, drop_last=True)
            .pipe(collate)
            .add_sink(2)
            .build(num_threads=workload.threads, max_failures=0)
        )
        with built.auto_stop():
            yield from built

    return epoch


WORKERS = (0, 2, 4, 8)
"""Numbers of worker processes with which DataLoader is measured beside that of the decoding threads."""

LOADERS = {
    "deeper": LoaderImplementation(_deeper, MARKED),
    "deeper, uint8": LoaderImplementation(partial(_deeper, dtype="uint8"), MARKED, dtype="uint8"),
    "deeper, no markers": LoaderImplementation(_deeper, "jpg"),
    "deeper, raw": LoaderImplementation(_deeper, "raw"),
    "FFCV jpeg": LoaderImplementation(_ffcv, "jpg"),
    "FFCV mixed": LoaderImplementation(_ffcv, "proportion"),
    "FFCV raw": LoaderImplementation(_ffcv, "raw"),
    "DALI": LoaderImplementation(_dali, "folder"),
    "SPDL": LoaderImplementation(_spdl, "folder"),
    "torchvision, decode_jpeg": LoaderImplementation(_torchvision_decode_jpeg, "folder"),
    "torchvision, PIL": LoaderImplementation(_torchvision_pil, "folder"),
    **{
        f"torchvision, {name}, {workers} workers": LoaderImplementation(partial(build, workers=workers), "folder")
        for name, build in (("decode_jpeg", _torchvision_decode_jpeg), ("PIL", _torchvision_pil))
        for workers in WORKERS
    },
}
"""All loaders by name, ours first. `deeper, uint8` delivers what training on a GPU uses, where the GPU normalises."""
