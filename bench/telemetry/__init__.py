"""What the machine did while a run trained: a thread samples host and GPUs away from the training path.

Devices come in; `telemetry.parquet` and metrics go out. What cannot be read is absent, never 0. It may import
`bench.machine` and `reproduce`.
"""

from bench.telemetry.sampler import Sampler
from bench.telemetry.samples import aggregates

__all__ = ["Sampler", "aggregates"]
