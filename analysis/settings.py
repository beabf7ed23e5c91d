"""Reads what an experiment asks of its analysis, as MLflow holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from reproduce import schema


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an experiment asks of its analysis: the fields of `reproduce.analysis.AnalysisConfig`."""

    baseline: str | None = None
    """The arm with which the others are compared; None leaves the choice to `analysis.factors.baseline`."""
    margin: float | None = None
    """The largest difference in top-1 that counts as none, as a fraction from 0 to 1."""
    target: float | None = None
    """The validation top-1 to which training is timed, as a fraction; None leaves the choice to
    `analysis.details.targets.chosen_target`."""
    paired: bool = False
    """Whether arms are compared seed by seed."""


def read_settings(tags: Mapping[str, str]) -> Settings:
    """Read the settings from the tags of an experiment in MLflow.

    What a store does not hold, because an older version filled it, has its default, and what a newer version added is
    ignored.
    """
    held = json.loads(tags.get(schema.TAG_ANALYSIS, "{}"))
    return Settings(**{name: held[name] for name in Settings.__dataclass_fields__ if name in held})
