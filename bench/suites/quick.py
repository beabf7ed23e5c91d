"""`deeper bench --quick`: detects whether a change has made anything slower, in a few minutes on 2 cores.

Measured: the short forms of the suites `loader`, `step` and `overhead`, each interleaved as described there.

Against: `results/bench/<kind of machine>/quick.json`, the committed result of the same measurement. Only ratios to
baselines are compared, because a ratio measured on one machine also applies to others of its kind, whereas images/s do
not.

Not shown: whether the goals are reached. The goals apply to the full suites on a machine without other load.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console

from bench.results.store import COMMITTED, committed_kinds, this_machine_kind
from bench.suites.harness.comparison import Comparison
from bench.suites.harness.printing import print_table
from bench.suites.harness.reporting import ResultOutput, progress_console, report_comparisons
from reproduce.errors import UserError

FILE = "quick.json"
TOLERANCE = 0.15
"""The largest decline of a ratio, as a share of the reference, that is not a regression.

On a busy machine the median of two or three repetitions varies by this much without any change to the code.
"""


@dataclass(frozen=True)
class RatioChange:
    """A ratio between our implementation and a baseline, as measured now and in the reference."""

    name: str
    """Names the comparison, the metric and both implementations."""
    now: float
    """Median ratio as measured now."""
    before: float
    """Median ratio in the reference."""
    more_is_better: bool
    """Whether a larger ratio is better, as for speed and in contrast to memory."""

    @property
    def relative(self) -> float:
        """The change as a share of the ratio in the reference. It is negative if the ratio is smaller now."""
        return self.now / self.before - 1

    @property
    def is_regression(self) -> bool:
        """Whether the ratio got worse by more than the share `TOLERANCE`."""
        return (-self.relative if self.more_is_better else self.relative) > TOLERANCE


def main(*, output: ResultOutput) -> int:
    """Run the short forms of three suites, compare their ratios with the reference, and print and write the result.

    The reference is the committed result for this kind of machine. Without one, nothing is compared.

    Args:
        output: Where the result goes beside the terminal.

    Returns:
        The exit code: 1 if a ratio got worse by more than `TOLERANCE`, 0 otherwise, also if there is no reference.

    Raises:
        UserError: The file of the reference is not a result of this suite.
        BenchmarkError: One of the suites could not take its measurements.
    """
    console, tables = progress_console(), output.table_console()
    kind = this_machine_kind()
    path = COMMITTED / kind / FILE
    reference = _read_reference(path) if path.exists() else None
    if reference is None:
        console.print(no_reference(kind), highlight=False, soft_wrap=True)
    comparisons = [comparison for measure in _quick_suites() for comparison in measure(console)]
    without_goals = [replace(comparison, goals=()) for comparison in comparisons]
    report_comparisons("quick", without_goals, setting={}, output=output)
    if reference is None:
        return 0
    changes = ratio_changes(comparisons, reference)
    _print_changes(changes, tables)
    return int(any(change.is_regression for change in changes))


def no_reference(kind: str) -> str:
    """Return the message that there is no reference for this kind of machine, with the kinds that have one."""
    others = [name for name in committed_kinds() if (COMMITTED / name / FILE).exists()]
    known = f"only for {', '.join(others)}" if others else "nor for any other kind of machine"
    return f"no reference for {kind}, {known}: nothing is compared; `deeper bench quick --output` writes a reference"


def ratio_changes(comparisons: Sequence[Comparison], reference: Mapping[str, Comparison]) -> list[RatioChange]:
    """Return the change of every ratio that has a goal now and that the reference also holds.

    A goal without a baseline bounds no ratio and is left out.

    Args:
        comparisons: The comparisons as measured now, with their goals.
        reference: The comparisons of the reference by name. Their goals are not used.
    """
    changes = []
    for comparison in comparisons:
        before = reference.get(comparison.name)
        for goal in comparison.goals:
            if goal.baseline is None or before is None:
                continue
            if not {goal.ours, goal.baseline} <= before.repetitions.keys():
                continue
            changes.append(
                RatioChange(
                    name=f"{comparison.name}: {goal.metric}, {goal.ours} / {goal.baseline}",
                    now=median(comparison.goal_values(goal)),
                    before=median(before.goal_values(goal)),
                    more_is_better=goal.at_least is not None,
                )
            )
    return changes


def _quick_suites() -> list[Callable[[Console], list[Comparison]]]:
    from bench.suites.loader import suite as loader
    from bench.suites.overhead import suite as overhead
    from bench.suites.step import suite as step

    return [loader.quick, step.quick, overhead.quick]


def _read_reference(path: Path) -> dict[str, Comparison]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["comparisons"]
        return {
            entry["name"]: Comparison(name=entry["name"], title=entry["title"], repetitions=entry["rounds"])
            for entry in content
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not what `deeper bench quick --output` writes: {error!r}") from None


def _print_changes(changes: Sequence[RatioChange], console: Console) -> None:
    rows = [
        [
            change.name,
            f"{change.now:.2f}",
            f"{change.before:.2f}",
            f"{change.relative:+.0%}",
            f"worse by more than {TOLERANCE:.0%}" if change.is_regression else "ok",
        ]
        for change in changes
    ]
    print_table(console, ("ratio", "now", "reference", "change", ""), rows)
