"""How much data parallelism adds to a training step: a model of the gradients' all-reduce, fitted to measured ones.

In a ring all-reduce, n ranks send 2 (n - 1) messages one after the other, and 2 (n - 1) / n of the bytes pass through
each rank's link, so that

    seconds = 2 (n - 1) latency + 2 (n - 1) / n bytes / bandwidth

DDP sends gradients while the backward pass still computes others, which hides the all-reduce behind at most a fraction
`overlap` of the backward pass. On CPUs nothing is hidden, because gloo's threads need the cores that compute. On GPUs
the fraction is an assumption, and results say so.

The module is pure arithmetic: it needs neither torch nor other processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GRADIENT_BYTES = 4  # of a float32 gradient
BACKWARD_SHARE = 2 / 3  # of a step: the backward pass costs as much as two forward passes
OVERLAP = {"gloo": 0.0, "nccl": 1.0}
"""By backend, the ASSUMED fraction of the backward pass that hides an all-reduce."""


@dataclass(frozen=True)
class Link:
    """The connection between ranks, as the model sees it."""

    latency_s: float
    """Of one message, in seconds."""
    bytes_per_s: float
    """In one direction."""


@dataclass(frozen=True)
class AllReduceTiming:
    """A measured all-reduce."""

    ranks: int
    bytes: int
    """Size of the tensor on each rank."""
    seconds: float


def fit_link(timings: Sequence[AllReduceTiming]) -> Link:
    """The link that explains the timings best: least squares of relative errors, since sizes differ by magnitudes.

    Args:
        timings: All-reduces of at least two different sizes, between two or more ranks.
    """
    coefficients = np.array([_coefficients(timing.ranks, timing.bytes) for timing in timings])
    seconds = np.array([timing.seconds for timing in timings])
    (latency, inverse), *_ = np.linalg.lstsq(coefficients / seconds[:, None], np.ones(len(timings)), rcond=None)
    # A negative latency means that bandwidth alone explains the timings.
    if latency < 0:
        latency, inverse = 0.0, float(np.mean(seconds / coefficients[:, 1]))
    return Link(float(latency), float(1 / inverse))


def all_reduce_seconds(link: Link, *, ranks: int, bytes: int) -> float:
    """Seconds of one all-reduce of a tensor of `bytes` bytes; 0 for a single rank."""
    messages, transferred = _coefficients(ranks, bytes)
    return messages * link.latency_s + transferred / link.bytes_per_s


def step_seconds(link: Link, *, alone_s: float, ranks: int, parameters: int, overlap: float) -> float:
    """Seconds of a training step with communication.

    Args:
        link: The connection between the ranks.
        alone_s: Seconds of the same step of one rank without communication.
        ranks: How many ranks exchange gradients.
        parameters: How many parameters the network has in training.
        overlap: Fraction of the backward pass that hides the all-reduce, see `OVERLAP`.
    """
    all_reduce_s = all_reduce_seconds(link, ranks=ranks, bytes=GRADIENT_BYTES * parameters)
    return alone_s + max(0.0, all_reduce_s - overlap * BACKWARD_SHARE * alone_s)


def _coefficients(ranks: int, bytes: int) -> tuple[float, float]:
    """Messages one after the other, and bytes through each rank's link."""
    return 2.0 * (ranks - 1), 2.0 * (ranks - 1) / ranks * bytes
