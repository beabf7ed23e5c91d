"""Compute the metrics of an epoch. Sums accumulate on the device, so that a step does not wait for it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reproduce import schema
from reproduce.execution.metrics import topk_correct
from reproduce.execution.ranks import Ranks
from reproduce.models import GoogLeNet, stage_parameters
from reproduce.training.step import Span, StepResult

COLUMNS = (
    schema.TRAIN_LOSS,
    schema.TRAIN_LOSS_MAIN,
    schema.TRAIN_LOSS_AUX1,
    schema.TRAIN_LOSS_AUX2,
    schema.TRAIN_TOP1,
    schema.TRAIN_TOP5,
)


class EpochMetrics:
    """Accumulates the losses, correct predictions, gradient norms and training times of one rank in one epoch.

    `compute` combines the sums of all ranks into the metrics of the epoch. All other methods work on this rank alone.

    Args:
        network: The network in training.
        device: Where the sums accumulate: the device of the network.
    """

    def __init__(self, network: GoogLeNet, device: torch.device) -> None:
        self.images = 0
        self.train_s = 0.0
        """Seconds of training in this epoch, over all attempts, up to the last call of `add_elapsed_time`."""
        self.wait_s = 0.0
        """Seconds in which training waited for the next batch; a part of `train_s`."""
        self.warm_up_s = 0.0
        """Seconds of warm-up (first batches, choice of kernels); not a part of `train_s`."""
        self._forward_s, self._forward_images = 0.0, 0
        self._forward: list[Span] = []  # since the device was last waited for
        self._stages = stage_parameters(network)
        self._has_auxiliary = (network.aux1 is not None, network.aux2 is not None)
        self._norm_samples = 0
        self._values = torch.zeros(len(COLUMNS), dtype=torch.float64, device=device)
        self._norms = torch.zeros(len(self._stages), dtype=torch.float64, device=device)
        self._zero = torch.zeros((), device=device)

    # --- time -----------------------------------------------------------------------------------------

    def start_clock(self) -> None:
        """Start measuring `train_s` and `images_per_s`. Call it before this attempt's first step of the epoch."""
        self._start_s, self._start_images = self.train_s, self.images
        self._clock = time.perf_counter()

    def add_elapsed_time(self) -> None:
        """Add the time since the last call of this method, or since `start_clock` at the first call, to `train_s`.

        The device must have been waited for since the last step.
        """
        now = time.perf_counter()
        self.train_s += now - self._clock
        self._clock = now
        self._forward_s += sum(span.seconds for span in self._forward)
        self._forward.clear()

    @property
    def images_per_s(self) -> float:
        """This rank's training images per second from `start_clock` to the last call of `add_elapsed_time`."""
        return (self.images - self._start_images) / (self.train_s - self._start_s)

    # --- steps ----------------------------------------------------------------------------------------

    def add_step(self, result: StepResult, labels: Tensor) -> None:
        """Add the losses and the correct predictions of one step, without waiting for the device.

        Args:
            result: What the step returned.
            labels: The labels of its images, int64 [N].
        """
        images = len(labels)
        _, correct = topk_correct(result.logits, labels)
        losses = (result.loss, result.main, result.aux1, result.aux2)
        means = [self._zero if loss is None else loss for loss in losses]
        counts = torch.stack((correct[:, 0].sum(), correct.sum()))
        self._values += torch.cat((torch.stack(means) * images, counts))
        self.images += images
        self._forward.append(result.forward)
        self._forward_images += images

    def add_gradient_norms(self) -> None:
        """Add the L2 norm of each stage's gradient after the last step. The gradients are the same on all ranks."""
        norms = [
            torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            for parameters in self._stages.values()
        ]
        self._norms += torch.stack(norms)
        self._norm_samples += 1

    # --- results --------------------------------------------------------------------------------------

    @property
    def mean_loss(self) -> float:
        """Mean total loss over this rank's images so far in the epoch. Reading it waits for the device."""
        return float(self._values[0]) / self.images

    def compute(self, ranks: Ranks) -> dict[str, float]:
        """Compute the training metrics of the epoch. Collective: all ranks must call it together.

        At least one step and one sample of gradient norms must have been added.

        Returns:
            Metrics by their names in `reproduce.schema`: losses and accuracies as means over the images of all ranks
            (losses of absent auxiliary classifiers are left out), the mean gradient norm of each stage, the
            throughput of all ranks in images per second, and the times. All times, also those behind the throughput,
            are this rank's own, but for those of every rank, which a run of several has.
        """
        count = torch.tensor([self.images], dtype=torch.float64, device=ranks.device)
        *sums, images = ranks.sum_(torch.cat((self._values, count))).tolist()
        means = {name: value / images for name, value in zip(COLUMNS, sums, strict=True)}
        for name, present in zip((schema.TRAIN_LOSS_AUX1, schema.TRAIN_LOSS_AUX2), self._has_auxiliary, strict=True):
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
            **(self._by_rank(ranks) if ranks.world_size > 1 else {}),
        }

    def _by_rank(self, ranks: Ranks) -> dict[str, float]:
        """Milliseconds of each rank for one of its images: of forward passes, and of waiting for data. Collective."""
        own = {
            schema.RANK_FORWARD_MS: 1000 * self._forward_s / max(1, self._forward_images),
            schema.RANK_DATA_WAIT_MS: 1000 * self.wait_s / self.images,
        }
        return {
            f"{schema.RANK}{rank}/{name}": value
            for rank, values in enumerate(ranks.gather(own))
            for name, value in values.items()
        }

    # --- checkpoints ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's sums and times for a checkpoint, with tensors on the CPU."""
        return {
            "images": self.images,
            "train_s": self.train_s,
            "wait_s": self.wait_s,
            "warm_up_s": self.warm_up_s,
            "forward_s": self._forward_s,
            "forward_images": self._forward_images,
            "norm_samples": self._norm_samples,
            "values": self._values.cpu(),
            "norms": self._norms.cpu(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sums and times of an earlier attempt at this epoch.

        They replace those of this object, except for the warm-up: its seconds are added to those of this attempt.
        """
        self.images, self.train_s, self.wait_s = state["images"], state["train_s"], state["wait_s"]
        self.warm_up_s += state.get("warm_up_s", 0.0)  # absent in checkpoints before 2026-11-26
        self._forward_s = state.get("forward_s", 0.0)  # absent in checkpoints before 2026-11-27
        self._forward_images = state.get("forward_images", 0)
        self._norm_samples = state["norm_samples"]
        self._values.copy_(state["values"])
        self._norms.copy_(state["norms"])


def final_metrics(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """Derive the final metrics of a run from the metrics of its epochs.

    Args:
        history: The metrics of each epoch, in order; at least one epoch.

    Returns:
        Metrics by their names in `reproduce.schema`: accuracies (0 to 1) and validation loss of the last epoch, the
        median throughput (images per second) over all epochs but the first, and the warm-up seconds of all epochs. With
        a single epoch, the throughput is that of this epoch.
    """
    last = history[-1]
    speeds = [epoch[schema.IMAGES_PER_S] for epoch in history]
    return {
        schema.FINAL_TOP1: last[schema.VAL_TOP1],
        schema.FINAL_TOP5: last[schema.VAL_TOP5],
        schema.FINAL_TRAIN_TOP1: last[schema.TRAIN_TOP1],
        schema.FINAL_VAL_LOSS: last[schema.VAL_LOSS],
        schema.FINAL_IMAGES_PER_S: statistics.median(speeds[1:] or speeds),
        schema.FINAL_WARM_UP_S: sum(epoch.get(schema.WARM_UP_SECONDS, 0.0) for epoch in history),
    }
