"""Sums of an epoch: kept on the device, so that counting costs no synchronisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reproduce import schema
from reproduce.execution.ranks import Ranks
from reproduce.models import GoogLeNet, stage_parameters
from reproduce.training.step import StepResult

COLUMNS = (
    schema.TRAIN_LOSS,
    schema.TRAIN_LOSS_MAIN,
    schema.TRAIN_LOSS_AUX1,
    schema.TRAIN_LOSS_AUX2,
    schema.TRAIN_TOP1,
    schema.TRAIN_TOP5,
)


def hits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Best classes [N, k] and whether they are the label [N, k], best first; k = 5, or all where there are fewer."""
    best = logits.topk(min(5, logits.shape[1])).indices
    return best, best == labels[:, None]


class EpochSums:
    """What an epoch's training has added up so far on this rank, and what it took."""

    def __init__(self, network: GoogLeNet, device: torch.device) -> None:
        self.images = 0
        self.train_s = 0.0
        self.wait_s = 0.0
        self.warm_up_s = 0.0
        """Outside of `train_s`: first batches, the choice of kernels."""
        self._stages = stage_parameters(network)
        self._heads = (network.aux1 is not None, network.aux2 is not None)
        self._norm_samples = 0
        self._values = torch.zeros(len(COLUMNS), dtype=torch.float64, device=device)
        self._norms = torch.zeros(len(self._stages), dtype=torch.float64, device=device)
        self._nothing = torch.zeros((), device=device)

    def add(self, result: StepResult, labels: Tensor) -> None:
        images = len(labels)
        _, correct = hits(result.logits, labels)
        losses = (result.loss, result.main, result.aux1, result.aux2)
        means = [self._nothing if loss is None else loss for loss in losses]
        counts = torch.stack((correct[:, 0].sum(), correct.sum()))
        self._values += torch.cat((torch.stack(means) * images, counts))
        self.images += images

    def add_gradient_norms(self) -> None:
        """Take in the gradients that the last step left, which all ranks have alike."""
        norms = [
            torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            for parameters in self._stages.values()
        ]
        self._norms += torch.stack(norms)
        self._norm_samples += 1

    def running(self) -> tuple[float, float]:
        """Mean loss and top-1 so far, of this rank's images."""
        values = self._values.tolist()
        return values[0] / self.images, values[COLUMNS.index(schema.TRAIN_TOP1)] / self.images

    def metrics(self, ranks: Ranks) -> dict[str, float]:
        """Means over all ranks' images, gradient norms and throughput; called by all ranks alike."""
        count = torch.tensor([self.images], dtype=torch.float64, device=ranks.device)
        *sums, images = ranks.sum_(torch.cat((self._values, count))).tolist()
        means = {name: value / images for name, value in zip(COLUMNS, sums, strict=True)}
        for name, present in zip((schema.TRAIN_LOSS_AUX1, schema.TRAIN_LOSS_AUX2), self._heads, strict=True):
            if not present:
                del means[name]
        norms = (self._norms / self._norm_samples).tolist()
        return {
            **means,
            **{schema.GRADIENT_NORM + stage: norm for stage, norm in zip(self._stages, norms, strict=True)},
            schema.IMAGES_PER_S: images / self.train_s,
            schema.COMPUTE_IMAGES_PER_S: images / (self.train_s - self.wait_s),
            schema.DATA_WAIT_SHARE: self.wait_s / self.train_s,
            schema.TRAIN_SECONDS: self.train_s,
            schema.WARM_UP_SECONDS: self.warm_up_s,
        }

    def state_dict(self) -> dict[str, Any]:
        """This rank's sums, on the CPU."""
        return {
            "images": self.images,
            "train_s": self.train_s,
            "wait_s": self.wait_s,
            "warm_up_s": self.warm_up_s,
            "norm_samples": self._norm_samples,
            "values": self._values.cpu(),
            "norms": self._norms.cpu(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up an earlier attempt's sums; its warm-up adds to that of this one."""
        self.images, self.train_s, self.wait_s = state["images"], state["train_s"], state["wait_s"]
        self.warm_up_s += state.get("warm_up_s", 0.0)  # absent before 2026-11-26
        self._norm_samples = state["norm_samples"]
        self._values.copy_(state["values"])
        self._norms.copy_(state["norms"])
