"""Decides the contrasts of an experiment on an outcome such as top-1: each once, by one test, in one family.

If the arms are a full factorial, the contrasts are main effects and two-way interactions of its factors. Otherwise they
are the differences of the arms from the baseline. All are contrasts of the arms' means, each arm with a variance of its
own, corrected together by Holm's method.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.comparisons.sizes import correlation, equivalence, hedges_g, probability_superior
from analysis.factors import AUX, Contrast, Factor, baseline, cells, contrasts, factors
from analysis.settings import Settings
from analysis.statistics import ALPHA, NAN, Estimate, contrast, holm, mean, seeds_to_find
from analysis.tables import MINUS
from reproduce import schema

MAIN, INTERACTION, PAIRWISE = "main", "interaction", "pairwise"
HIGHER, LOWER = "higher", "lower"
EQUIVALENT = "equivalent"
NO_CLEAR_DIFFERENCE = "no clear difference"
NOT_CLEAR_AFTER_CORRECTION = "not clear after correction"
NO_INTERVAL = "no interval"
MAX_SEEDS = 1000
"""The largest number of seeds that is computed for finding a named effect."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A contrast of an experiment, its estimate and what is concluded from it."""

    kind: str
    """`MAIN`, `INTERACTION` or `PAIRWISE`."""
    effect: str
    """The factor, the two factors or the arm."""
    contrast: str
    """The compared levels or arms, for example "both − none"."""
    weights: Mapping[str, float]
    """The weight of the mean of each arm that takes part."""
    pairs: Sequence[tuple[str, str]] = ()
    """The pairs of arms that are compared: with a plus and a minus level, and equal in all else. An interaction has
    none."""
    estimate: Estimate
    """In the unit of the outcome."""
    p_holm: float = NAN
    """The p value after Holm's correction over the family."""
    family: int = 1
    """The number of contrasts that are tested together, with this one."""
    margin: float = NAN
    """The largest difference that counts as none; NaN if the experiment names none."""
    p_equivalence: float = NAN
    """The p value of the two one-sided tests against the margin, after Holm's correction over these of the family."""
    g: float = NAN
    """Hedges' g."""
    p_superior: float = NAN
    """The probability that a run with the plus level exceeds one with the minus level."""
    correlation: float = NAN
    """The correlation of the two sides over shared seeds; the mean over pairs of arms where there are several."""

    @property
    def verdict(self) -> str:
        """The result of `verdict`."""
        return verdict(self.estimate.value, self.estimate.p, self.p_holm, self.p_equivalence)

    @property
    def detectable(self) -> float:
        """The smallest true difference that would be found with a power of at least 80 %; NaN without an interval.

        Found means that it is clear after Holm's correction. The size is that of the correction's strictest level,
        that of the smallest p value of the family: the others have larger ones, and so a larger power.
        """
        return self.estimate.detectable_at(ALPHA / self.family)

    @property
    def seeds(self) -> float:
        """How many seeds would find a difference as large as the margin, as `detectable` says; NaN if unknown."""
        if math.isnan(self.margin):
            return NAN
        found = seeds_to_find(self.estimate, self.margin, at_most=MAX_SEEDS, level=ALPHA / self.family)
        return NAN if found is None else found


def decide_effects(runs: pd.DataFrame, outcome: str, settings: Settings | None = None) -> list[Decision]:
    """Decide all contrasts of an experiment on an outcome.

    The contrasts follow from the configs of the arms alone, never from results. They are compared seed by seed if the
    experiment asks for it, and arm by arm otherwise.

    Args:
        runs: At least one finished run, in the format of `analysis.frames.Recorded.finished`.
        outcome: Name of a column of `runs` without missing values.
        settings: What the experiment asks of its analysis. Its margin applies to top-1 alone.

    Returns:
        The decisions: main effects, then interactions; or the pairs, in the order of the arms.
    """
    settings = settings or Settings()
    samples = {
        str(arm): pd.Series(own[outcome].to_numpy(float), own["seed"]) for arm, own in runs.groupby("arm", sort=False)
    }
    margin = settings.margin if settings.margin is not None and outcome == schema.FINAL_TOP1 else NAN
    return corrected([_estimated(asked, samples, settings.paired) for asked in _asked(runs, settings.baseline)], margin)


