"""Rules of decision err as seldom as they say: simulated at true boundaries, with equal and with unequal spreads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import special

from analysis.claims.decide import judge
from analysis.claims.rules import LEVEL, all_of, any_of, levels, p_outside, p_within, row_shown, spend
from analysis.statistics import Estimate, contrast
from reproduce.claims.design import Design
from reproduce.claims.ledger import Claim
from reproduce.claims.verdicts import Measured, Verdict

SIMULATIONS = 20_000
MOST = 0.05
ABOVE_0 = (0.0, math.inf)
BELOW_MARGIN = (-math.inf, 0.5)
WITHIN = (0.0, 1.0)
Estimates = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Value, standard error and degrees of freedom of each simulation."""
Shown = tuple[np.ndarray, np.ndarray]
SETTINGS = list(product((3, 5, 10), (1.0, 5.0)))
"""Seeds of each arm, and the spread of the first arm as a multiple of the others'."""


def arms(means: Sequence[float], seeds: int, spread: float, deviation: float = 1.0) -> list[np.ndarray]:
    """Runs of arms, [simulations, seeds] each."""
    generator = np.random.default_rng([seeds, int(spread), len(means), int(100 * deviation)])
    deviations = [deviation * spread, *([deviation] * (len(means) - 1))]
    return [generator.normal(m, d, (SIMULATIONS, seeds)) for m, d in zip(means, deviations, strict=True)]


def less(a: np.ndarray, b: np.ndarray) -> Estimates:
    """Welch's estimates of the difference of two arms, one for each simulation."""
    variances = [arm.var(axis=1, ddof=1) / arm.shape[1] for arm in (a, b)]
    total = variances[0] + variances[1]
    df = total**2 / sum(v**2 / (arm.shape[1] - 1) for v, arm in zip(variances, (a, b), strict=True))
    return a.mean(axis=1) - b.mean(axis=1), np.sqrt(total), df


def one(found: Estimates, bounds: tuple[float, float], level: float = LEVEL) -> Shown:
    return row_shown([p_within(*found, *bounds)], [p_outside(*found, *bounds)], level)


def at_most(shown: Shown, most: float = MOST) -> None:
    holds, fails = (float(array.mean()) for array in shown)
    assert max(holds, fails) <= most, (holds, fails)


def test_simulated_estimates_are_those_of_the_statistics() -> None:
    a, b = arms([1.0, 0.0], 4, 5.0)
    value, se, df = less(a, b)
    for number in range(3):
        expected = contrast([a[number], b[number]], [1, -1])
        assert [value[number], se[number], df[number]] == pytest.approx([expected.value, expected.se, expected.df])


@pytest.mark.parametrize(("seeds", "spread"), SETTINGS)
def test_intervals_cover_the_true_value(seeds: int, spread: float) -> None:
    value, se, df = less(*arms([1.0, 0.0], seeds, spread))
    covered = np.abs(value - 1) <= se * special.stdtrit(df, 0.975)
    assert 0.93 <= covered.mean() <= 0.985


@pytest.mark.parametrize(("seeds", "spread"), SETTINGS)
def test_one_bound_and_a_margin_err_seldom_at_the_boundary(seeds: int, spread: float) -> None:
    at_most(one(less(*arms([0.0, 0.0], seeds, spread)), ABOVE_0))
    at_most(one(less(*arms([0.5, 0.0], seeds, spread)), BELOW_MARGIN))


@pytest.mark.parametrize("true", WITHIN)
@pytest.mark.parametrize("deviation", [0.05, 0.3, 3.0])
@pytest.mark.parametrize(("seeds", "spread"), SETTINGS)
def test_two_bounds_err_seldom_at_each_of_them(seeds: int, spread: float, deviation: float, true: float) -> None:
    at_most(one(less(*arms([true, 0.0], seeds, spread, deviation)), WITHIN))


@pytest.mark.parametrize(("seeds", "spread"), SETTINGS)
def test_one_of_two_heads_errs_seldom_although_the_better_one_is_chosen(seeds: int, spread: float) -> None:
    both, aux1, aux2 = arms([0.5, 0.0, 0.0], seeds, spread)
    found = [less(both, aux1), less(both, aux2)]
    holds = any_of([p_within(*own, *BELOW_MARGIN) for own in found])
    fails = all_of([p_outside(*own, *BELOW_MARGIN) for own in found])
    at_most(row_shown([holds], [fails], LEVEL))


@pytest.mark.parametrize("others", [0.0, 100.0])
@pytest.mark.parametrize(("seeds", "spread"), SETTINGS)
def test_a_row_of_several_parts_errs_seldom(seeds: int, spread: float, others: float) -> None:
    """With the other parts at their boundary, where any may fail, and far inside, where one decides alone."""
    mixed, *singles = arms([0.0, 0.0, -others, -others], seeds, spread)
    found = [less(mixed, single) for single in singles]
    at_most(row_shown([p_within(*own, *ABOVE_0) for own in found], [p_outside(*own, *ABOVE_0) for own in found], LEVEL))


