"""Decides claims from recorded runs and evaluations: measures the values of a claim and compares them with it."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from analysis.claims import evaluations, runs
from analysis.claims.pairs import sample_size
from analysis.frames import Recorded
from analysis.statistics import Estimate, Ratio, seeds_needed
from analysis.tables import DASH, counted
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
"""Measurements on the recorded runs of an experiment, by the name that the ledger uses."""
EVALUATED = dict(evaluations.MEASUREMENTS)
"""Measurements on a frame of evaluations, by the name that the ledger uses."""

MIN_SEEDS = 3
"""The smallest number of seeds with which an interval decides a claim."""
IMAGENET_SUFFIX = "-imagenet"
"""Ending of the names of experiments on ImageNet. Without it, the name is that of the small version for CPUs."""


def decide(claim: Claim, recorded: Recorded) -> Finding:
    """Decide a claim from the runs of an experiment.

    Args:
        claim: A claim whose measurement is one of `EMPIRICAL`.
        recorded: The runs of the experiment, as `analysis.frames.read` returns them.

    Returns:
        The finding. Its verdict is "not measured here" if no run is finished or the runs do not suffice.

    Raises:
        SpecError: A part of the claim names a value that the measurement does not return.
    """
    if recorded.finished.empty:
        return not_measured(claim, f"{recorded.experiment} has no finished run")
    others = [f"{counted(recorded.others, 'run')} of other plans left out"] if recorded.others else []
    try:
        finding = find(claim, EMPIRICAL[str(claim.measurement)](recorded), compare)
    except NotMeasured as reason:
        return not_measured(claim, "; ".join([str(reason), *others]))
    return replace(finding, evidence="; ".join([finding.evidence, *others]))


def decide_by_evaluations(claim: Claim, table: pd.DataFrame) -> Finding:
    """Decide a claim from evaluations.

    Args:
        claim: A claim whose measurement is one of `EVALUATED`.
        table: One row for each evaluation, oldest first, with the columns of
            `bench.records.evaluations.evaluation_table`. It may be empty.

    Returns:
        The finding. If evaluations that the measurement needs are missing, its verdict is "not measured here" and its
        evidence says what is missing.

    Raises:
        SpecError: A part of the claim names a value that the measurement does not return.
    """
    try:
        return find(claim, EVALUATED[str(claim.measurement)](table), compare_value)
    except NotMeasured as reason:
        return not_measured(claim, str(reason))


def decide_all(recorded: Recorded) -> list[Finding]:
    """Decide all claims of the shipped ledger that belong to an experiment.

    These are the claims that name the experiment and are decided from runs. For an experiment whose name ends in
    `IMAGENET_SUFFIX`, they are the claims that name its small version for CPUs.

    Args:
        recorded: The runs of the experiment, as `analysis.frames.read` returns them.

    Returns:
        The findings in the order of the ledger. The list is empty if no claim belongs to the experiment.
    """
    name = recorded.experiment.removesuffix(IMAGENET_SUFFIX)
    claims = [c for c in load_ledger().claims if c.experiment == name and c.measurement in EMPIRICAL]
    return [decide(claim, recorded) for claim in claims]


def compare(part: Part, value: float | Estimate | Ratio) -> PartFinding:
    """Compare a value measured on runs with a part of a claim.

    An estimate holds if its whole interval lies within the part's bounds, and does not hold if its whole interval lies
    outside them. Otherwise, and with fewer than `MIN_SEEDS` seeds, the verdict is that there are not enough runs, and
    `PartFinding.more` is the number of further seeds that are needed. A plain number is compared by `compare_value`.

    Args:
        part: A part of a claim.
        value: The measured value, in the unit of the part.
    """
    if not isinstance(value, Estimate | Ratio):
        return compare_value(part, value)
    low, high = bounds(part)
    if value.replicates < MIN_SEEDS:
        verdict, more = Verdict.NOT_ENOUGH, MIN_SEEDS - value.replicates
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
        measured=f"{_text(value)}, n = {sample_size(value)}",
        value=_fields(value),
        deviation=deviation(part, value.value),
        verdict=verdict,
        more=more,
        note=part.note,
    )


def _text(estimate: Estimate | Ratio) -> str:
    """Format a value with its interval, for example "1.5 [1, 2]"."""
    value = DASH if math.isnan(estimate.value) else f"{estimate.value:.4g}"
    if math.isnan(estimate.low):
        return f"{value} (no interval)"
    return f"{value} [{estimate.low:.4g}, {estimate.high:.4g}]"


def _fields(estimate: Estimate | Ratio) -> dict[str, float | None]:
    """Convert an estimate to plain data, with None for NaN and infinity, which JSON lacks."""
    names = ("value", "low", "high", "n", "detectable")
    values = (getattr(estimate, name) for name in names)
    return {name: value if math.isfinite(value) else None for name, value in zip(names, values, strict=True)}
