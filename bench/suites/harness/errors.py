"""What can go wrong while a benchmark runs. Mistakes of the user are `reproduce.errors.UserError` instead."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A benchmark could not measure what it was asked to measure."""


class WorkerProcessError(BenchmarkError):
    """A worker process ended before it replied. What it printed to the terminal tells why."""


class MeasurementError(BenchmarkError):
    """What was measured did not do the work that was to be measured, so that its time would mean nothing."""


class NotInstalledError(BenchmarkError):
    """A baseline is not installed. The message says how to install it."""
