"""What a suite does with its comparisons at the end: print them, write them, and tell whether the goals are reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from bench.results.store import latest_results_folder, to_json, with_provenance, write_result
from bench.suites.harness.comparison import Comparison
from bench.suites.harness.printing import print_comparison


@dataclass(frozen=True, kw_only=True)
class ResultOutput:
    """Where the result of a suite goes beside the terminal."""

    json: bool = False
    """Whether the result is printed to standard output as JSON. Tables go to standard error then."""
    file: Path | None = None
    """The file that the result is written to as JSON."""

    def table_console(self) -> Console:
        """Returns the console for tables."""
        return Console(stderr=self.json)


def progress_console() -> Console:
    """Returns the console for progress, which is standard error, so that standard output holds nothing but results."""
    return Console(stderr=True)


def report_comparisons(
    suite: str,
    comparisons: Sequence[Comparison],
    *,
    setting: Mapping[str, Any],
    output: ResultOutput = ResultOutput(),
    keep_latest: bool = False,
) -> int:
    """Prints every comparison and writes the result.

    Args:
        suite: Name of the suite.
        comparisons: What was measured.
        setting: What was measured on: options, device, threads, and what else it takes to repeat the measurement.
        output: Where the result goes beside the terminal.
        keep_latest: Whether the result is also kept in the user's cache, from which `deeper plan` takes its rates.

    Returns:
        The exit code: 0 if every goal is reached, 1 otherwise.
    """
    tables = output.table_console()
    for comparison in comparisons:
        print_comparison(comparison, tables)
    result = with_provenance(
        suite, {"setting": setting, "comparisons": [comparison.to_record() for comparison in comparisons]}
    )
    latest = [latest_results_folder() / f"{suite}.json"] if keep_latest else []
    for path in [output.file, *latest]:
        if path is not None:
            write_result(path, result)
            tables.print(f"result: {path}", highlight=False, markup=False, soft_wrap=True)
    if output.json:
        print(to_json(result))
    goals = [(comparison, goal) for comparison in comparisons for goal in comparison.goals]
    reached = all(goal.is_reached(median(comparison.goal_values(goal))) for comparison, goal in goals)
    return 0 if reached else 1
