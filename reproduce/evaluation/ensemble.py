"""Averaged probabilities, first over crops and then over models. Every image counts once, whatever the world size."""

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
from reproduce.evaluation.image_results import ImageResults, ResultWriter
from reproduce.evaluation.models import ModelReference, SingleCrop
from reproduce.evaluation.protocols import Protocol, sides
from reproduce.execution.metrics import topk_correct
from reproduce.execution.ranks import Ranks
from reproduce.execution.validation import Validation

CROPS_A_BATCH = {"cpu": 144, "cuda": 1152}
"""Crops of one forward pass, by device, as far as whole images fill them; at least those of one image."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated, and how."""

    models: Sequence[ModelReference]
    """The models of an ensemble, or a single one."""
    folder: Path
    """A prepared data set, whose validation images are used."""
    protocol: Protocol
    threads: int
    """CPU threads of each process."""
    results_folder: Path | None = None
    """Where the results of single images are kept, see `ResultWriter`."""
    known: ImageResults | None = None
    """Results of an earlier evaluation that was stopped; its images are not evaluated again."""


class AveragedBatch(NamedTuple):
    """A batch: image numbers and labels, int64 [N], and probabilities, float64 [N, classes]; on the CPU."""

    indices: Tensor
    labels: Tensor
    probabilities: Tensor


@dataclass(frozen=True)
class Enlarged:
    """Images that are stored smaller than the protocol's largest scale and are therefore scaled up."""

    images: int
    largest_side: int
    """The largest shorter side, or the single crop's side, that the protocol needs, in pixels."""


def multi_crop(protocol: Protocol, resolution: int) -> MultiCrop:
    """The crops of "10-crop" or "144-crop" without the mirrored ones, at a resolution in pixels."""
    thorough = protocol == "144-crop"
    return MultiCrop(resolution, sides(protocol, resolution), squares=3 if thorough else 1, whole=thorough)


def enlarged(folder: Path, protocol: Protocol, single: SingleCrop) -> Enlarged:
    """Count the validation images that a protocol scales up; `single` is the model's single crop."""
    stored = shorter_sides(folder)
    if protocol == "single":
        return Enlarged(int((np.rint(stored * single.share) < single.resolution).sum()), single.resolution)
    largest = max(sides(protocol, single.resolution))
    return Enlarged(int((stored < largest).sum()), largest)


@torch.inference_mode()
def averaged_probabilities(
    models: Sequence[ModelReference],
    folder: Path,
    protocol: Protocol,
    ranks: Ranks,
    *,
    threads: int,
    known: Numbers = NONE,
) -> Generator[AveragedBatch, None, None]:
    """Evaluate this rank's share of the validation images in `folder`, batch by batch.

    Images are read once for all models that need the same crops. The single crop is that of `ValLoader`.

    Args:
        models: The models whose probabilities are averaged.
        folder: A prepared data set.
        protocol: The crops of each image.
        ranks: The ranks that share the images.
        threads: CPU threads of the loaders.
        known: Numbers of images to leave out.
    """
    classifiers = [model.load(ranks.device) for model in models]
    needed = [_crops(model, protocol) for model in models]
    distinct = list(dict.fromkeys(needed))
    streams = [_batches(crops, models[0].batch_size, folder, ranks, threads, known) for crops in distinct]
    mirrored = 1 if protocol == "single" else 2
    for batches in zip(*streams, strict=True):
        _, labels, indices = batches[0]
        pixels = {crops: batch[0] for crops, batch in zip(distinct, batches, strict=True)}
        total = torch.zeros((), dtype=torch.float64, device=ranks.device)
        for classifier, crops in zip(classifiers, needed, strict=True):
            probabilities = classifier(pixels[crops]).double().softmax(1)
            total = total + probabilities.unflatten(0, (mirrored, len(labels), -1)).mean((0, 2))
        yield AveragedBatch(indices.cpu(), labels.cpu(), (total / len(classifiers)).cpu())


def _crops(model: ModelReference, protocol: Protocol) -> SingleCrop | MultiCrop:
    single = model.single_crop
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
    """Load this rank's crops, batch by batch.

    Yields:
        Crops of N images, uint8 [2 * N * C, 3, S, S] on the device, the mirrored ones in the second half; labels and
        indices, [N].
    """
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
    config: EvaluationConfig, ranks: Ranks, *, progress: Callable[[int], None] = lambda images: None
) -> Validation:
    """Accuracies and cross-entropy of the averaged probabilities, with the predictions as `validate` returns them.

    All ranks call this function together, and each gets the whole result. Sums are taken in the order of the images,
    so that they do not depend on the world size.

    Args:
        config: What is evaluated; the same on all ranks.
        ranks: The ranks that share the images.
        progress: Called with the number of images of each batch that this rank has evaluated.
    """
    own: list[ImageResults] = []
    known = NONE if config.known is None else config.known.number
    batches = averaged_probabilities(
        config.models, config.folder, config.protocol, ranks, threads=config.threads, known=known
    )
    with ResultWriter(config.results_folder) as writer:
        for indices, labels, probabilities in batches:
            classes, _ = topk_correct(probabilities, labels)
            losses = -probabilities.gather(1, labels[:, None])[:, 0].log()
            own.append(ImageResults(*(column.numpy() for column in (indices, labels, classes, losses))))
            writer.add(own[-1])
            progress(len(labels))
    gathered = [batch for rank in ranks.gather(own) for batch in rank]
    index, label, top5, loss = ImageResults.joined([*gathered, *([] if config.known is None else [config.known])])
    assert np.array_equal(index, np.arange(len(index))), "every image exactly once"
    correct = top5 == label[:, None]
    return Validation(
        loss=float(loss.mean()),
        top1=float(correct[:, 0].mean()),
        top5=float(correct.any(1).mean()),
        predictions={"index": index, "label": label, "top5": top5, "correct": correct[:, 0]},
    )
