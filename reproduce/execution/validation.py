"""Validate a network exactly: every image counts once, for any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from reproduce.data.loading.loaders import ValLoader
from reproduce.data.loading.normalise import Normalise
from reproduce.execution.metrics import topk_correct
from reproduce.execution.ranks import Ranks
from reproduce.models.folding import folded

Table = dict[str, NDArray[np.generic]]
"""A table: its columns by name, all with the same number of rows."""


@dataclass(frozen=True)
class Validation:
    """The result of a validation or an evaluation over all images of a split, the same on every rank."""

    loss: float
    """Mean cross-entropy."""
    top1: float
    """Share of the images whose label is the most probable class, 0 to 1."""
    top5: float
    """Share of the images whose label is among the five most probable classes, 0 to 1."""
    predictions: Table | None
    """One row for each of the n images, ordered by index. None if predictions were not requested.

    index: number of the image in the split, int64 [n].
    label: int64 [n].
    top5: the most probable classes, most probable first, int64 [n, min(5, classes)].
    correct: whether the most probable class is the label, bool [n]."""


@torch.inference_mode()
def validate(
    network: nn.Module,
    loader: ValLoader,
    normalise: Normalise,
    ranks: Ranks,
    *,
    dtype: torch.dtype,
    predictions: bool = False,
    before_batch: Callable[[int], None] = lambda batch: None,
) -> Validation:
    """Measure the accuracies and the cross-entropy of a network in evaluation mode, without label smoothing.

    Collective: all ranks must call it together, each with its own loader.

    Args:
        network: The network. It is not changed: a `folded` copy of it runs.
        loader: Loads this rank's share of the images.
        normalise: Turns the images of the loader into the input of the network.
        ranks: The ranks that share the images.
        dtype: Arithmetic of the network, bfloat16 or float32.
        predictions: Whether the result includes the predictions for each image.
        before_batch: Called before each batch is evaluated, with the number of the batch on this rank, from 0. It may
            raise an exception to end the validation, but must then raise on all ranks.

    Returns:
        The result over the images of all ranks, on every rank.
    """
    network = folded(network, dtype)
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)  # images, loss, top-1 and top-5 counts
    batches: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch, (images, labels, indices) in enumerate(loader):
        before_batch(batch)
        logits = network(normalise(images)).main
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        classes, correct = topk_correct(logits, labels)
        sums[0] += len(labels)
        sums[1:] += torch.stack((loss, correct[:, 0].sum(), correct.sum()))
        if predictions:
            batches.append((indices.cpu(), labels.cpu(), classes.cpu()))
    count, *totals = ranks.sum_(sums).tolist()
    assert count == loader.images, f"validation counted {count:.0f} images of {loader.images}"
    table = _gather_predictions(batches, ranks) if predictions else None
    loss, top1, top5 = (total / count for total in totals)
    return Validation(loss, top1, top5, table)


def _gather_predictions(batches: list[tuple[Tensor, Tensor, Tensor]], ranks: Ranks) -> Table:
    """Join the predictions of all ranks, ordered by index. Collective; a rank may have no images."""
    own = [tuple(column.numpy() for column in batch) for batch in batches]
    gathered = [batch for rank in ranks.gather(own) for batch in rank]
    index, label, top5 = (np.concatenate(column) for column in zip(*gathered, strict=True))
    order = np.argsort(index)
    index, label, top5 = index[order], label[order], top5[order]
    return {"index": index, "label": label, "top5": top5, "correct": top5[:, 0] == label}
