"""The measurements that rows of the ledger may name."""

from __future__ import annotations

from collections.abc import Collection

from reproduce.claims import costs, evaluations, runs, structure
from reproduce.claims.ledger import Kind
from reproduce.claims.verdicts import EmpiricalMeasurement, EvaluationMeasurement, StaticMeasurement

STATIC: dict[str, StaticMeasurement] = {**costs.MEASUREMENTS, **structure.MEASUREMENTS}
"""Decide from the network alone."""

EMPIRICAL: dict[str, EmpiricalMeasurement] = {**runs.MEASUREMENTS}
"""Decide from the recorded runs of an experiment."""

EVALUATED: dict[str, EvaluationMeasurement] = {**evaluations.MEASUREMENTS}
"""Decide from what `deeper evaluate` kept."""


def names() -> dict[Kind, Collection[str]]:
    """What a claim of each kind may name."""
    return {"static": STATIC.keys(), "empirical": EMPIRICAL.keys() | EVALUATED.keys()}
