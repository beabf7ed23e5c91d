"""Probabilities averaged over crops and then over models; every image counted once, whatever the world size."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reproduce.data.loading.loaders import NONE, LoaderConfig, Numbers, ValLoader, ValLoaderConfig
from reproduce.data.loading.multicrop import MultiCrop, MultiCropLoader, shorter_sides
from reproduce.evaluation.models import SingleCrop, Source
from reproduce.evaluation.parts import Found, Parts
from reproduce.evaluation.protocols import Protocol, sides
from reproduce.execution.ranks import Ranks
from reproduce.execution.validation import Validation
from reproduce.training.sums import hits

CROPS_A_BATCH = {"cpu": 144, "cuda": 1152}
"""Crops of a forward pass, as far as whole images fill them; at least one image."""


class Averaged(NamedTuple):
    """A batch: image numbers and labels, int64 [N], and probabilities, float64 [N, classes]."""

    indices: Tensor
    labels: Tensor
    probabilities: Tensor


@dataclass(frozen=True)
class Enlarged:
    """Images that are stored smaller than the protocol's largest scale asks, and so were scaled up."""

    images: int
    largest_side: int
    """The shorter side, or single crop, that the protocol asks for at most, in pixels."""


def multi_crop(protocol: Protocol, resolution: int) -> MultiCrop:
    """The crops of 10-crop or 144-crop, without the mirrored ones."""
    thorough = protocol == "144-crop"
    return MultiCrop(resolution, sides(protocol, resolution), squares=3 if thorough else 1, whole=thorough)


def enlarged(folder: Path, protocol: Protocol, single: SingleCrop) -> Enlarged:
    """How many validation images a protocol scales up."""
    stored = shorter_sides(folder)
    if protocol == "single":
        return Enlarged(int((np.rint(stored * single.share) < single.resolution).sum()), single.resolution)
    largest = max(sides(protocol, single.resolution))
    return Enlarged(int((stored < largest).sum()), largest)


@torch.inference_mode()
def averaged_probabilities(
    sources: Sequence[Source], folder: Path, protocol: Protocol, ranks: Ranks, *, threads: int, known: Numbers = NONE
) -> Generator[Averaged, None, None]:
    """This rank's share of the validation images in `folder` but the `known` ones (numbers), batch by batch.

    Images are read once for all models that want the same crops. Single crops are those of `ValLoader`.
    """
    models = [source.load(ranks.device) for source in sources]
    wanted = [_crops(source, protocol) for source in sources]
    different = list(dict.fromkeys(wanted))
    streams = [_batches(crops, sources[0].batch_size, folder, ranks, threads, known) for crops in different]
    mirrored = 1 if protocol == "single" else 2
    for batches in zip(*streams, strict=True):
        _, labels, indices = batches[0]
        pixels = {crops: batch[0] for crops, batch in zip(different, batches, strict=True)}
        total = torch.zeros((), dtype=torch.float64, device=ranks.device)
        for model, crops in zip(models, wanted, strict=True):
            probabilities = model(pixels[crops]).double().softmax(1)
            total = total + probabilities.unflatten(0, (mirrored, len(labels), -1)).mean((0, 2))
        yield Averaged(indices.cpu(), labels.cpu(), (total / len(models)).cpu())


def _crops(source: Source, protocol: Protocol) -> SingleCrop | MultiCrop:
    single = source.single_crop
    return single if protocol == "single" else multi_crop(protocol, single.resolution)


def _batches(
    crops: SingleCrop | MultiCrop, single_batch: int, folder: Path, ranks: Ranks, threads: int, known: Numbers
) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    if isinstance(crops, MultiCrop):
        return multi_crop_batches(crops, folder, ranks, threads=threads, known=known)
    return ValLoader(
        folder,
        ValLoaderConfig(
            batch_size=single_batch,
            resolution=crops.resolution,
            rank=ranks.rank,
            world_size=ranks.world_size,
            val_crop=crops.share,
            leave_out=known,
            threads=threads,
            device=ranks.device,
        ),
    )


def multi_crop_batches(
    crops: MultiCrop, folder: Path, ranks: Ranks, *, threads: int, known: Numbers = NONE
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Crops uint8 [2 * N * C, 3, S, S] of N images on the device, mirrored ones behind; labels and indices [N]."""
    config = LoaderConfig(
        batch_size=max(1, CROPS_A_BATCH[ranks.device.type] // (2 * crops.count)),
        rank=ranks.rank,
        world_size=ranks.world_size,
        threads=threads,
    )
    loader = MultiCropLoader(folder, crops, config, leave_out=known)
    for pixels, labels, indices in loader:
        flat = pixels.flatten(0, 1).to(ranks.device)
        yield torch.cat((flat, flat.flip(3))), labels, indices


def evaluate(
    sources: Sequence[Source],
    folder: Path,
    protocol: Protocol,
    ranks: Ranks,
    *,
    threads: int,
    parts: Path | None = None,
    known: Found | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> Validation:
    """Accuracies and cross-entropy of the averaged probabilities, with predictions as `validate` gives them.

    Called by all ranks alike, each gets the whole result. `progress` is told this rank's images as they are done.
    Sums are taken in the order of the images, so that they do not depend on the world size. parts: folder where what
    is found is kept on the way; known: what was found there before, the same for all ranks.
    """
    mine: list[Found] = []
    done = NONE if known is None else known.number
    with Parts(parts) as kept:
        for indices, labels, probabilities in averaged_probabilities(
            sources, folder, protocol, ranks, threads=threads, known=done
        ):
            best, _ = hits(probabilities, labels)
            losses = -probabilities.gather(1, labels[:, None])[:, 0].log()
            mine.append(Found(*(found.numpy() for found in (indices, labels, best, losses))))
            kept.add(mine[-1])
            progress(len(labels))
    found = [batch for rank in ranks.gather(mine) for batch in rank]
    index, label, top5, loss = Found.joined([*found, *([] if known is None else [known])])
    assert np.array_equal(index, np.arange(len(index))), "every image exactly once"
    hit = top5 == label[:, None]
    return Validation(
        loss=float(loss.mean()),
        top1=float(hit[:, 0].mean()),
        top5=float(hit.any(1).mean()),
        predictions={"index": index, "label": label, "top5": top5, "correct": hit[:, 0]},
    )
