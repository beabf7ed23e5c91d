"""Map the names of the probes, as used in experiment files, to their functions, and run them."""

from __future__ import annotations

from collections.abc import Sequence

from reproduce.spec import ProbeName
from reproduce.training.probes.channel_clusters import channel_clusters
from reproduce.training.probes.probe import Probe, TrainedNetwork
from reproduce.training.probes.train_accuracy import train_accuracy

PROBES: dict[ProbeName, Probe] = {"train_accuracy": train_accuracy, "channel_clusters": channel_clusters}


def run_probes(names: Sequence[ProbeName], trained: TrainedNetwork) -> dict[str, float]:
    """Run probes in turn and join their metrics. Collective: all ranks must call it with the same names.

    Args:
        names: Names of the probes, in the order in which they run.
        trained: The trained network, with what the probes need to measure it.

    Returns:
        Final metrics by their names in `reproduce.schema`, the same on every rank.

    Raises:
        StopRequested: A stop was requested during a probe.
    """
    metrics: dict[str, float] = {}
    for name in names:
        metrics |= PROBES[name](trained)
    return metrics