def corrected(decisions: Sequence[Decision], margin: float) -> list[Decision]:
    """Correct the tests of a family together by Holm's method, and test for equivalence within a margin.

    Args:
        decisions: The family, with estimates.
        margin: The largest difference that counts as none, in the unit of the estimates; NaN if there is none.
    """
    p_values = [one.estimate.p for one in decisions]
    p_holm, tested = holm(p_values), sum(not math.isnan(p) for p in p_values)
    p_equivalence = holm([equivalence(one.estimate, margin) for one in decisions])
    return [
        replace(one, p_holm=p, family=max(tested, 1), margin=margin, p_equivalence=equivalent)
        for one, p, equivalent in zip(decisions, p_holm, p_equivalence, strict=True)
    ]


def estimate_contrast(samples: Sequence[pd.Series], weights: Sequence[float], *, paired: bool = False) -> Estimate:
    """Estimate a contrast of arms, by the one method that reports and claims share.

    Args:
        samples: The values of each arm, by seed.
        weights: The weight of each arm's mean.
        paired: Whether each seed gives one value of the contrast. Seeds that an arm lacks are then left out.
    """
    if not paired:
        return contrast([sample.to_numpy() for sample in samples], weights)
    table = pd.concat([sample.groupby(level=0).mean() for sample in samples], axis=1).dropna()
    magnitude = float(np.abs(table.to_numpy()).max(initial=0))
    found = mean(table.to_numpy() @ np.asarray(weights, dtype=float), magnitude=magnitude)
    return replace(found, n=table.size)


def _asked(runs: pd.DataFrame, named: str | None) -> list[Decision]:
    """List the contrasts of an experiment, which are not estimated yet."""
    base = baseline(runs, named)
    found = factors(runs)
    arms = cells(runs, found)
    if not arms:
        others = [str(arm) for arm in runs["arm"].unique() if arm != base]
        return [
            _unestimated(PAIRWISE, arm, f"{arm} {MINUS} {base}", {arm: 1.0, base: -1.0}, [(arm, base)])
            for arm in others
        ]
    asked = {factor: contrasts(factor, level) for factor, level in zip(found, arms[base], strict=True)}
    decisions = [
        _unestimated(
            MAIN, factor.label, own.text, _weights(arms, found, {factor: own}), _pairs(arms, found.index(factor), own)
        )
        for factor in found
        for own in asked[factor]
    ]
    for a, b in itertools.combinations(found, 2):
        for of_a, of_b in itertools.product(_primary(a, asked[a]), _primary(b, asked[b])):
            text = f"({of_a.text}) × ({of_b.text})"
            weights = _weights(arms, found, {a: of_a, b: of_b})
            decisions.append(_unestimated(INTERACTION, f"{a.label} × {b.label}", text, weights))
    return decisions


def _unestimated(
    kind: str, effect: str, text: str, weights: Mapping[str, float], pairs: Sequence[tuple[str, str]] = ()
) -> Decision:
    return Decision(kind=kind, effect=effect, contrast=text, weights=weights, pairs=pairs, estimate=Estimate(NAN, 0))


def _weights(
    arms: Mapping[str, tuple[str, ...]], found: Sequence[Factor], asked: Mapping[Factor, Contrast]
) -> dict[str, float]:
    """Compute the weights of arms in a product of contrasts, averaged with equal weights over all other factors."""
    weights = {
        arm: math.prod(
            asked[factor].weight(level) if factor in asked else 1 / len(factor.levels)
            for factor, level in zip(found, levels, strict=True)
        )
        for arm, levels in arms.items()
    }
    return {arm: weight for arm, weight in weights.items() if weight}


def _pairs(arms: Mapping[str, tuple[str, ...]], place: int, asked: Contrast) -> list[tuple[str, str]]:
    """List the pairs of arms with a plus and a minus level of the factor at this place that agree in all others."""

    def others(levels: tuple[str, ...]) -> tuple[str, ...]:
        return levels[:place] + levels[place + 1 :]

    return [
        (plus, minus)
        for plus, of_plus in arms.items()
        for minus, of_minus in arms.items()
        if of_plus[place] in asked.plus and of_minus[place] in asked.minus and others(of_plus) == others(of_minus)
    ]


def _primary(factor: Factor, asked: list[Contrast]) -> list[Contrast]:
    """Select the contrasts of a factor for interactions: the first for auxiliary classifiers, all for other factors."""
    return asked[:1] if factor.fields == (AUX,) else asked


