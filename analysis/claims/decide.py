"""Decides claims from recorded runs, evaluations and benchmarks: measures their values and compares them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.claims import benchmarks, evaluations, runs
from analysis.claims.pairs import sample_size
from analysis.claims.rules import LEVEL, any_of, levels, p_outside, p_within, row_shown
from analysis.claims.scope import dating, first_start, floor, scope
from analysis.frames import Recorded
from analysis.statistics import Estimate, Ratio, holm, seeds_needed
from analysis.tables import DASH, counted
from reproduce.claims.design import Design
from reproduce.claims.ledger import Claim, Part, Value, load_ledger
from reproduce.claims.verdicts import (
    MAX_SEEDS,
    Finding,
    Measured,
    NotMeasured,
    PartFinding,
    Verdict,
    bounds,
    combined,
    compare_value,
    deviation,
    expectation,
    find,
    not_measured,
    summed_up,
    value_of,
)

EMPIRICAL = dict(runs.MEASUREMENTS)
"""Measurements on the recorded runs of an experiment, by the name that the ledger uses."""
EVALUATED = dict(evaluations.MEASUREMENTS)
"""Measurements on a frame of evaluations, by the name that the ledger uses."""
BENCHMARKED = dict(benchmarks.MEASUREMENTS)
"""Measurements on results of benchmarks, by the name that the ledger uses."""

MIN_SEEDS = 3
"""The smallest number of seeds with which an interval decides a claim."""
IMAGENET_SUFFIX = "-imagenet"
"""Ending of the names of experiments on ImageNet. Without it, the name is that of the small version for CPUs."""
Given = float | Estimate | Ratio | None
"""A value measured on runs. None was not measured."""


@dataclass(frozen=True)
class _Tested:
    """A part with its finding and the p values that show it and its opposite; NaN if the opposite has no test."""

    finding: PartFinding
    holds: float
    fails: float


def decide(claim: Claim, recorded: Recorded) -> Finding:
    """Decide a claim from the runs of an experiment.

    If the claim has a design and the runs are those of its experiment, it is judged at each look of the design that is
    complete, at the level that this look spends, until it is decided. Otherwise it is judged once, by all runs, at the
    level of an end of the 95 % interval.

    Args:
        claim: A claim whose measurement is one of `EMPIRICAL`.
        recorded: The runs of the experiment, as `analysis.frames.read` returns them.

    Returns:
        The finding. Its verdict is "not measured here" or, of a claim with a design, "not measured yet" if no run is
        finished or the runs do not suffice.

    Raises:
        SpecError: A part of the claim names a value that the measurement does not return.
    """
    if recorded.finished.empty:
        return not_measured(claim, f"{recorded.experiment} has no finished run")
    others = [f"{counted(recorded.others, 'run')} of other plans left out"] if recorded.others else []
    design = claim.design if recorded.experiment == claim.experiment else None
    seeds = [] if design is None else _common_seeds(recorded, design)
    recorded = recorded if design is None else _of_design(recorded, design)
    if recorded.finished.empty:
        return not_measured(claim, f"{recorded.experiment} has no finished run of the arms of the design")
    try:
        finding = _judged(claim, recorded, LEVEL) if design is None else _by_design(claim, recorded, design, seeds)
    except NotMeasured as reason:
        return not_measured(claim, "; ".join([str(reason), *others]))
    further = [floor(recorded), *others]
    return replace(
        finding,
        evidence="; ".join([finding.evidence, *filter(None, further)]),
        scope=scope(recorded),
        design="" if design is None else dating(design, first_start(recorded)),
    )


def _of_design(recorded: Recorded, design: Design) -> Recorded:
    """Select the runs of the arms of a design, to be compared as it says; the report keeps its own method."""
    return replace(
        recorded,
        runs=recorded.runs[recorded.runs["arm"].isin(design.arms)],
        epochs=recorded.epochs[recorded.epochs["arm"].isin(design.arms)],
        settings=replace(recorded.settings, paired=design.paired),
        part_of=recorded,
    )


def _by_design(claim: Claim, recorded: Recorded, design: Design, seeds: Sequence[int]) -> Finding:
    """Judge a claim at the looks of its design that are complete, until it is decided.

    Args:
        claim: The claim.
        recorded: The runs of the design's arms.
        design: The design.
        seeds: The seeds that are finished in all arms.
    """
    finding, rule = None, ""
    for look, level in zip(design.looks, levels(design), strict=True):
        if look > len(seeds):
            rest = f"the next look of the design is at {look} seeds, {counted(len(seeds), 'seed')} are complete"
            break
        chosen = recorded.runs["seed"].isin(seeds[:look])
        epochs = recorded.epochs["seed"].isin(seeds[:look])
        own = replace(recorded, runs=recorded.runs[chosen], epochs=recorded.epochs[epochs])
        finding = _judged(claim, own, level, asks=False)
        if finding.verdict is not Verdict.NOT_ENOUGH:
            return replace(finding, evidence=f"{finding.evidence}; {_rule(recorded, design, look, level)}")
        rule = _rule(recorded, design, look, level)
    else:
        assert finding is not None, "a design has at least one look"
        return _undecided(replace(finding, evidence=f"{finding.evidence}; {rule}"), design.looks[-1])
    if finding is None:
        finding = replace(_judged(claim, recorded, 0.0, asks=False), verdict=Verdict.NOT_ENOUGH)
        rule = _method(recorded, design)
    return replace(finding, evidence="; ".join(filter(None, (rest, finding.evidence, rule))))


def _rule(recorded: Recorded, design: Design, look: int, level: float) -> str:
    """Say by which rule a design decided at a look, and how it differs from the report's."""
    finished = recorded.finished["seed"].nunique()
    first = f"the first {look} of {finished} seeds" if finished > look else counted(look, "seed")
    rule = (
        f"judged by its own design: each part in one direction at the level {level:.3g} (two-sided {2 * level:.3g}) "
        f"at {first}, not corrected for other contrasts"
    )
    return "; ".join(filter(None, (rule, _method(recorded, design))))


