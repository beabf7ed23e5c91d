"""Holds the runs of `deeper bench overhead`, which all do the same work, and the paths in its scratch folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reproduce.spec import ExperimentConfig, PlannedRun


@dataclass(frozen=True)
class Workspace:
    """A scratch folder with a prepared data set, and the runs that are trained on it."""

    scratch: Path
    """The folder that contains data and records."""
    runs: tuple[PlannedRun, ...]
    """Runs that differ in their seeds only: one for the warm-up, one for each repetition, and one more, the last."""
    experiment: ExperimentConfig
    """The experiment that the runs belong to."""
    images: int
    """Training images in the data set."""

    @property
    def data(self) -> Path:
        """The folder that the `data.path` of the runs is relative to."""
        return self.scratch / "data"

    @property
    def records(self) -> Path:
        """The folder of the records."""
        return self.scratch / "records"

    @property
    def threads(self) -> int:
        """CPU threads of each rank."""
        return self.experiment.resources.cpus_per_worker

    @property
    def images_trained(self) -> int:
        """Number of images in all steps of one run, over all its epochs."""
        recipe = self.experiment.recipe
        return self.images // recipe.batch_size * recipe.batch_size * recipe.epochs
