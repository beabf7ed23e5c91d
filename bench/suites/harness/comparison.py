"""What every suite shares: interleaved rounds, ratios within a round, and a result that says where it comes from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.results.store import kept_results, write

Figures = Mapping[str, float]
"""What one measurement gives, by name with its unit: {"images/s": 812.0, "images per CPU-second": 410.5}."""
Contestant = Callable[[int], Figures]
"""Measures round number `index`; round 0 warms up and is dropped."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Bounds on the median over rounds of `ours` / `peer` in one figure; without a peer, on the median itself."""

    figure: str
    ours: str
    peer: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    """Why it was missed, where that is known."""

    def reached(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Contestants that took turns at one task."""

    name: str
    """Short and unique in a result, e.g. "224"; generated tables refer to it."""
    title: str
    rounds: Mapping[str, Sequence[Figures]]
    """Figures of every round, by contestant, ours first."""
    goals: tuple[Goal, ...] = ()
    once: Mapping[str, Figures] = field(default_factory=dict)
    """Figures measured once a contestant: seconds to the first batch, peak memory."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Contestants that could not take part, and why."""

    def ratios(self, figure: str, ours: str, peer: str) -> list[float]:
        return [a[figure] / b[figure] for a, b in zip(self.rounds[ours], self.rounds[peer], strict=True)]

    def outcome(self, goal: Goal) -> list[float]:
        """What a goal bounds, by round."""
        if goal.peer is None:
            return [figures[goal.figure] for figures in self.rounds[goal.ours]]
        return self.ratios(goal.figure, goal.ours, goal.peer)


def interleave(
    contestants: Mapping[str, Contestant], *, rounds: int, console: Console
) -> dict[str, list[dict[str, float]]]:
    """Figures of each contestant in every round, A B A B ...; a round before the first warms up and is dropped."""
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    start = time.monotonic()
    for index in range(rounds + 1):
        for name, measure in contestants.items():
            figures = dict(measure(index))
            if index:
                measured[name].append(figures)
        if index:
            left = (time.monotonic() - start) / (index + 1) * (rounds - index)
            now = ", ".join(
                f"{name} " + " / ".join(f"{value:.4g}" for value in values[-1].values())
                for name, values in measured.items()
            )
            console.print(f"round {index} of {rounds}: {now}; about {left:.0f} s left", highlight=False)
        else:
            console.print("warmed up", highlight=False)
    return measured


def publish(
    suite: str,
    comparisons: Sequence[Comparison],
    *,
    setting: Mapping[str, Any],
    output: Path | None = None,
    keep: bool = False,
) -> int:
    """Print every comparison, write the raw result where asked; 0 where each goal is reached, else 1.

    `keep`: also as this machine's latest, from which `deeper plan` takes its rates (`bench.planning.rates`).
    """
    console = Console()
    reached = True
    for comparison in comparisons:
        _print(comparison, console)
        for goal in comparison.goals:
            value = median(comparison.outcome(goal))
            reached &= goal.reached(value)
            against = f" / {goal.peer}" if goal.peer else ""
            bound = f"at least {goal.at_least:g}" if goal.at_least is not None else f"at most {goal.at_most:g}"
            verdict = "reached" if goal.reached(value) else f"missed{'; ' if goal.note else ''}{goal.note}"
            console.print(f"goal, {goal.figure}, {goal.ours}{against} {bound}: {value:.3g}, {verdict}", highlight=False)
    outputs = [output] if output is not None else []
    if keep:
        outputs.append(kept_results() / f"{suite}.json")
    for path in outputs:
        write(path, suite, {"setting": setting, "comparisons": [asdict(comparison) for comparison in comparisons]})
        console.print(f"raw results: {path}", highlight=False)
    return 0 if reached else 1


def _print(comparison: Comparison, console: Console) -> None:
    ours = next(iter(comparison.rounds))
    figures = list(comparison.rounds[ours][0])
    once = list(dict.fromkeys(name for values in comparison.once.values() for name in values))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for figure in figures:
        table.add_column(figure, justify="right")
        table.add_column(f"{ours} is × this", justify="right")
    for figure in once:
        table.add_column(figure, justify="right")
    for name, rounds in comparison.rounds.items():
        cells = []
        for figure in figures:
            cells.append(f"{median(values[figure] for values in rounds):.4g}")
            ratios = comparison.ratios(figure, ours, name)
            cells.append("" if name == ours else f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        alone = comparison.once.get(name, {})
        table.add_row(name, *cells, *(f"{alone[figure]:.4g}" if figure in alone else "" for figure in once))
    count = len(comparison.rounds[ours])
    console.print(f"{comparison.title}; medians (range) of {count} interleaved rounds", highlight=False)
    console.print(table)
    for name, reason in comparison.absent.items():
        console.print(f"{name}: did not take part: {reason}", highlight=False)
