"""What data parallelism adds to a step: a model of the all-reduce of its gradients, fitted to measured ones.

A ring sends 2 (n - 1) messages one after the other and 2 (n - 1) / n of the bytes through each rank's link, so

    all-reduce = 2 (n - 1) latency + 2 (n - 1) / n bytes / bandwidth

DDP sends the gradients while the backward pass still makes others; what it hides is at most `overlap` of that pass. On
CPUs gloo's threads take the cores that compute, and nothing is hidden; on GPUs the share is assumed, and said to be.
Pure arithmetic: no torch, no processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GRADIENT_BYTES = 4  # of a float32 gradient
BACKWARD_SHARE = 2 / 3  # of a step: a backward pass costs two forward passes
OVERLAP = {"gloo": 0.0, "nccl": 1.0}
"""ASSUMED share of the backward pass behind which an all-reduce hides."""


@dataclass(frozen=True)
class Link:
    """What connects the ranks, as the model sees it."""

    latency_s: float
    """Of one message."""
    bytes_per_s: float
    """In one direction."""


@dataclass(frozen=True)
class Sample:
    """A measured all-reduce."""

    ranks: int
    bytes: int
    seconds: float


def fit(samples: Sequence[Sample]) -> Link:
    """The link that explains the samples best: least squares of relative errors, since sizes span magnitudes.

    Needs samples of two sizes at least, all of two ranks or more.
    """
    coefficients = np.array([_coefficients(sample.ranks, sample.bytes) for sample in samples])
    seconds = np.array([sample.seconds for sample in samples])
    (latency, inverse), *_ = np.linalg.lstsq(coefficients / seconds[:, None], np.ones(len(samples)), rcond=None)
    # A negative latency means that bandwidth alone explains the samples.
    if latency < 0:
        latency, inverse = 0.0, float(np.mean(seconds / coefficients[:, 1]))
    return Link(float(latency), float(1 / inverse))


def all_reduce_s(link: Link, *, ranks: int, bytes: int) -> float:
    """Seconds of one all-reduce; 0 for a single rank."""
    messages, share = _coefficients(ranks, bytes)
    return messages * link.latency_s + share / link.bytes_per_s


def step_s(link: Link, *, alone_s: float, ranks: int, parameters: int, overlap: float) -> float:
    """Seconds of a step on each of `ranks` ranks, from those of the same step without communication."""
    sent = all_reduce_s(link, ranks=ranks, bytes=GRADIENT_BYTES * parameters)
    return alone_s + max(0.0, sent - overlap * BACKWARD_SHARE * alone_s)


def _coefficients(ranks: int, bytes: int) -> tuple[float, float]:
    return 2.0 * (ranks - 1), 2.0 * (ranks - 1) / ranks * bytes
