"""Builds the tiles at the top of a report: effects of the factors, the best arm, and how many runs are finished."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.effects import (
    HIGHER,
    LABELS,
    LOWER,
    NO_CLEAR_DIFFERENCE,
    NO_INTERVAL,
    NOT_CLEAR_AFTER_CORRECTION,
    REDUCTION,
)
from analysis.frames import Recorded
from analysis.statistics import ALPHA, NEGLIGIBLE, welch
from analysis.tables import MINUS, counted, interval, is_missing, percent, points
from reproduce import schema

HEADLINES = {
    HIGHER: "Raises top-1",
    LOWER: "Lowers top-1",
    NO_CLEAR_DIFFERENCE: "No clear difference",
    NOT_CLEAR_AFTER_CORRECTION: "Not clear after Holm's correction",
    NO_INTERVAL: "No interval: too few seeds, or no spread between them",
}
"""The tiles' wording of the verdicts of `analysis.effects.verdict`."""


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


def tiles(recorded: Recorded, summary: pd.DataFrame, effects: pd.DataFrame) -> list[Tile]:
    """Build the tiles: the first contrast of up to three factors, the best arm, and the number of finished runs.

    Args:
        recorded: An experiment with at least one finished run.
        summary: One row for each arm, as `analysis.summaries.summarise_arms` returns it.
        effects: Effects on top-1, in the format of `analysis.effects.effects`.
    """
    found = []
    main = effects[effects["kind"] == "main"].drop_duplicates("effect")
    for _, row in main.head(3).iterrows():
        note = ""
        if row["verdict"] == NO_CLEAR_DIFFERENCE:
            note = f"Differences below {percent(row['detectable'], 1)} points may go undetected here."
        found.append(
            Tile(
                label=f"{row['effect']}, {row['contrast']}",
                value=f"{points(row['difference'])} points",
                aside=interval(row["low"], row["high"], points),
                verdict=HEADLINES[row["verdict"]],
                note=" ".join(part for part in (note, _cost_note(row, recorded.finished)) if part),
            )
        )
    return [*found, _best(recorded.finished, summary), _progress(recorded)]


def _cost_note(effect: pd.Series, finished: pd.DataFrame) -> str:
    """Format the multiply-adds of arms with reductions as a share of those of arms without.

    The result is empty if the effect is not one of reductions.
    """
    if effect["effect"] != LABELS[REDUCTION] or schema.COST_MACS not in finished:
        return ""
    macs = finished.drop_duplicates("arm").groupby(REDUCTION)[schema.COST_MACS].mean()
    other = effect["contrast"].split(f" {MINUS} ")[1]
    return f"At {percent(macs['reduced'] / macs[other], 0)} % of the multiply-adds."


def _best(finished: pd.DataFrame, summary: pd.DataFrame) -> Tile:
    ranked = summary[summary["top1"].notna()].sort_values("top1", ascending=False)
    first = ranked.iloc[0]
    verdict = "The only arm with a result"
    if len(ranked) > 1:
        second = ranked.iloc[1]["arm"]
        values = [finished.loc[finished["arm"] == arm, schema.FINAL_TOP1].tolist() for arm in (first["arm"], second)]
        difference = welch(*values)
        if is_missing(difference.p):
            level = difference.value <= NEGLIGIBLE * first["top1"]
            verdict = f"{'Level with' if level else 'Ahead of'} {second}, without an interval"
        else:
            verdict = f"Ahead of {second}" if difference.p < ALPHA else f"No clear difference from {second}"
    return Tile(
        label=f"Best arm: {first['arm']}",
        value=f"{percent(first['top1'])} %",
        aside=interval(first["top1_low"], first["top1_high"], percent),
        verdict=verdict,
    )


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
