"""What the machine did while a run trained: samplers off the training path; what cannot be read is absent, never 0."""

from bench.telemetry.sampler import Sampler, aggregates

__all__ = ["Sampler", "aggregates"]