def test_without_a_correction_a_row_of_three_parts_would_fail_too_often() -> None:
    mixed, *singles = arms([0.0, 0.0, 0.0, 0.0], 10, 1.0)
    smallest = np.min([p_outside(*less(mixed, single), *ABOVE_0) for single in singles], axis=0)
    assert (smallest <= LEVEL).mean() > MOST


def design(**changes: Any) -> Design:
    given = {"arms": ["a", "b"], "looks": [3, 6], "resolution": 64, "epochs": [6], "spending": "pocock"}
    return Design.model_validate({**given, "written": "2026-11-27T09:00:00+00:00", **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"spending": "obrien-fleming"},
        {"looks": [6, 12], "spending": [0.015, 0.010]},
        {"looks": [3, 4, 5, 6]},
        {"sided": "one", "alpha": 0.025},
    ],
)
@pytest.mark.parametrize("spread", [1.0, 5.0])
def test_a_rule_with_several_looks_errs_seldom_over_all_of_them(changes: dict[str, Any], spread: float) -> None:
    made = design(**changes)
    a, b = arms([0.0, 0.0], made.looks[-1], spread)
    decided = np.zeros(SIMULATIONS, dtype=bool)
    total = [0.0, 0.0]
    for look, level in zip(made.looks, levels(made), strict=True):
        shown = one(less(a[:, :look], b[:, :look]), ABOVE_0, level)
        for place, own in enumerate(shown):
            total[place] += float((own & ~decided).mean())
        decided |= shown[0] | shown[1]
    assert max(total) <= made.level * 1.3  # Welch's test at 3 seeds with five times the spread is a little liberal


@pytest.mark.parametrize("function", ["obrien-fleming", "pocock"])
def test_a_spending_function_spends_the_whole_level_and_never_less_than_before(function: Any) -> None:
    spent = [spend(function, share, 0.025) for share in (0.25, 0.5, 0.75, 1.0)]
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(0.025)
    assert sum(levels(design(spending=function, looks=[3, 6, 9, 12]))) == pytest.approx(0.025)


def test_spending_is_that_of_published_tables() -> None:
    """Lan and DeMets 1983, one-sided 0.025, half of the information."""
    assert spend("obrien-fleming", 0.5, 0.025) == pytest.approx(0.00153, abs=1e-5)
    assert spend("pocock", 0.5, 0.025) == pytest.approx(0.01550, abs=1e-5)


@pytest.mark.parametrize(
    ("value", "verdict", "parts"),
    [
        ((3.0, 3.0), Verdict.HOLDS, ["holds", "holds"]),
        ((3.0, -3.0), Verdict.FAILS, ["holds", "does not hold"]),
        ((0.1, 3.0), Verdict.NOT_ENOUGH, ["not enough runs", "holds"]),
    ],
)
def test_the_ledger_is_judged_by_these_rules(value: tuple[float, float], verdict: Verdict, parts: list[str]) -> None:
    row = _row({"of": "a", "at_least": 0}, {"of": "b", "at_least": 0})
    found = judge(row, Measured(values=_estimates(a=value[0], b=value[1]), summary="", evidence=""))
    assert (found.verdict, [part.verdict for part in found.parts]) == (verdict, parts)


def test_a_part_that_fails_only_without_the_correction_is_undecided() -> None:
    """A one-sided p of 0.02 is below the level of 0.025 and, doubled, above it."""
    row = _row({"of": "a", "at_least": 0}, {"of": "b", "at_least": 0})
    critical = float(special.stdtrit(8, 0.98))
    values = {"a": _estimate(-critical), "b": _estimate(0.0)}
    found = judge(row, Measured(values=values, summary="", evidence=""))
    assert (found.verdict, found.parts[0].verdict) == (Verdict.NOT_ENOUGH, Verdict.NOT_ENOUGH)
    alone = judge(_row({"of": "a", "at_least": 0}), Measured(values=values, summary="", evidence=""))
    assert alone.verdict is Verdict.FAILS


@pytest.mark.parametrize(
    ("aux1", "aux2", "verdict"),
    [(-3.0, 9.0, Verdict.HOLDS), (9.0, 9.0, Verdict.FAILS), (0.6, 9.0, Verdict.NOT_ENOUGH)],
)
def test_of_alternatives_one_has_to_hold_and_all_have_to_fail(aux1: float, aux2: float, verdict: Verdict) -> None:
    head = {"at_most": 0.5, "one_of": "a single head", "half": "one is enough"}
    row = _row({"of": "a", **head}, {"of": "b", **head})
    found = judge(row, Measured(values=_estimates(a=aux1, b=aux2), summary="", evidence=""))
    assert found.verdict is verdict
    assert found.halves == {"one is enough": verdict}


def _row(*parts: dict[str, Any]) -> Claim:
    words = dict.fromkeys(("statement", "claimed", "rule", "protocol", "needs"), "x")
    given = {"id": "S-one", "kind": "empirical", "source": {"document": "S"}, "measurement": "m", "parts": parts}
    return Claim.model_validate({**words, **given})


def _estimate(t: float) -> Estimate:
    """An estimate of five seeds with a standard error of 1."""
    return Estimate(t, 10, se=1.0, df=8.0, replicates=5)


def _estimates(**values: float) -> dict[str, Any]:
    return {name: _estimate(value) for name, value in values.items()}