def _method(recorded: Recorded, design: Design) -> str:
    """Say how a design compares arms, if the report compares them otherwise; empty if it does not."""
    if recorded.part_of is None or recorded.part_of.settings.paired == design.paired:
        return ""
    own, other = ("seed by seed", "arm by arm") if design.paired else ("arm by arm", "seed by seed")
    return f"compared {own}, as its design says, where the report compares {other}, so that intervals and p differ"


def _undecided(finding: Finding, seeds: int) -> Finding:
    """Return the finding at the last look of a design, whose open parts no further runs will decide."""
    parts = tuple(
        replace(part, verdict=Verdict.UNDECIDED, more=0) if part.verdict is Verdict.NOT_ENOUGH else part
        for part in finding.parts
    )
    evidence = f"undecided at {seeds} seeds, the last look of the design; {finding.evidence}"
    return replace(finding, verdict=Verdict.UNDECIDED, evidence=evidence, parts=parts)


def _common_seeds(recorded: Recorded, design: Design) -> list[int]:
    """List the seeds that are finished in all arms of a design, in ascending order."""
    finished = recorded.finished
    own = [set(finished.loc[finished["arm"].eq(arm), "seed"]) for arm in (*design.arms, *design.awaits)]
    return sorted(set.intersection(*own))


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
        return find(claim, EVALUATED[str(claim.measurement)](table))
    except NotMeasured as reason:
        return not_measured(claim, str(reason))


def decide_by_benchmarks(claim: Claim, results: Sequence[dict[str, Any]]) -> Finding:
    """Decide a claim from results of benchmarks, whose implementations took turns.

    Args:
        claim: A claim whose measurement is one of `BENCHMARKED`.
        results: The results as their files hold them, those of one kind of machine after those of another.

    Returns:
        The finding. If the benchmark was not made, its verdict is "not measured here".

    Raises:
        SpecError: A part of the claim names a value that the measurement does not return.
    """
    try:
        found = BENCHMARKED[str(claim.measurement)](results)
    except NotMeasured as reason:
        return not_measured(claim, str(reason))
    return replace(judge(claim, found, LEVEL), scope=benchmarks.scope(results))


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


def _judged(claim: Claim, recorded: Recorded, level: float, *, asks: bool = True) -> Finding:
    return judge(claim, EMPIRICAL[str(claim.measurement)](recorded), level, asks=asks)


