"""Count correct top-k predictions in the same way for training, validation and evaluation."""

from __future__ import annotations

from torch import Tensor

TOP_K = 5


def topk_correct(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rank the classes of each image and compare the best of them with its label.

    Args:
        logits: Logits or probabilities, [N, classes].
        labels: Labels, int64 [N].

    Returns:
        Two tensors [N, k] on the device of `logits`, where k is 5, or the number of classes if there are fewer. The
        first holds the k most probable classes of each image, int64, most probable first. The second, bool, is True
        where such a class is the image's label. Its first column sums to the top-1 count, all its columns together sum
        to the top-5 count.
    """
    classes = logits.topk(min(TOP_K, logits.shape[1])).indices
    return classes, classes == labels[:, None]
