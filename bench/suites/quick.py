"""`deeper bench --quick`: has a change made anything slower? Two minutes on 2 cores, ratios only.

The short form of each suite, and its ratios beside those of results/bench/<kind of machine>/quick.json. A ratio to a
peer of the same minute carries from machine to machine of a kind, images/s do not. Goals are for the whole suites, on a
quiet machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.results.store import COMMITTED, committed_kinds, here
from bench.suites.harness.comparison import Comparison, publish
from reproduce.spec import SpecError

FILE = "quick.json"
TOLERANCE = 0.15
"""Share by which a median of two or three rounds moves on a busy machine without meaning anything."""


@dataclass(frozen=True)
class Change:
    """A ratio now and in the reference."""

    what: str
    now: float
    before: float
    more_is_better: bool

    @property
    def share(self) -> float:
        return self.now / self.before - 1

    @property
    def is_regression(self) -> bool:
        return (-self.share if self.more_is_better else self.share) > TOLERANCE


def main(*, output: Path | None) -> int:
    """Measure and compare; 1 where a ratio got worse by more than `TOLERANCE`. Raises `SpecError`."""
    console = Console()
    kind = here()
    path = COMMITTED / kind / FILE
    reference = _reference(path) if path.exists() else None
    if reference is None:
        console.print(no_reference(kind), highlight=False)
    comparisons = [comparison for part in _parts() for comparison in part(console)]
    publish("quick", [replace(comparison, goals=()) for comparison in comparisons], setting={}, output=output)
    if reference is None:
        return 0
    found = changes(comparisons, reference)
    console.print(_table(found))
    return int(any(change.is_regression for change in found))


def no_reference(kind: str) -> str:
    """What is told where this kind of machine has nothing to compare with."""
    others = [name for name in committed_kinds() if (COMMITTED / name / FILE).exists()]
    there = f"there are those of {', '.join(others)}" if others else "there is none of any other"
    return f"no reference for {kind}, {there}: nothing is compared; `deeper bench quick --json` writes one"


def changes(comparisons: Sequence[Comparison], reference: Mapping[str, Comparison]) -> list[Change]:
    """Every ratio that has a goal, and that the reference has, too."""
    found = []
    for comparison in comparisons:
        before = reference.get(comparison.name)
        for goal in comparison.goals:
            if goal.peer is None or before is None or not {goal.ours, goal.peer} <= before.rounds.keys():
                continue
            found.append(
                Change(
                    what=f"{comparison.name}: {goal.figure}, {goal.ours} / {goal.peer}",
                    now=median(comparison.outcome(goal)),
                    before=median(before.outcome(goal)),
                    more_is_better=goal.at_least is not None,
                )
            )
    return found


def _parts() -> list[Callable[[Console], list[Comparison]]]:
    from bench.suites.loader import suite as loader
    from bench.suites.overhead import suite as overhead
    from bench.suites.step import suite as step

    return [loader.quick, step.quick, overhead.quick]


def _reference(path: Path) -> dict[str, Comparison]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["comparisons"]
        return {one["name"]: Comparison(name=one["name"], title=one["title"], rounds=one["rounds"]) for one in content}
    except (ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{path}: not what `deeper bench --quick --json` writes: {error!r}") from None


def _table(found: Sequence[Change]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("ratio", "now", "reference", "change", ""):
        table.add_column(title, justify="left" if title in ("ratio", "") else "right")
    for change in found:
        verdict = f"[red]worse by more than {TOLERANCE:.0%}[/]" if change.is_regression else "ok"
        table.add_row(change.what, f"{change.now:.2f}", f"{change.before:.2f}", f"{change.share:+.0%}", verdict)
    return table
