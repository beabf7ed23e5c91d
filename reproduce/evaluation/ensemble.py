"""Average class probabilities over crops and models, and evaluate them. Every image counts once, on any world size."""

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
"""Maximum number of crops in one forward pass, by type of device. A pass always takes all crops of at least one image,
even if these are more."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Configures an evaluation: the models, the images, the crops, and the results that are reused and kept."""

    models: Sequence[ModelReference]
    """The models whose probabilities are averaged: a single model or an ensemble. All have the same classes."""
    folder: Path
    """The folder of a prepared data set, whose validation images are evaluated."""
    protocol: Protocol
    threads: int
    """CPU threads of each process."""
    results_folder: Path | None = None
    """Folder to which the results of single images are written, see `ResultWriter`. None: they are not written."""
    known: ImageResults | None = None
    """Results of an earlier, stopped evaluation of the same models and images. Images in it are not evaluated again."""


class AveragedBatch(NamedTuple):
    """The averaged probabilities of a batch of N images. All tensors are on the CPU."""

    indices: Tensor
    """Numbers of the images in the validation set, int64 [N]."""
    labels: Tensor
    """Labels, int64 [N]."""
    probabilities: Tensor
    """Class probabilities, averaged over crops, mirror images and models, float64 [N, classes]."""


@dataclass(frozen=True)
class Enlarged:
    """The number of images that a protocol scales up, because they are stored too small, and the side it needs."""

    images: int
    """Number of images that are scaled up."""
    largest_side: int
    """With 10 or 144 crops, the shorter side of the protocol's largest scale; with a single crop, the side of the crop
    that the network sees. In pixels."""


def multi_crop(protocol: Protocol, resolution: int) -> MultiCrop:
    """Build the crops of "10-crop" or "144-crop", without the mirrored ones.

    Args:
        protocol: "10-crop" or "144-crop"; "single" is not valid here.
        resolution: Side of a crop, in pixels. The scales of the image are in proportion to it.
    """
    thorough = protocol == "144-crop"
    return MultiCrop(resolution, sides(protocol, resolution), squares=3 if thorough else 1, whole=thorough)


def enlarged(folder: Path, protocol: Protocol, single: SingleCrop) -> Enlarged:
    """Count the validation images that a protocol scales up.

    Args:
        folder: The folder of a prepared data set.
        protocol: The evaluation protocol.
        single: The single crop of the model. Its resolution also determines the scales of the other protocols.
    """
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
    """Compute the averaged class probabilities of this rank's share of the validation images, batch by batch.

    Probabilities are averaged over the crops of an image and their mirror images, and then over the models. Images are
    decoded once for all models that need the same crops. The generator is lazy: it loads the models when the first
    batch is requested. It is not collective.

    Args:
        models: The models, all with the same classes. With "single", the batch size is that of the first model.
        folder: The folder of a prepared data set.
        protocol: The crops of each image. "single" is the central crop of `ValLoader`.
        ranks: The ranks that share the images.
        threads: Number of CPU threads of each loader.
        known: Numbers of images to leave out, int64.

    Yields:
        Batches of this rank's images, on the CPU.

    Raises:
        UserError: A model or the data set is missing or damaged, or the run of a model is unfinished.
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
    """Load the crops of this rank's share of the validation images, batch by batch.

    Args:
        crops: The crops of each image, C in number, without the mirrored ones, which are added here.
        folder: The folder of a prepared data set.
        ranks: The ranks that share the images.
        threads: Number of CPU threads that decode and crop.
        known: Numbers of images to leave out, int64.

    Yields:
        For each batch of N images: their crops, uint8 [2 * N * C, 3, S, S], on the device, with the mirrored ones in
        the second half and the crops of an image next to each other in each half; their labels, int64 [N]; and their
        numbers, int64 [N]. Labels and numbers are on the CPU.
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
    """Evaluate the averaged probabilities: accuracies, cross-entropy and the predictions for each image.

    Collective: all ranks must call it together. Sums are taken in the order of the images, so that they do not depend
    on the world size. Results of single images are written to `config.results_folder`, even if the call fails later.

    Args:
        config: The evaluation, the same on all ranks.
        ranks: The ranks that share the images.
        progress: Called after each batch of this rank, with the number of images in the batch.

    Returns:
        The result over all validation images, `config.known` included, on every rank. It always has predictions.

    Raises:
        UserError: A model or the data set is missing or damaged, or the run of a model is unfinished.
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
