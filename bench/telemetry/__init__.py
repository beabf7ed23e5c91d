"""Samples host and GPUs while a run trains, in a thread beside the one that trains.

Devices come in; `telemetry.parquet` and metrics go out. A reading that cannot be taken is absent, never 0. The package
may import `bench.machine` and `reproduce`.
"""

from bench.telemetry.sampler import Sampler
from bench.telemetry.samples import aggregates

__all__ = ["Sampler", "aggregates"]