def judge(claim: Claim, measured: Measured[Any], level: float = LEVEL, *, asks: bool = True) -> Finding:
    """Judge a claim by measured values.

    It holds if all parts are shown. It does not hold if the opposite of one part is shown, corrected by Holm's method
    over the parts that are tested; what is counted exactly needs no test. Of the parts of one alternative, one has to
    be shown (with Holm's correction), and the opposite of all.

    Args:
        claim: A row of the ledger.
        measured: The result of its measurement.
        level: The level of a test in one direction.
        asks: Whether the evidence of an undecided claim says how many further seeds are needed.

    Raises:
        SpecError: A part names a value that the measurement does not return.
    """
    tested = [_tested(part, value_of(claim, part, measured.values), level) for part in claim.parts]
    names = [one.finding.one_of or f"part {place}" for place, one in enumerate(tested)]
    units = {name: [one for own, one in zip(names, tested, strict=True) if own == name] for name in names}
    fails = [max(one.fails for one in own) for own in units.values()]
    shown, refuted = row_shown([any_of([one.holds for one in own]) for own in units.values()], fails, level)
    adjusted = dict(zip(units, holm(fails), strict=True))
    parts = [_corrected(one, adjusted[name], len(units[name]), level) for name, one in zip(names, tested, strict=True)]
    if refuted or any(one.finding.verdict is Verdict.FAILS and math.isnan(one.fails) for one in tested):
        verdict = Verdict.FAILS
    elif shown:
        verdict = Verdict.HOLDS
    else:
        verdict = Verdict.NOT_MEASURED if combined(parts) is Verdict.NOT_MEASURED else Verdict.NOT_ENOUGH
    return summed_up(claim, measured, parts, verdict, asks=asks)


def _corrected(one: _Tested, adjusted: float, alternatives: int, level: float) -> PartFinding:
    """Return the finding on a part after the corrections within its row.

    Args:
        one: The part.
        adjusted: The p value of its opposite after Holm's correction; NaN if it has no test.
        alternatives: The number of parts of which one has to be shown, with this part.
        level: The level of a test in one direction.
    """
    part = one.finding
    unclear = (
        alternatives * one.holds > level
        if part.verdict is Verdict.HOLDS
        else part.verdict is Verdict.FAILS and alternatives == 1 and adjusted > level
    )
    return replace(part, verdict=Verdict.NOT_ENOUGH, more=max(1, part.more)) if unclear else part


def compare(part: Part, value: Given, level: float = LEVEL) -> PartFinding:
    """Compare a value measured on runs with a part of a claim.

    An estimate holds if one-sided tests show that the true value lies within the part's bounds, and does not hold if
    one shows that it lies outside. At the default level and with one bound, these are the questions whether the whole
    95 % interval lies within the bound, or outside it. Otherwise, and with fewer than `MIN_SEEDS` seeds, the verdict is
    that there are not enough runs, and `PartFinding.more` is the number of further seeds that are needed. A plain
    number is compared by `compare_value`.

    Args:
        part: A part of a claim.
        value: The measured value, in the unit of the part.
        level: The level of a test in one direction.
    """
    return _tested(part, value, level).finding


def _tested(part: Part, value: Given | Value, level: float) -> _Tested:
    if value is None:
        finding = PartFinding(
            name=part.label, expected=expectation(part), measured="", value={}, verdict=Verdict.NOT_MEASURED,
            note=part.note, half=part.half, one_of=part.one_of,
        )  # fmt: skip
        return _Tested(finding, 1.0, math.nan)
    if not isinstance(value, Estimate | Ratio):
        finding = compare_value(part, value)
        return _Tested(finding, float(finding.verdict is not Verdict.HOLDS), math.nan)
    low, high = bounds(part)
    holds, fails = _p_values(value, low, high)
    more = 0
    if value.replicates < MIN_SEEDS:
        verdict, more = Verdict.NOT_ENOUGH, MIN_SEEDS - value.replicates
    elif holds <= level:
        verdict = Verdict.HOLDS
    elif fails <= level:
        verdict = Verdict.FAILS
    else:
        distance = min(abs(value.value - bound) for bound in (low, high))
        verdict, more = Verdict.NOT_ENOUGH, seeds_needed(value, distance, at_most=MAX_SEEDS)
    finding = PartFinding(
        name=part.label,
        expected=expectation(part),
        measured=f"{_text(value)}, n = {sample_size(value)}",
        value=_fields(value),
        deviation=deviation(part, value.value),
        verdict=verdict,
        more=more,
        note=part.note,
        half=part.half,
        one_of=part.one_of,
    )
    return _Tested(finding, holds, fails)


def _p_values(value: Estimate | Ratio, low: float, high: float) -> tuple[float, float]:
    """Compute the p values that show a true value within bounds and outside them; 1 without an interval."""
    log = value.log if isinstance(value, Ratio) else value
    if isinstance(value, Ratio):
        low, high = (math.log(bound) if bound > 0 else -math.inf for bound in (low, high))
    if math.isnan(value.low) or value.replicates < MIN_SEEDS:
        return 1.0, 1.0
    return tuple(float(p(log.value, log.se, log.df, low, high)) for p in (p_within, p_outside))  # type: ignore[return-value]


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
