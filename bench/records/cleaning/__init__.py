"""Finds what finished runs and evaluations have left and nothing needs any more, and removes it.

The folder of the records comes in; lists of files with their sizes go out, and what was removed. Events, metrics,
configurations, telemetry, predictions of runs, plans and environments are never among them.
"""
