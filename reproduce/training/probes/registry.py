"""The probes by the names that an experiment gives them."""

from __future__ import annotations

from collections.abc import Sequence

from reproduce.spec import ProbeName
from reproduce.training.probes.channel_clusters import channel_clusters
from reproduce.training.probes.probe import Probe, TrainedNetwork
from reproduce.training.probes.train_accuracy import train_accuracy

PROBES: dict[ProbeName, Probe] = {"train_accuracy": train_accuracy, "channel_clusters": channel_clusters}


def run_probes(names: Sequence[ProbeName], trained: TrainedNetwork) -> dict[str, float]:
    """Run probes one after another and join their metrics."""
    metrics: dict[str, float] = {}
    for name in names:
        metrics |= PROBES[name](trained)
    return metrics
