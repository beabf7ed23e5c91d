"""Top-k accuracy, counted the same way in training, validation and evaluation."""

from __future__ import annotations

from torch import Tensor

TOP_K = 5


def topk_correct(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rank the classes of each image and compare them with its label.

    Args:
        logits: Logits or probabilities, [N, classes].
        labels: Labels, int64 [N].

    Returns:
        The k most probable classes of each image, int64 [N, k], most probable first, and whether each of them is the
        image's label, bool [N, k]. k is 5, or the number of classes where there are fewer. The first column of the
        second tensor counts towards top-1, all columns together count towards top-5.
    """
    classes = logits.topk(min(TOP_K, logits.shape[1])).indices
    return classes, classes == labels[:, None]
