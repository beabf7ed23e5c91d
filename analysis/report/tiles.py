"""Builds the tiles at the top of a report: what was decided first, the best arm, and how many runs are finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.comparisons.costs import cost_ratio
from analysis.effects import (
    EQUIVALENT,
    HIGHER,
    INTERACTION,
    LOWER,
    MAIN,
    NO_CLEAR_DIFFERENCE,
    NO_INTERVAL,
    NOT_CLEAR_AFTER_CORRECTION,
    Decision,
)
from analysis.frames import Recorded
from analysis.report.words import more_or_less
from analysis.tables import counted, interval, is_missing, percent, points, share_interval
from reproduce import schema

HEADLINES = {
    HIGHER: "Raises top-1",
    LOWER: "Lowers top-1",
    EQUIVALENT: "Equivalent within the margin",
    NO_CLEAR_DIFFERENCE: "No clear difference",
    NOT_CLEAR_AFTER_CORRECTION: "Not clear after Holm's correction",
    NO_INTERVAL: "No interval: too few seeds, or no spread between them",
}
"""The tiles' wording of the verdicts of `analysis.effects.verdict`."""
MOST_TILES = 3
"""The number of contrasts that have a tile."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A tile at the top of the page, which highlights one number."""

    label: str
    """Name of the number, for example "Best arm: baseline"."""
    value: str
    """The number as text, with its unit."""
    aside: str
    """Small print below the value: its interval, or what is counted."""
    verdict: str
    """The conclusion in a few words."""
    note: str = ""
    """A sentence that qualifies the conclusion. It may be empty."""


def tiles(recorded: Recorded, summary: pd.DataFrame, decisions: Sequence[Decision]) -> list[Tile]:
    """Build the tiles: up to three contrasts, the best arm if a run is finished, and the number of finished runs.

    The contrasts are the first of each factor or, if the arms are no full factorial, the first pairs of arms. The tiles
    make no tests of their own.

    Args:
        recorded: The experiment.
        summary: One row for each arm, as `analysis.summaries.summarise_arms` returns it.
        decisions: The contrasts on top-1, as `analysis.effects.decide_effects` decides them.
    """
    first: Mapping[str, Decision] = {one.effect: one for one in reversed(decisions) if one.kind != INTERACTION}
    shown = sorted(first.values(), key=decisions.index)[:MOST_TILES]
    best = [] if recorded.finished.empty else [_best(summary, decisions)]
    return [*(_tile(one, recorded.finished) for one in shown), *best, _progress(recorded)]


def _tile(decision: Decision, finished: pd.DataFrame) -> Tile:
    estimate = decision.estimate
    notes = []
    if decision.verdict == NO_CLEAR_DIFFERENCE:
        notes.append(f"Differences below {percent(decision.detectable, 1)} points may go undetected here.")
    if decision.verdict == EQUIVALENT:
        notes.append(f"The margin is {percent(decision.margin, 1)} points.")
    ratio = cost_ratio(decision, finished)
    if not is_missing(ratio) and round(100 * ratio) != 100:
        notes.append(f"With {more_or_less(ratio)} multiply-adds.")
    return Tile(
        label=f"{decision.effect}, {decision.contrast}" if decision.kind == MAIN else decision.contrast,
        value=f"{points(estimate.value)} points",
        aside=interval(estimate.low, estimate.high, points),
        verdict=HEADLINES[decision.verdict],
        note=" ".join(notes),
    )


def _best(summary: pd.DataFrame, decisions: Sequence[Decision]) -> Tile:
    """Build the tile of the arm with the highest mean, with the verdict on it if it is among the decisions."""
    ranked = summary[summary["top1"].notna()].sort_values("top1", ascending=False, kind="stable")
    first = ranked.iloc[0]
    verdict = f"The highest mean of {counted(len(ranked), 'arm')}"
    names = list(ranked["arm"].iloc[:2])
    single = [one for one in decisions if len(one.pairs) == 1 and first["arm"] in one.pairs[0]]
    compared = [one for one in single if set(names) == set(one.pairs[0])]
    decided = compared or [one for one in single if one.effect == first["arm"]]
    if len(ranked) == 1:
        verdict = "The only arm with a result"
    elif decided:
        verdict = _ahead(decided[0], str(first["arm"]), names[1])
    return Tile(
        label=f"Best arm: {first['arm']}",
        value=f"{percent(first['top1'])} %",
        aside=share_interval(first["top1_low"], first["top1_high"]),
        verdict=verdict,
        note="" if compared or len(ranked) == 1 else f"No test compares it with the second, {names[1]}.",
    )


def _ahead(one: Decision, first: str, second: str) -> str:
    """Say what was decided on the best arm and another, for example "Clearly above only-3x3, the second"."""
    plus, minus = one.pairs[0]
    other = minus if plus == first else plus
    name = f"{other}, the second" if other == second else other
    told = {
        EQUIVALENT: f"Equivalent to {name}, within the margin",
        NO_CLEAR_DIFFERENCE: f"Not clearly above {name}",
        NOT_CLEAR_AFTER_CORRECTION: f"Not clearly above {name}, after Holm's correction",
        NO_INTERVAL: f"Cannot be tested against {name}",
    }
    return told.get(one.verdict, f"Clearly above {name}")


def _progress(recorded: Recorded) -> Tile:
    counts = recorded.runs["outcome"].value_counts()
    rest = [f"{count} {state}" for state, count in counts.items() if state != schema.FINISHED]
    return Tile(
        label="Runs finished",
        value=f"{counts.get(schema.FINISHED, 0)} of {len(recorded.runs)}",
        aside=f"{counted(len(recorded.arms), 'arm')}, {counted(recorded.runs['seed'].nunique(), 'seed')}",
        verdict=", ".join(rest).capitalize() or ("Complete" if recorded.choice.plan else "No plan is published"),
        note=f"{counted(recorded.others, 'other run')} left out" if recorded.others else "",
    )
