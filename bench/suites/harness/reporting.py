"""Reports the comparisons of a suite: prints them, writes them to files, and decides whether the goals are reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

from rich.console import Console

from bench.console.output import plain_console
from bench.results.store import latest_results_folder, to_json, with_provenance, write_result
from bench.suites.harness.comparison import Comparison
from bench.suites.harness.printing import print_comparison


@dataclass(frozen=True, kw_only=True)
class ResultOutput:
    """Selects where the result of a suite goes beside the tables on the terminal."""

    json: bool = False
    """Whether to print the result to standard output as JSON. The tables then go to standard error."""
    file: Path | None = None
    """The file to write the result to as JSON. None writes no file."""

    def table_console(self) -> Console:
        """Return a console for the tables: standard output, or standard error if `json` is set."""
        return plain_console(stderr=self.json)


def progress_console() -> Console:
    """Return a console for progress, which is standard error, so that standard output receives only results."""
    return plain_console(stderr=True)


def report_comparisons(
    suite: str,
    comparisons: Sequence[Comparison],
    *,
    setting: Mapping[str, Any],
    output: ResultOutput = ResultOutput(),
    keep_latest: bool = False,
    content: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Print every comparison, and print or write the result as JSON, as `output` and `keep_latest` select.

    The result also holds the date, the command, the commit, and the versions and machine, see `with_provenance`.

    Args:
        suite: Name of the suite.
        comparisons: The comparisons with their goals.
        setting: The conditions of the measurement: options, device, threads and whatever else is needed to repeat it.
            It must be serialisable as JSON.
        output: Where the result goes beside the terminal.
        keep_latest: Whether to write the result to the user's cache as well, where it replaces the latest result of the
            suite on this kind of machine. `deeper plan` takes its rates from there.
        content: Further entries of the result, serialisable as JSON.

    Returns:
        The exit code: 0 if every goal of every comparison is reached, 1 otherwise.
    """
    tables = output.table_console()
    for comparison in comparisons:
        print_comparison(comparison, tables)
    result = with_provenance(
        suite, {"setting": setting, "comparisons": [comparison.to_record() for comparison in comparisons], **content}
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
