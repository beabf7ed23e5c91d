"""The measurements that rows of the ledger may name."""

from __future__ import annotations

from reproduce.claims import costs, structure
from reproduce.claims.verdicts import EmpiricalMeasurement, StaticMeasurement

STATIC: dict[str, StaticMeasurement] = {**costs.MEASUREMENTS, **structure.MEASUREMENTS}
"""Decide from the network alone."""

EMPIRICAL: dict[str, EmpiricalMeasurement] = {}
"""Decide from the recorded runs of an experiment."""
