"""Lists the static measurements that rows of the ledger may name. They decide a claim from the network alone."""

from __future__ import annotations

from reproduce.claims import costs, structure
from reproduce.claims.verdicts import StaticMeasurement

STATIC: dict[str, StaticMeasurement] = {**costs.MEASUREMENTS, **structure.MEASUREMENTS}
"""Every static measurement, by the name that the ledger uses."""
