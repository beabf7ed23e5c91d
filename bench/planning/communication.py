"""Predicts how much communication lengthens a data-parallel training step, with a model fitted to measured all-reduces.

In a ring all-reduce, n ranks send 2 (n - 1) messages one after the other, and 2 (n - 1) / n of the tensor's bytes pass
through each rank's link. Therefore:

    seconds = 2 (n - 1) latency + 2 (n - 1) / n bytes / bandwidth

DDP sends gradients while the backward pass still computes others. This hides the all-reduce behind at most a fraction
`overlap` of the backward pass. On CPUs the model hides nothing, because gloo's threads need the cores that compute. On
GPUs the fraction is an assumption, which results state.

The module is pure arithmetic: it needs neither torch nor other processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

GRADIENT_BYTES = 4  # bytes of one float32 gradient
BACKWARD_SHARE = 2 / 3  # share of the backward pass in a step: it costs as much as two forward passes
OVERLAP = {"gloo": 0.0, "nccl": 1.0}
"""The ASSUMED fraction of the backward pass that hides an all-reduce, by backend of torch.distributed."""


@dataclass(frozen=True)
class Link:
    """Latency and bandwidth of the connection between ranks: the two parameters of the model."""

    latency_s: float
    """Latency of one message, in seconds."""
    bytes_per_s: float
    """Bandwidth in one direction, in bytes per second."""


@dataclass(frozen=True)
class AllReduceTiming:
    """The measured duration of an all-reduce of one size."""

    ranks: int
    """Number of ranks that took part, at least 2."""
    bytes: int
    """Size of the tensor on each rank, in bytes."""
    seconds: float
    """Duration of one all-reduce, in seconds."""


def fit_link(timings: Sequence[AllReduceTiming]) -> Link:
    """Fit latency and bandwidth to measured all-reduces.

    The fit minimises the squares of the relative errors, because the sizes differ by orders of magnitude.

    Args:
        timings: All-reduces of at least two different sizes, each between two or more ranks.

    Returns:
        The fitted link, with no negative value: the latency is 0 if bandwidth alone explains the timings best,
        and the bandwidth is infinite if latency alone does.
    """
    import numpy as np
    from scipy.optimize import nnls

    coefficients = np.array([_coefficients(timing.ranks, timing.bytes) for timing in timings])
    seconds = np.array([timing.seconds for timing in timings])
    (latency, inverse), _ = nnls(coefficients / seconds[:, None], np.ones(len(timings)))
    return Link(float(latency), float(1 / inverse) if inverse > 0 else math.inf)


def all_reduce_seconds(link: Link, *, ranks: int, bytes: int) -> float:
    """Predict the seconds of one all-reduce; 0 for a single rank.

    Args:
        link: The connection between the ranks.
        ranks: Number of ranks, at least 1.
        bytes: Size of the tensor on each rank, in bytes.
    """
    messages, transferred = _coefficients(ranks, bytes)
    return messages * link.latency_s + transferred / link.bytes_per_s


def step_seconds(link: Link, *, alone_s: float, ranks: int, parameters: int, overlap: float) -> float:
    """Predict the seconds of a training step, including the exchange of its gradients.

    Args:
        link: The connection between the ranks.
        alone_s: Seconds of the same step of one rank without communication.
        ranks: Number of ranks that exchange gradients.
        parameters: Number of parameters of the network in training, including auxiliary classifiers.
        overlap: Fraction of the backward pass, from 0 to 1, that hides the all-reduce; see `OVERLAP`.
    """
    all_reduce_s = all_reduce_seconds(link, ranks=ranks, bytes=GRADIENT_BYTES * parameters)
    return alone_s + max(0.0, all_reduce_s - overlap * BACKWARD_SHARE * alone_s)


def _coefficients(ranks: int, bytes: int) -> tuple[float, float]:
    """The number of successive messages, and the bytes that pass through each rank's link."""
    return 2.0 * (ranks - 1), 2.0 * (ranks - 1) / ranks * bytes
