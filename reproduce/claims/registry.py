"""The static measurements that rows of the ledger may name: they decide a claim from the network alone."""

from __future__ import annotations

from reproduce.claims import costs, structure
from reproduce.claims.verdicts import StaticMeasurement

STATIC: dict[str, StaticMeasurement] = {**costs.MEASUREMENTS, **structure.MEASUREMENTS}
