"""Define what an experiment asks of its analysis. It is fixed with the experiment, before results are known."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import Field

from reproduce.config import ArmName, Config


class AnalysisConfig(Config):
    """How reports and claims compare the arms. None of these fields is part of a run's key."""

    baseline: ArmName | None = None
    """The arm with which the others are compared. Without it, the arm called "baseline", or else the arm nearest to the
    network of Szegedy et al. 2014."""
    margin: float | None = Field(None, gt=0, lt=0.5)
    """The largest difference in top-1 that counts as none, as a fraction: 0.005 is half a percentage point. Reports
    test whether arms are equivalent within it, and say how many seeds would find a difference of this size."""
    target: float | None = Field(None, gt=0, lt=1)
    """The validation top-1 to which reports time training, as a fraction. Without it, 90 % of the baseline's final
    top-1."""
    paired: bool = False
    """Whether arms are compared seed by seed, in place of arm by arm. It helps only where the seeds of two arms rise
    and fall together: from a correlation of 0.6 with 3 seeds, 0.3 with 5 and 0.15 with 10. Reports show the
    correlation."""

    def check_arms(self, arms: Collection[str]) -> None:
        """Raise ValueError if the baseline is not one of the experiment's arms."""
        if self.baseline is not None and self.baseline not in arms:
            raise ValueError(f"analysis.baseline: {self.baseline!r} is not an arm; use one of {', '.join(arms)}")
