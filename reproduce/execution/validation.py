"""Exact validation: every image counts once, whatever the number of ranks."""

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
"""Columns by name, all of one length."""


@dataclass(frozen=True)
class Validation:
    """Mean cross-entropy and accuracies over all images of a split, the same on every rank."""

    loss: float
    top1: float
    """Share of the images, 0 to 1; `top5` likewise."""
    top5: float
    predictions: Table | None
    """One row an image, ordered by index, if requested: index [n] int64, label [n] int64, top5 [n, min(5, classes)]
    int64, correct [n] bool."""


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
    """Measure a network in evaluation mode. The loss is the plain cross-entropy, without label smoothing.

    Every rank calls this function with its own loader.

    Args:
        network: The network. It is left as it is; a `folded` copy of it runs.
        loader: This rank's share of the images.
        normalise: Turns the loader's pixels into the network's input.
        ranks: The ranks that share the images.
        dtype: What the network computes in, bfloat16 or float32.
        predictions: Whether to return the predictions for each image.
        before_batch: Called before each batch with its number on this rank, from 0. It may raise to end the
            validation, and then has to do so on all ranks alike.
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
    """Join the predictions of all ranks, ordered by index. A rank may have had no image at all."""
    own = [tuple(column.numpy() for column in batch) for batch in batches]
    gathered = [batch for rank in ranks.gather(own) for batch in rank]
    index, label, top5 = (np.concatenate(column) for column in zip(*gathered, strict=True))
    order = np.argsort(index)
    index, label, top5 = index[order], label[order], top5[order]
    return {"index": index, "label": label, "top5": top5, "correct": top5[:, 0] == label}
