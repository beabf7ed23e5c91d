"""The content of a report, analysed and worded, before it is rendered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.claims.decide import decide_all
from analysis.claims.rendering import as_rows, ledger_table
from analysis.effects import baseline, effects
from analysis.frames import Recorded
from analysis.report.completeness import UnfinishedRun, completeness, limits, unfinished_runs
from analysis.report.environment import environment_rows
from analysis.report.results import effects_table, results_table
from analysis.report.tiles import Tile, tiles
from analysis.summaries import summarise_arms
from analysis.tables import Table
from reproduce import schema


@dataclass(frozen=True, kw_only=True)
class Sections:
    """The content of a report, in the order of the page."""

    recorded: Recorded
    summary: pd.DataFrame
    """A row for each arm, as `analysis.summaries.summarise_arms` makes it."""
    effects: pd.DataFrame
    """Effects on top-1 and, where every run has it, on top-5, as `analysis.effects.effects` makes them."""
    baseline: str
    """The arm with which the others are compared."""
    tiles: Sequence[Tile]
    results_table: Table
    effects_table: Table
    claims_table: Table
    """Without rows where the experiment decides no claim."""
    completeness: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    """The grid of runs: for each arm its name, and for each seed the outcome of the run and the text of the cell."""
    unfinished: Sequence[UnfinishedRun]
    limits: Sequence[str]
    """Sentences on what the numbers can and cannot show."""
    environment: Sequence[tuple[str, str]]
    """What the runs ran on, by name."""

    @property
    def top1_effects(self) -> pd.DataFrame:
        return _on_top1(self.effects)


def build_sections(recorded: Recorded, tracking_uri: str) -> Sections:
    """Analyse an experiment that has at least one finished run."""
    finished = recorded.finished
    summary = summarise_arms(finished, recorded.arms)
    outcomes = [m for m in (schema.FINAL_TOP1, schema.FINAL_TOP5) if m in finished and finished[m].notna().all()]
    all_effects = pd.concat([effects(finished, outcome) for outcome in outcomes], ignore_index=True)
    top1_effects = _on_top1(all_effects)
    return Sections(
        recorded=recorded,
        summary=summary,
        effects=all_effects,
        baseline=baseline(finished),
        tiles=tiles(recorded, summary, top1_effects),
        results_table=results_table(summary),
        effects_table=effects_table(top1_effects),
        claims_table=ledger_table(as_rows(decide_all(recorded))),
        completeness=completeness(recorded),
        unfinished=unfinished_runs(recorded),
        limits=limits(recorded, top1_effects),
        environment=environment_rows(recorded, tracking_uri),
    )


def _on_top1(effects: pd.DataFrame) -> pd.DataFrame:
    return effects[effects["outcome"] == schema.FINAL_TOP1]
