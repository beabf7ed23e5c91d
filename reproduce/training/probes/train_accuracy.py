"""Probe: measure the accuracy on training images without augmentation and dropout."""

from __future__ import annotations

from reproduce import schema
from reproduce.execution.validation import validate
from reproduce.training.probes.probe import TrainedNetwork


def train_accuracy(trained: TrainedNetwork) -> dict[str, float]:
    """Measure the top-1 accuracy on training images, with validation's crops and without dropout. Collective.

    This accuracy minus that on the validation images is the overfitting gap.

    Returns:
        The metric `FINAL_TRAIN_TOP1_PLAIN`, 0 to 1.

    Raises:
        StopRequested: A stop was requested before the probe was complete.
    """
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
