"""The runs of `deeper bench overhead`, which all do the same work, and the folder that they are trained in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reproduce.spec import ExperimentConfig, PlannedRun


@dataclass(frozen=True)
class Workspace:
    """A scratch folder with prepared images, and one run for each repetition."""

    scratch: Path
    runs: tuple[PlannedRun, ...]
    experiment: ExperimentConfig
    images: int
    """Training images in the data set."""

    @property
    def data(self) -> Path:
        return self.scratch / "data"

    @property
    def records(self) -> Path:
        return self.scratch / "records"

    @property
    def threads(self) -> int:
        """CPU threads of each rank."""
        return self.experiment.resources.cpus_per_worker

    @property
    def images_trained(self) -> int:
        """Images that one run trains on, over all its epochs."""
        recipe = self.experiment.recipe
        return self.images // recipe.batch_size * recipe.batch_size * recipe.epochs
