"""Validation: every image counted once, whatever the world size."""

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
from reproduce.execution.ranks import Ranks
from reproduce.models.folding import folded
from reproduce.training.sums import hits

Table = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Validation:
    """Mean cross-entropy and accuracies (0 to 1) over all images; `predictions` on request, on every rank."""

    loss: float
    top1: float
    top5: float
    predictions: Table | None


@torch.inference_mode()
def validate(
    network: nn.Module,
    loader: ValLoader,
    normalise: Normalise,
    ranks: Ranks,
    *,
    bf16: bool,
    predictions: bool = False,
    stopped: Callable[[int], bool] = lambda batch: False,
) -> Validation | None:
    """Evaluate a network as it is in evaluation mode, `folded`; plain cross-entropy, no label smoothing.

    `stopped` is asked before each batch (from 0); once it says yes, on all ranks alike, validation ends with None.
    Predictions: index [n] int64, label [n] int64, top5 [n, min(5, classes)] int64, correct [n] bool, by index.
    """
    network = folded(network, torch.bfloat16 if bf16 else None)
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)  # images, loss, top-1 and top-5 hits
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch, (images, labels, indices) in enumerate(loader):
        if stopped(batch):
            return None
        logits = network(normalise(images)).main
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        best, correct = hits(logits, labels)
        sums[0] += len(labels)
        sums[1:] += torch.stack((loss, correct[:, 0].sum(), correct.sum()))
        if predictions:
            seen.append((indices.cpu(), labels.cpu(), best.cpu()))
    count, *totals = ranks.sum_(sums).tolist()
    assert count == loader.images, f"validation counted {count:.0f} images of {loader.images}"
    table = _gathered(seen, ranks) if predictions else None
    loss, top1, top5 = (total / count for total in totals)
    return Validation(loss, top1, top5, table)


def _gathered(seen: list[tuple[Tensor, Tensor, Tensor]], ranks: Ranks) -> Table:
    """One table of all ranks' predictions, by index; a rank may have seen no image at all."""
    mine = [tuple(part.numpy() for part in batch) for batch in seen]
    batches = [batch for rank in ranks.gather(mine) for batch in rank]
    index, label, top5 = (np.concatenate(column) for column in zip(*batches, strict=True))
    order = np.argsort(index)
    index, label, top5 = index[order], label[order], top5[order]
    return {"index": index, "label": label, "top5": top5, "correct": top5[:, 0] == label}
