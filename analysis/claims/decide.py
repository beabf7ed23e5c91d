"""From recorded runs and evaluations to findings: measures what a claim is about and compares it with the claim."""

from __future__ import annotations

import math

import pandas as pd

from analysis.claims import evaluations, runs
from analysis.frames import Recorded
from analysis.statistics import Estimate, Ratio, seeds_needed
from reproduce.claims.ledger import Claim, Part, load_ledger
from reproduce.claims.verdicts import (
    MAX_SEEDS,
    Finding,
    NotMeasured,
    PartFinding,
    Verdict,
    bounds,
    compare_value,
    deviation,
    expectation,
    find,
    not_measured,
)

EMPIRICAL = dict(runs.MEASUREMENTS)
"""Measurements on the recorded runs of an experiment, by the names that the ledger uses."""
EVALUATED = dict(evaluations.MEASUREMENTS)
"""Measurements on a frame of evaluations, by the names that the ledger uses."""

MIN_SEEDS = 3
"""With fewer seeds, no interval decides a claim."""
IMAGENET_SUFFIX = "-imagenet"
"""Ends the name of the ImageNet version of an experiment that a claim names."""


def decide(claim: Claim, recorded: Recorded) -> Finding:
    """Decide a claim whose measurement is one of `EMPIRICAL`, from the runs of an experiment."""
    if recorded.finished.empty:
        return not_measured(claim, f"{recorded.experiment} has no finished run")
    try:
        return find(claim, EMPIRICAL[str(claim.measurement)](recorded), compare)
    except NotMeasured as reason:
        return not_measured(claim, str(reason))


def decide_by_evaluations(claim: Claim, table: pd.DataFrame) -> Finding:
    """Decide a claim whose measurement is one of `EVALUATED`, from a frame with one row for each evaluation."""
    try:
        return find(claim, EVALUATED[str(claim.measurement)](table), compare_value)
    except NotMeasured as reason:
        return not_measured(claim, str(reason))


def decide_all(recorded: Recorded) -> list[Finding]:
    """Decide the claims that an experiment is made for: those that name it, or that name its small version for CPUs."""
    name = recorded.experiment.removesuffix(IMAGENET_SUFFIX)
    claims = [c for c in load_ledger().claims if c.experiment == name and c.measurement in EMPIRICAL]
    return [decide(claim, recorded) for claim in claims]


def compare(part: Part, value: float | Estimate | Ratio) -> PartFinding:
    """Compare what runs gave with a part of a claim.

    An estimate holds where its whole interval lies within the part's bounds, and fails where its whole interval lies
    outside them. Otherwise there are not enough runs. A plain number is compared as it is.
    """
    if not isinstance(value, Estimate | Ratio):
        return compare_value(part, value)
    low, high = bounds(part)
    if value.n < MIN_SEEDS:
        verdict, more = Verdict.NOT_ENOUGH, MIN_SEEDS - value.n
    elif low <= value.low and value.high <= high:
        verdict, more = Verdict.HOLDS, 0
    elif value.high < low or value.low > high:
        verdict, more = Verdict.FAILS, 0
    else:
        distance = min(abs(value.value - bound) for bound in (low, high))
        verdict, more = Verdict.NOT_ENOUGH, seeds_needed(value, distance, at_most=MAX_SEEDS)
    return PartFinding(
        name=part.label,
        expected=expectation(part),
        measured=f"{value.value:.4g} [{value.low:.4g}, {value.high:.4g}], n = {value.n}",
        value=_fields(value),
        deviation=deviation(part, value.value),
        verdict=verdict,
        more=more,
        note=part.note,
    )


def _fields(estimate: Estimate | Ratio) -> dict[str, float | None]:
    """An estimate for programs; JSON has no NaN."""
    names = ("value", "low", "high", "n", "detectable")
    values = (getattr(estimate, name) for name in names)
    return {name: None if math.isnan(value) else value for name, value in zip(names, values, strict=True)}
