"""Runs of a benchmark, all of the same work, and the folder that they are done in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reproduce.spec import ExperimentConfig, PlannedRun


@dataclass(frozen=True)
class Place:
    """Runs of the same work, one a round and contestant, and where they are done."""

    scratch: Path
    runs: tuple[PlannedRun, ...]
    experiment: ExperimentConfig
    images: int

    @property
    def data(self) -> Path:
        return self.scratch / "data"

    @property
    def records(self) -> Path:
        return self.scratch / "records"

    @property
    def threads(self) -> int:
        return self.experiment.resources.cpus_per_worker

    @property
    def images_trained(self) -> int:
        """In one run."""
        recipe = self.experiment.recipe
        return self.images // recipe.batch_size * recipe.batch_size * recipe.epochs
