"""How this machine's CPU cores serve training best, as `deeper bench scaling` found it: threads, ranks, runs at once.

The suite's last comparison has all cores at work in each of three ways: one rank with a thread a core; a run of one
rank a core; runs of one core each, side by side ("not connected").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import median

from bench.results.store import latest_results_folder

FIGURE = "images/s"


@dataclass(frozen=True)
class Placement:
    """Images/s of the machine, with the same network and batch a rank."""

    cores: int
    threads: float
    """Of one run of one rank with `cores` threads."""
    ranks: float
    """Of one run of `cores` ranks."""
    runs: float
    """Of `cores` runs of one rank, at once."""
    source: str

    def __str__(self) -> str:
        one = min(self.threads, self.ranks) / max(self.threads, self.ranks)
        best, other = (
            (f"workers: {self.cores} with 1 CPU each", f"1 with {self.cores}")
            if self.ranks > self.threads
            else (f"workers: 1 with {self.cores} CPUs", f"{self.cores} with 1")
        )
        many = self.runs / max(self.threads, self.ranks)
        grid = "runs of 1 CPU each side by side" if many > 1 else "one run after the other"
        return (
            f"a run alone: {best} ({1 / one:.2f} x {other}); many runs: {grid} ({max(many, 1 / many):.2f} x); "
            f"{self.source}"
        )


def measured() -> Placement | None:
    """This machine's placement; None where it has not been measured, or on GPUs."""
    path = latest_results_folder() / "scaling.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    comparison = content["comparisons"][-1]
    cores = int(comparison["name"].split()[0])
    names = (f"1 rank, {cores} threads", f"{cores} ranks", f"{cores} ranks, not connected")
    if not all(name in comparison["rounds"] for name in names):
        return None
    threads, ranks, runs = (median(figures[FIGURE] for figures in comparison["rounds"][name]) for name in names)
    return Placement(cores, threads, ranks, runs, f"deeper bench scaling of {content['date']}")
