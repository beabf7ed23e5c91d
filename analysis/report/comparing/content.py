"""Compares two sides and builds the content of their report: the same arms beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.comparisons.sizes import hedges_g, probability_superior
from analysis.effects import PAIRWISE, Decision, corrected, decide_effects, estimate_contrast, tabulated
from analysis.frames import Recorded
from analysis.report.comparing.differences import (
    Difference,
    Repeated,
    differences_table,
    environment_differences,
    repeated_runs,
    setting_differences,
    shared_arms,
)
from analysis.report.comparing.sentences import write_comparison_findings
from analysis.report.comparing.sides import Side
from analysis.report.findings import Findings
from analysis.report.results import effect_name
from analysis.statistics import NAN
from analysis.summaries import summarise_arms
from analysis.tables import (
    DASH,
    MINUS,
    Cell,
    Table,
    duration,
    interval,
    is_missing,
    number,
    p_value,
    percent,
    points,
    quantity,
    share_interval,
)
from reproduce import schema


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The content of a comparison, before it is rendered."""

    a: Side
    b: Side
    settings: Sequence[Difference]
    environment: Sequence[Difference]
    decisions: Sequence[Decision]
    """For each arm of both sides, top-1 on side B minus that on side A, corrected together by Holm's method."""
    arms: pd.DataFrame
    """The summaries of both sides (`analysis.summaries.summarise_arms`) with a column `side`, arm by arm."""
    effects: pd.DataFrame
    """The decisions in the format of `analysis.effects.effects`."""
    repeated: Repeated
    findings: Findings
    tables: dict[str, Table]
    """Tables by the names of their files. Some may have no rows."""

    @property
    def differences(self) -> pd.DataFrame:
        """The differences in settings and environment, one row each."""
        rows = [("setting", one) for one in self.settings] + [("environment", one) for one in self.environment]
        return pd.DataFrame(
            [(kind, one.what, one.arm, one.a, one.b) for kind, one in rows], columns=["kind", "what", "arm", "a", "b"]
        )


def compare(a: Side, b: Side) -> Comparison:
    """Compare two sides."""
    arms = shared_arms(a.recorded, b.recorded)
    decisions = decide_sides(a.recorded, b.recorded, arms)
    settings = setting_differences(a.recorded, b.recorded)
    environment = environment_differences(a.recorded, b.recorded)
    summaries = [summarise_arms(side.recorded.finished, arms).assign(side=side.letter) for side in (a, b)]
    repeated = repeated_runs(a.recorded, b.recorded)
    tables = {
        "settings": differences_table(settings, "What differs in the recorded settings of the arms"),
        "environment": differences_table(environment, "What differs in the environment of the finished runs"),
        "arms": _arms_table(decisions, *summaries),
        "costs": _costs_table(arms, *summaries),
        "effects": _effects_table(a, b),
    }
    return Comparison(
        a=a,
        b=b,
        settings=settings,
        environment=environment,
        decisions=decisions,
        arms=pd.concat(summaries, ignore_index=True),
        effects=tabulated(decisions, schema.FINAL_TOP1),
        repeated=repeated,
        findings=write_comparison_findings(a, b, settings, environment, decisions, repeated),
        tables=tables,
    )


def decide_sides(a: Recorded, b: Recorded, arms: Sequence[str]) -> list[Decision]:
    """Decide for each arm how its top-1 on side B differs from that on side A.

    Arms are compared seed by seed if both experiments ask for it, and within the margin that both name, if it is one.
    """
    paired = a.settings.paired and b.settings.paired
    margin = a.settings.margin if a.settings.margin == b.settings.margin else None
    decisions = []
    for arm in arms:
        samples = [_by_seed(side.finished, arm) for side in (b, a)]
        estimate = estimate_contrast(samples, [1.0, -1.0], paired=paired)
        values = [sample.to_numpy() for sample in samples]
        decisions.append(
            Decision(
                kind=PAIRWISE,
                effect=arm,
                contrast=f"{arm}, B {MINUS} A",
                weights={"B": 1.0, "A": -1.0},
                pairs=[("B", "A")],
                estimate=estimate,
                g=hedges_g(estimate.value, values),
                p_superior=probability_superior(*values),
            )
        )
    return corrected(decisions, NAN if margin is None else margin)


