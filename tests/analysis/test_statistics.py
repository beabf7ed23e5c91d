"""Estimates agree with scipy's tests and have the power that they claim."""

from __future__ import annotations

import math
import random
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis import statistics


def test_mean_has_students_interval() -> None:
    values = [0.71, 0.74, 0.70, 0.73]
    estimate = statistics.mean(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_one_value_has_no_interval() -> None:
    estimate = statistics.mean([0.7])
    assert estimate.value == 0.7
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.p)
    assert math.isnan(statistics.welch([0.7], [0.6, 0.65]).low)


def test_welch_agrees_with_scipy() -> None:
    a, b = [0.70, 0.72, 0.75], [0.60, 0.69, 0.71, 0.66]
    estimate = statistics.welch(a, b)
    reference = stats.ttest_ind(a, b, equal_var=False)
    interval = reference.confidence_interval(0.95)
    assert estimate.p == pytest.approx(reference.pvalue)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))


def test_arms_whose_seeds_agree_exactly_have_no_interval() -> None:
    draw = random.Random(0)
    for _ in range(1200):
        value, other = draw.random(), draw.random()
        few, many = draw.randint(2, 10), draw.randint(2, 10)
        for estimate in (
            statistics.mean([value] * few),
            statistics.welch([value] * few, [value] * many),
            statistics.welch([value] * few, [other] * many),
        ):
            assert math.isnan(estimate.p)
            assert math.isnan(estimate.low)
            assert not statistics.is_clear(estimate)
        assert statistics.mean([value] * few).value == value


def test_a_residue_of_rounding_is_no_spread() -> None:
    accuracies = [(0.1 + 0.1 * seed, 0.4 + 0.1 * seed) for seed in range(3)]
    differences = [100 * b - 100 * a for a, b in accuracies]
    assert len(set(differences)) > 1
    assert math.isnan(statistics.mean(differences, magnitude=60).low)
    assert not math.isnan(statistics.mean([0.5, 0.5, 0.50002]).low)  # one image of 50 000


def test_an_arm_without_spread_is_compared_by_the_spread_of_the_other() -> None:
    estimate = statistics.welch([0.5] * 3, [0.6, 0.7, 0.65])
    assert (estimate.df, estimate.se) == pytest.approx((2, statistics.mean([0.6, 0.7, 0.65]).se))


FINITE = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=0, max_size=6)


@given(a=FINITE, b=FINITE)
def test_any_finite_values_have_a_whole_interval_or_none(a: list[float], b: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for estimate in (statistics.mean(a), statistics.welch(a, b)):
            known = [not math.isnan(x) for x in (estimate.low, estimate.high, estimate.p, estimate.detectable)]
            assert all(known) or not any(known)
            if known[0]:
                assert estimate.low <= estimate.value <= estimate.high
                assert 0 <= estimate.p <= 1
        factor = statistics.ratio(a)
        assert math.isnan(factor.value) == (not a)
        assert statistics.seeds_needed(factor, 0.1, at_most=9) >= 1
    if a:
        assert min(a) <= statistics.mean(a).value <= max(a)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_values_that_are_not_finite_have_no_mean(value: float) -> None:
    assert math.isnan(statistics.mean([0.5, value]).value)
    assert math.isnan(statistics.welch([0.5, value], [0.5, 0.6]).p)


def test_holm_steps_down_and_ignores_what_was_not_tested() -> None:
    adjusted = statistics.holm([0.01, math.nan, 0.04, 0.03])
    assert adjusted[0] == pytest.approx(0.03)
    assert math.isnan(adjusted[1])
    assert adjusted[2:] == pytest.approx([0.06, 0.06])


@pytest.mark.parametrize(("n", "welch", "main"), [(3, 3.07, 1.85), (5, 2.03, 1.34), (10, 1.33, 0.91)])
def test_detectable_effects_in_seed_deviations(n: int, welch: float, main: float) -> None:
    assert statistics.detectable(math.sqrt(2 / n), 2 * (n - 1)) == pytest.approx(welch, abs=0.01)
    assert statistics.detectable(math.sqrt(1 / n), 4 * (n - 1)) == pytest.approx(main, abs=0.01)


def test_detectable_effect_is_found_with_that_power() -> None:
    noncentrality = statistics.detectable(1, 8)
    assert stats.nct.sf(stats.t.ppf(0.975, 8), 8, noncentrality) == pytest.approx(0.8, abs=1e-4)


def test_a_ratio_is_an_estimate_of_the_logarithm() -> None:
    logarithms = np.log([1.1, 1.3, 1.2, 1.25])
    log, factor = statistics.mean(logarithms), statistics.ratio(logarithms)
    assert factor.value == pytest.approx(stats.gmean([1.1, 1.3, 1.2, 1.25]))
    assert (factor.low, factor.high) == pytest.approx((math.exp(log.low), math.exp(log.high)))
    assert (factor.n, factor.detectable) == (4, pytest.approx(math.exp(log.detectable)))


@pytest.mark.parametrize(
    ("values", "clear"),
    [([0.1, 0.2, 0.15], True), ([-0.1, -0.2, -0.15], True), ([0.1, -0.2, 0.15], False), ([0.1], False)],
)
def test_a_difference_is_clear_where_the_interval_excludes_none(values: list[float], clear: bool) -> None:
    assert statistics.is_clear(statistics.mean(values)) is clear
    assert statistics.is_clear(statistics.ratio(values)) is clear


def test_so_many_seeds_are_needed_as_narrow_the_interval_below_the_distance() -> None:
    estimate = statistics.mean([0.1, 0.2, 0.6])
    more = statistics.seeds_needed(estimate, 0.2, at_most=1000)
    deviation = np.std([0.1, 0.2, 0.6], ddof=1)
    halves = [stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n) for n in (3 + more - 1, 3 + more)]
    assert halves[0] >= 0.2 > halves[1]
    assert statistics.seeds_needed(estimate, 0.0, at_most=50) == 50
