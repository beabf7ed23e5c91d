"""Exceptions that are raised while a benchmark runs. Mistakes of the user raise `reproduce.errors.UserError`."""

from __future__ import annotations


class BenchmarkError(Exception):
    """Base class of the exceptions that are raised if a benchmark cannot take its measurements."""


class WorkerProcessError(BenchmarkError):
    """Raised if a worker process ended before it replied. The output of the process shows the cause, if any."""


class MeasurementError(BenchmarkError):
    """Raised if an implementation or a tool did not do the work under measurement, so that a result is meaningless."""


class NotInstalledError(BenchmarkError):
    """Raised if the packages of a baseline are not installed. The message says how to install them."""
