"""The contents of a tracking store, as both readers return them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


@dataclass(frozen=True, kw_only=True)
class StoredExperiment:
    """An experiment of a tracking store."""

    id: str
    """MLflow's id."""
    is_deleted: bool
    """Whether it is deleted. MLflow keeps such an experiment until its garbage is collected."""
    tags: Mapping[str, str]
    """The tags by name."""


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run of a tracking store, with the latest value of each metric."""

    id: str
    """MLflow's id."""
    status: str
    """MLflow's status, such as "FINISHED"."""
    start_ms: int
    """When it started, in milliseconds since 1970."""
    end_ms: int | None
    """When it ended, in milliseconds since 1970. None if it has not ended."""
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    """The latest value of each metric, as MLflow holds it: the largest float stands for infinity."""
    tags: Mapping[str, str]
    artifacts: str = ""
    """The URI of the folder of its artifacts."""


class History(NamedTuple):
    """The values of one metric in several runs, as MLflow holds them. The arrays have one entry for each value, [n].

    The values of a run are in the order of their timestamps, and of their steps and values where these are equal.
    """

    run: np.ndarray
    """The place of the run among those that were asked for, counted from 0, int64."""
    step: np.ndarray
    """The step, int64."""
    value: np.ndarray
    """The value, float64. The largest float stands for infinity, and values may be NaN."""


class Store(Protocol):
    """A tracking store that is read."""

    errors: tuple[type[Exception], ...]
    """What its methods raise if the store does not answer."""

    def experiment(self, name: str) -> StoredExperiment | None:
        """Return the experiment with this name, or None if there is none."""

    def experiment_names(self) -> list[str]:
        """Return the names of all experiments that are not deleted."""

    def runs(self, experiment_id: str) -> list[StoredRun]:
        """Return the runs of an experiment that are not deleted, the one that started last first."""

    def histories(self, wanted: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, History]]:
        """Read the histories of metrics, one metric at a time.

        Args:
            wanted: For each metric, by name, the ids of the runs that have it.

        Yields:
            The name of a metric and its history, in the order of `wanted`.
        """

    def close(self) -> None:
        """Close the connection to the store."""
