"""Reads from the latest result of `deeper bench scaling` how training uses this machine's CPU cores best.

The last comparison of that suite uses all cores in three ways: in one run of one rank with a thread per core, in one
run with a single-threaded rank per core, and in separate single-threaded runs, one per core ("not connected").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import median

from bench.results.store import latest_results_folder

FIGURE = "images/s"


@dataclass(frozen=True)
class CoreUsage:
    """Training images/s of the whole machine for three ways to use its CPU cores.

    Converted to a string, it recommends the fastest way for a single run and for many runs.
    """

    cores: int
    """Number of cores in use, which is the number of ranks of the largest comparison."""
    threads: float
    """Images/s of one run with one rank of `cores` threads."""
    ranks: float
    """Images/s of one run with `cores` ranks of one thread."""
    runs: float
    """Sum of the images/s of `cores` simultaneous runs, each with one rank of one thread."""
    source: str
    """Command and date of the measurement, as text for people."""

    def __str__(self) -> str:
        ratio = max(self.threads, self.ranks) / min(self.threads, self.ranks)
        best, other = (
            (f"workers: {self.cores} with 1 CPU each", f"1 with {self.cores}")
            if self.ranks > self.threads
            else (f"workers: 1 with {self.cores} CPUs", f"{self.cores} with 1")
        )
        many = self.runs / max(self.threads, self.ranks)
        order = "runs of 1 CPU each side by side" if many > 1 else "one run after the other"
        return (
            f"a run alone: {best} ({ratio:.2f} x {other}); many runs: {order} ({max(many, 1 / many):.2f} x); "
            f"{self.source}"
        )


def measured() -> CoreUsage | None:
    """Read the latest result of `deeper bench scaling` on this kind of machine.

    Imports torch to find the result.

    Returns:
        Medians over the repetitions; None if no result is kept, if its file is damaged, or if it is one of GPUs, which
        lacks these figures.
    """
    path = latest_results_folder() / "scaling.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        for comparison in reversed(content["comparisons"]):  # ascending by ranks; the last ones may share cores
            cores = int(comparison["name"].split()[0])
            rounds = comparison["rounds"]
            names = (f"1 rank, {cores} threads", f"{cores} ranks", f"{cores} ranks, not connected")
            if all(name in rounds for name in names):
                threads, ranks, runs = (median(figures[FIGURE] for figures in rounds[name]) for name in names)
                return CoreUsage(cores, threads, ranks, runs, f"deeper bench scaling of {content['date']}")
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return None
