"""Times with censored runs: agreement with statsmodels, exact p values, and their level by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from analysis.comparisons.survival import kaplan_meier, log_rank, log_rank_scores, median_time


def drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    times, ends = random.exponential(1.0, n), random.exponential(2.0, n)
    return np.minimum(times, ends), times <= ends


@pytest.mark.parametrize("seed", range(5))
def test_medians_are_those_of_statsmodels(seed: int) -> None:
    times, reached = drawn(seed, 25)
    assert median_time(times, reached) == SurvfuncRight(times, reached).quantile(0.5)


def test_shares_are_those_of_scipy_also_where_times_are_equal() -> None:
    times, reached = drawn(0, 25)
    times = times.round(1)
    curve = stats.ecdf(stats.CensoredData(uncensored=times[reached], right=times[~reached])).cdf
    moments, shares = kaplan_meier(times, reached)
    assert moments == pytest.approx(curve.quantiles)
    assert shares == pytest.approx(curve.probabilities)


def test_a_median_that_most_runs_never_reach_is_unknown() -> None:
    assert math.isnan(median_time([1, 2, 3], [False, False, False]))
    assert math.isnan(median_time([1, 5, 5, 5], [True, False, False, False]))
    assert math.isnan(median_time([1, math.nan], [True, True]))
    assert median_time([1, 2, 5, 5], [True, True, False, False]) == 2


@pytest.mark.parametrize("seed", range(5))
def test_many_runs_have_the_p_value_of_statsmodels(seed: int) -> None:
    (times, reached), (others, hits) = drawn(seed, 30), drawn(seed + 100, 25)
    reference = survdiff(np.r_[times, 1.3 * others], np.r_[reached, hits], np.r_[np.zeros(30), np.ones(25)])[1]
    assert log_rank(times, reached, 1.3 * others, hits) == pytest.approx(reference)


def test_few_runs_have_an_exact_p_value() -> None:
    assert log_rank([1, 2, 3], [True] * 3, [4, 5, 6], [True] * 3) == pytest.approx(2 / math.comb(6, 3))
    assert log_rank([1, 2, 3], [True] * 3, [9, 9, 9], [False] * 3) == pytest.approx(2 / math.comb(6, 3))
    assert log_rank([1, 2], [True] * 2, [1, 2], [True] * 2) == 1
    assert math.isnan(log_rank([1, 2], [False] * 2, [1, 2], [False] * 2))
    assert math.isnan(log_rank([1, 2], [True] * 2, [], []))


def test_scores_add_up_to_the_observed_less_the_expected_numbers_of_statsmodels() -> None:
    times, reached = drawn(3, 12)
    groups = np.repeat([0, 1], 6)
    chi2, _ = survdiff(times, reached, groups)
    scores = log_rank_scores(times, reached)
    assert scores.sum() == pytest.approx(0)
    at_risk = np.array([(times >= t).sum() for t in times[reached]])
    share = np.array([((times >= t) & (groups == 0)).sum() for t in times[reached]]) / at_risk
    assert chi2 == pytest.approx(scores[groups == 0].sum() ** 2 / (share * (1 - share)).sum())


def test_equally_fast_arms_are_called_different_in_at_most_five_percent() -> None:
    random = np.random.default_rng(0)
    trials = 400
    rejected = 0
    for _ in range(trials):
        times, ends = random.exponential(1, 8), random.exponential(2, 8)
        values, hits = np.minimum(times, ends), times <= ends
        p = log_rank(values[:4], hits[:4], values[4:], hits[4:])
        rejected += not math.isnan(p) and p < 0.05
    assert rejected / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
