"""Estimates agree with scipy's tests and have the power that they claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
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