def _by_seed(finished: pd.DataFrame, arm: str) -> pd.Series:
    own = finished[finished["arm"] == arm]
    return pd.Series(own[schema.FINAL_TOP1].to_numpy(float), own["seed"])


def _arms_table(decisions: Sequence[Decision], a: pd.DataFrame, b: pd.DataFrame) -> Table:
    rows = []
    for one, (_, of_a), (_, of_b) in zip(decisions, a.iterrows(), b.iterrows(), strict=True):
        estimate = one.estimate
        cells = [Cell(one.effect, sort=one.effect)]
        for side in (of_a, of_b):
            aside = share_interval(side["top1_low"], side["top1_high"])
            seeds = f"n = {side['n']}"
            cells.append(Cell(percent(side["top1"]), seeds if aside == DASH else f"{aside}, {seeds}", side["top1"]))
        aside = interval(estimate.low, estimate.high, points)
        cells += [
            Cell(points(estimate.value), "" if aside == DASH else aside, estimate.value),
            Cell(p_value(one.p_holm), sort="" if is_missing(one.p_holm) else one.p_holm),
            Cell(one.verdict, sort=one.verdict),
        ]
        rows.append(cells)
    columns = ["Arm", "Top-1 on A, %", "Top-1 on B, %", f"B {MINUS} A, points", "p, Holm", "B is"]
    caption = "The same arms beside each other: means over seeds, 95 % intervals in brackets"
    return Table(caption, columns, rows, frozenset({0, 5}))


def _costs_table(arms: Sequence[str], a: pd.DataFrame, b: pd.DataFrame) -> Table:
    """Build the table of what the arms cost on both sides; the last of each three columns is B as a ratio to A."""
    rows = []
    for arm, (_, of_a), (_, of_b) in zip(arms, a.iterrows(), b.iterrows(), strict=True):
        cells = [Cell(arm, sort=arm)]
        for name, show in (("macs", quantity), ("images_per_s", _rate), ("duration_s", duration)):
            one, other = float(of_a[name]), float(of_b[name])
            ratio = other / one if one > 0 else NAN
            cells += [Cell(show(value), sort="" if is_missing(value) else value) for value in (one, other)]
            cells.append(Cell(number(ratio, 2), sort="" if is_missing(ratio) else ratio))
        rows.append(cells)
    columns = ["Arm"]
    for name in ("Multiply-adds", "Images/s", "Time per run"):
        columns += [f"{name}, A", f"{name}, B", "B / A"]
    return Table("What the arms cost on both sides", columns, rows)


def _rate(value: float) -> str:
    return number(value, 0 if value >= 100 else 1)


def _effects_table(a: Side, b: Side) -> Table:
    """Build the table of the contrasts within each side that both sides have, as their own reports decide them."""
    of_sides: list[dict[str, pd.Series]] = []
    for side in (a, b):
        finished = side.recorded.finished
        found = tabulated(decide_effects(finished, schema.FINAL_TOP1, side.recorded.settings), schema.FINAL_TOP1)
        of_sides.append({effect_name(row): row for _, row in found.iterrows()})
    rows = []
    for name in of_sides[0]:
        if name in of_sides[1]:
            cells = [Cell(name, sort=name)]
            for own in of_sides:
                row = own[name]
                aside = interval(row["low"], row["high"], points)
                cells.append(Cell(points(row["difference"]), "" if aside == DASH else aside, row["difference"]))
                cells.append(Cell(row["verdict"], sort=row["verdict"]))
            rows.append(cells)
    columns = ["Effect", "On A, points", "Verdict on A", "On B, points", "Verdict on B"]
    return Table(
        "Effects within each side on top-1, as its own report decides them", columns, rows, frozenset({0, 2, 4})
    )
