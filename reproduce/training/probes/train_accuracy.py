"""Probe: accuracy on training images without augmentation and dropout."""

from __future__ import annotations

from reproduce import schema
from reproduce.execution.validation import validate
from reproduce.training.probes.probe import TrainedNetwork


def train_accuracy(trained: TrainedNetwork) -> dict[str, float]:
    """Top-1 accuracy on training images. Minus the validation accuracy, it is the overfitting gap."""
    images = trained.train_images
    validation = validate(
        trained.network,
        images,
        trained.normalise,
        trained.ranks,
        dtype=trained.dtype,
        before_batch=trained.stop_check(images),
    )
    return {schema.FINAL_TRAIN_TOP1_PLAIN: validation.top1}
