"""Analyses an experiment and builds the content of its report, which `rendering` then writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.claims.decide import decide_all
from analysis.claims.rendering import as_rows, ledger_table
from analysis.comparisons.methods import describe_method
from analysis.effects import decide_effects, tabulated
from analysis.factors import baseline
from analysis.frames import Recorded
from analysis.report.completeness import UnfinishedRun, completeness, limits, unfinished_runs
from analysis.report.environment import environment_rows
from analysis.report.findings import Findings, write_findings
from analysis.report.results import effects_table, results_table, sizes_table
from analysis.report.tiles import Tile, tiles
from analysis.summaries import summarise_arms
from analysis.tables import Table
from reproduce import schema


@dataclass(frozen=True, kw_only=True)
class Sections:
    """The content of a report, before it is rendered."""

    recorded: Recorded
    """The runs and epochs of the experiment."""
    summary: pd.DataFrame
    """One row for each arm, as `analysis.summaries.summarise_arms` returns it."""
    effects: pd.DataFrame
    """Effects on top-1 and, if every finished run has top-5, on top-5, as `analysis.effects.effects` returns them."""
    baseline: str
    """Name of the arm with which the other arms are compared."""
    findings: Findings
    """What the runs found and what they leave open, in sentences."""
    method: str
    """A paragraph on how the arms were compared."""
    tiles: Sequence[Tile]
    """The tiles at the top of the page."""
    results_table: Table
    """Results by arm."""
    effects_table: Table
    """Effects on top-1. It has no rows if there is a single arm."""
    sizes_table: Table
    """Sizes of the effects on top-1 in other measures. It has no rows if there is a single arm."""
    claims_table: Table
    """Claims that the experiment decides. It has no rows if there are none."""
    completeness: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    """The grid of runs, as `analysis.report.completeness.completeness` returns it."""
    unfinished: Sequence[UnfinishedRun]
    """Runs without a final result."""
    limits: Sequence[str]
    """Sentences on what the numbers can and cannot show."""
    environment: Sequence[tuple[str, str]]
    """The environment of the runs, as pairs of a label and its value."""

    @property
    def top1_effects(self) -> pd.DataFrame:
        """The rows of `effects` with effects on top-1."""
        return _on_top1(self.effects)


def build_sections(recorded: Recorded, tracking_uri: str) -> Sections:
    """Analyse an experiment and build the content of its report.

    Args:
        recorded: An experiment with at least one finished run.
        tracking_uri: URI of the MLflow store, which the report shows without credentials.
    """
    finished = recorded.finished
    summary = summarise_arms(finished, recorded.arms)
    outcomes = [m for m in (schema.FINAL_TOP1, schema.FINAL_TOP5) if m in finished and finished[m].notna().all()]
    decided = {outcome: decide_effects(finished, outcome, recorded.settings) for outcome in outcomes}
    on_top1 = decided[schema.FINAL_TOP1]
    tables = [tabulated(decisions, outcome) for outcome, decisions in decided.items()]
    all_effects = pd.concat(tables, ignore_index=True)
    top1_effects = _on_top1(all_effects)
    return Sections(
        recorded=recorded,
        summary=summary,
        effects=all_effects,
        baseline=baseline(finished, recorded.settings.baseline),
        findings=write_findings(recorded, on_top1),
        method=describe_method(recorded, on_top1),
        tiles=tiles(recorded, summary, on_top1),
        results_table=results_table(summary),
        effects_table=effects_table(top1_effects),
        sizes_table=sizes_table(top1_effects),
        claims_table=ledger_table(as_rows(decide_all(recorded))),
        completeness=completeness(recorded),
        unfinished=unfinished_runs(recorded),
        limits=limits(recorded, top1_effects),
        environment=environment_rows(recorded, tracking_uri),
    )


def _on_top1(effects: pd.DataFrame) -> pd.DataFrame:
    return effects[effects["outcome"] == schema.FINAL_TOP1]
