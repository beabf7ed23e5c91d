"""Analyses an experiment and builds the content of its report, which `rendering` then writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.claims.decide import decide_all
from analysis.claims.rendering import as_rows, ledger_table
from analysis.comparisons.methods import MEASURED, describe_method, references
from analysis.comparisons.predictions import compare_predictions, predictions_table
from analysis.details.arms import arms_table, described_arms
from analysis.details.budgets import budgets_table
from analysis.details.classes import classes_table, read_predictions
from analysis.details.repeating import Step, experiment_file, repeat_steps
from analysis.details.targets import chosen_target, targets_table, times_to_target
from analysis.details.telemetry import Strip, telemetry_strips
from analysis.details.verification import RepeatedRun, verification_sentences, verification_table
from analysis.effects import decide_effects, tabulated
from analysis.factors import baseline, factors
from analysis.frames import Recorded
from analysis.report.completeness import Grid, UnfinishedRuns, completeness, limits, unfinished_runs
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
    arms_table: Table
    """The arms and what sets them apart."""
    factors: Sequence[tuple[str, pd.Series]]
    """The factors of the experiment: the name of each, and its level for each finished run."""
    target: float
    """The top-1 to which training is timed, as a fraction."""
    times: pd.DataFrame
    """Times to that target, as `analysis.details.targets.times_to_target` returns them."""
    targets_table: Table
    """Times to that target by arm."""
    budgets_table: Table
    """Top-1 of the arms at equal cost. It has no rows if costs were not recorded or there is a single arm."""
    strips: Sequence[Strip]
    """How busy the devices were over time. It is empty if the store holds no raw telemetry."""
    classes_table: Table
    """Accuracy by class. It has no rows if no predictions were kept."""
    predictions_table: Table
    """Networks of the same seed on the same images. It has no rows if no predictions of pairs of arms were kept."""
    verification: Sequence[str]
    """Sentences on runs that were repeated elsewhere. Empty if there are none."""
    verification_table: Table
    """The metrics of those runs. It has no rows if there are none."""
    repeat: Sequence[Step]
    """The steps that repeat the experiment."""
    experiment_file: str | None
    """An experiment file that plans these runs, if one can be made."""
    completeness: Grid
    """The grid of runs."""
    unfinished: Sequence[UnfinishedRuns]
    """Runs without a final result."""
    limits: Sequence[str]
    """Sentences on what the numbers can and cannot show."""
    environment: Sequence[tuple[str, str]]
    """The environment of the runs, as pairs of a label and its value."""

    @property
    def references(self) -> str:
        """What the methods and the tables cite."""
        tables = (self.effects_table, self.sizes_table, self.targets_table, self.predictions_table)
        named = (text for table in tables if table.rows for text in (table.caption, *table.columns))
        return references([self.method, *MEASURED, *named])

    @property
    def top1_effects(self) -> pd.DataFrame:
        """The rows of `effects` with effects on top-1."""
        return _on_top1(self.effects)


def build_sections(
    recorded: Recorded, tracking_uri: str, repeated: Sequence[RepeatedRun] = (), *, commit: str = ""
) -> Sections:
    """Analyse an experiment and build the content of its report.

    Args:
        recorded: An experiment with at least one run that began. If none is finished, the report says so and shows
            what there is.
        tracking_uri: URI of the MLflow store, which the report shows without credentials.
        repeated: Runs of the experiment that were repeated elsewhere.
        commit: The commit of the code that writes the report; empty if it is not known.
    """
    finished = recorded.finished
    summary = summarise_arms(finished, recorded.arms)
    outcomes = [m for m in (schema.FINAL_TOP1, schema.FINAL_TOP5) if m in finished and finished[m].notna().all()]
    decided = {
        outcome: [] if finished.empty else decide_effects(finished, outcome, recorded.settings) for outcome in outcomes
    }
    on_top1 = decided[schema.FINAL_TOP1]
    tables = [tabulated(decisions, outcome) for outcome, decisions in decided.items()]
    all_effects = pd.concat(tables, ignore_index=True)
    top1_effects = _on_top1(all_effects)
    base = baseline(recorded.described, recorded.settings.baseline)
    target = chosen_target(recorded, base)
    times = times_to_target(recorded, target)
    predictions = read_predictions(recorded, tracking_uri)
    file = experiment_file(recorded, described_arms(recorded.note))
    return Sections(
        recorded=recorded,
        summary=summary,
        effects=all_effects,
        baseline=base,
        findings=write_findings(recorded, on_top1),
        method=describe_method(recorded, on_top1),
        tiles=tiles(recorded, summary, on_top1),
        results_table=results_table(summary),
        effects_table=effects_table(top1_effects),
        sizes_table=sizes_table(top1_effects),
        claims_table=ledger_table(as_rows(decide_all(recorded))),
        arms_table=arms_table(recorded, recorded.note),
        factors=[] if finished.empty else [(one.label, finished.apply(one.level, axis=1)) for one in factors(finished)],
        target=target,
        times=times,
        targets_table=targets_table(times, recorded, target, base),
        budgets_table=budgets_table(recorded),
        strips=telemetry_strips(recorded, tracking_uri),
        classes_table=classes_table(recorded, predictions, base),
        predictions_table=predictions_table(
            compare_predictions(on_top1, finished, {run_id: kept["correct"] for run_id, kept in predictions.items()})
        ),
        verification=verification_sentences(repeated),
        verification_table=verification_table(repeated),
        repeat=repeat_steps(recorded, has_file=file is not None, commit=commit),
        experiment_file=file,
        completeness=completeness(recorded),
        unfinished=unfinished_runs(recorded),
        limits=limits(recorded, top1_effects, images=max(map(len, predictions.values()), default=0)),
        environment=environment_rows(recorded, tracking_uri),
    )


def _on_top1(effects: pd.DataFrame) -> pd.DataFrame:
    return effects[effects["outcome"] == schema.FINAL_TOP1]