def _estimated(asked: Decision, samples: Mapping[str, pd.Series], paired: bool) -> Decision:
    """Estimate a contrast and its size in other measures."""
    own = [samples[arm] for arm in asked.weights]
    estimate = estimate_contrast(own, list(asked.weights.values()), paired=paired)
    sides = [(samples[plus], samples[minus]) for plus, minus in asked.pairs]
    return replace(
        asked,
        estimate=estimate,
        g=hedges_g(estimate.value, [sample.to_numpy() for sample in own]),
        p_superior=_mean(probability_superior(plus, minus) for plus, minus in sides),
        correlation=_mean(_correlation(plus, minus) for plus, minus in sides),
    )


def _correlation(a: pd.Series, b: pd.Series) -> float:
    shared = pd.concat([sample.groupby(level=0).mean() for sample in (a, b)], axis=1).dropna().to_numpy()
    return correlation(shared[:, 0], shared[:, 1])


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else NAN


EFFECT_COLUMNS = [
    "outcome", "kind", "effect", "contrast", "difference", "low", "high", "p", "p_holm", "df", "n", "detectable",
    "verdict", "replicates", "g", "p_superior", "correlation", "margin", "p_equivalence", "seeds",
]  # fmt: skip
"""Columns of the frame that `effects` returns, which describes them."""


def effects(runs: pd.DataFrame, outcome: str, settings: Settings | None = None) -> pd.DataFrame:
    """Tabulate the contrasts of an experiment as `decide_effects` decides them.

    Args:
        runs: At least one finished run, in the format of `analysis.frames.Recorded.finished`.
        outcome: Name of a column of `runs` without missing values.
        settings: What the experiment asks of its analysis.

    Returns:
        A frame with one row for each contrast and the columns `EFFECT_COLUMNS`:

        - `kind`: "main" and "interaction", in this order, or "pairwise" alone.
        - `effect`: the factor, the two factors or the arm. `contrast`: the compared levels or arms.
        - `difference`, `low`, `high`: the estimate and its 95 % interval, in the unit of the outcome.
        - `p`, `p_holm`: p value without and with Holm's correction over all rows.
        - `df`, `n`: degrees of freedom and number of runs behind the estimate.
        - `detectable`: the smallest effect that would be found, after the correction, with a power of at least 80 %.
        - `verdict`: the result of `verdict`.
        - `replicates`: the number of runs of the arm that has the fewest.
        - `g`, `p_superior`, `correlation`, `margin`, `p_equivalence`, `seeds`: as in `Decision`.
    """
    return tabulated(decide_effects(runs, outcome, settings), outcome)


def tabulated(decisions: Sequence[Decision], outcome: str) -> pd.DataFrame:
    """Tabulate decisions on an outcome in the format of `effects`."""
    rows = []
    for one in decisions:
        e = one.estimate
        numbers = (e.value, e.low, e.high, e.p, one.p_holm, e.df, e.n, one.detectable)
        sizes = (e.replicates, one.g, one.p_superior, one.correlation, one.margin, one.p_equivalence, one.seeds)
        rows.append((outcome, one.kind, one.effect, one.contrast, *numbers, one.verdict, *sizes))
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


def verdict(difference: float, p: float, p_holm: float, p_equivalence: float = NAN) -> str:
    """Express a difference in words.

    Args:
        difference: The estimated difference.
        p: Its p value without correction, NaN if it has none.
        p_holm: Its p value after Holm's correction.
        p_equivalence: The corrected p value of its equivalence within a margin, NaN if there is no margin.

    Returns:
        `HIGHER` or `LOWER` if `p_holm` is below `ALPHA`, also if the difference is below the margin. Otherwise,
        `EQUIVALENT` if `p_equivalence` is below `ALPHA`, `NOT_CLEAR_AFTER_CORRECTION` if only `p` is,
        `NO_CLEAR_DIFFERENCE` if none is, and `NO_INTERVAL` if `p` is NaN: there are too few runs, or they have no
        spread.
    """
    if math.isnan(p):
        return NO_INTERVAL
    if p_holm < ALPHA:
        return HIGHER if difference > 0 else LOWER
    if p_equivalence < ALPHA:
        return EQUIVALENT
    return NOT_CLEAR_AFTER_CORRECTION if p < ALPHA else NO_CLEAR_DIFFERENCE
