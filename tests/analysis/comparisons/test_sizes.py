"""Sizes of differences: reference values of statsmodels and of the literature."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.meta_analysis import effectsize_smd
from statsmodels.stats.nonparametric import rank_compare_2indep
from statsmodels.stats.power import TTestIndPower

from analysis.comparisons.predictions import compare_predictions, mcnemar, predictions_table
from analysis.comparisons.sizes import hedges_g, probability_superior
from analysis.effects import PAIRWISE, Decision
from analysis.statistics import Estimate, seeds_to_find, welch

A, B = [0.71, 0.74, 0.70, 0.73, 0.75], [0.66, 0.69, 0.71, 0.64, 0.68]


def test_hedges_g_is_that_of_statsmodels_up_to_its_approximate_correction() -> None:
    found = hedges_g(float(np.mean(A) - np.mean(B)), [A, B])
    reference, _ = effectsize_smd(np.mean(A), np.std(A, ddof=1), len(A), np.mean(B), np.std(B, ddof=1), len(B))
    assert found == pytest.approx(reference, rel=1e-3)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_hedges_g_has_no_bias(n: int) -> None:
    """Its expectation is the true difference in standard deviations, which is what the exact correction is for."""
    df, truth = 2 * n - 2, 1.0
    if df < 2:
        return
    samples = np.random.default_rng(n).normal(size=(20_000, 2, n)) + np.array([truth, 0])[:, None]
    values = np.array([hedges_g(float(a.mean() - b.mean()), [a, b]) for a, b in samples[:4000]])
    assert values.mean() == pytest.approx(truth, abs=4 * values.std() / math.sqrt(len(values)))


def test_the_probability_of_superiority_is_that_of_statsmodels() -> None:
    assert probability_superior(A, B) == pytest.approx(rank_compare_2indep(A, B).prob1)
    assert probability_superior([1, 2], [1, 2]) == 0.5


@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
def test_the_number_of_seeds_is_that_of_statsmodels_power_analysis(effect: float) -> None:
    """With equal spread, Welch's degrees of freedom are those of the pooled test that statsmodels computes."""
    unit = Estimate(0.0, 10, se=math.sqrt(2 / 5), df=8, replicates=5)
    needed = TTestIndPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)
    assert seeds_to_find(unit, effect, at_most=1000) == math.ceil(needed)


def test_mcnemars_test_is_that_of_statsmodels() -> None:
    random = np.random.default_rng(0)
    a, b = random.random(400) < 0.7, random.random(400) < 0.62
    only_a, only_b, p = mcnemar(a, b)
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    reference = reference_mcnemar(table, exact=True)
    assert (only_a, only_b) == (table[0][1], table[1][0])
    assert p == pytest.approx(reference.pvalue)
    assert mcnemar([True, False], [True, False])[:2] == (0, 0)
    assert math.isnan(mcnemar([True], [True])[2])


def test_networks_are_compared_seed_by_seed_and_corrected_over_all_pairs() -> None:
    runs = pd.DataFrame({"run_id": ["a0", "a1", "b0", "b1", "b2"], "arm": list("aabbb"), "seed": [0, 1, 0, 1, 2]})
    right, half = pd.Series(True, range(20)), pd.Series([True] * 10 + [False] * 10)
    correct = {"a0": right, "a1": half, "b0": half, "b1": half, "b2": half}
    one = Decision(
        kind=PAIRWISE, effect="a", contrast="a − b", weights={"a": 1, "b": -1}, pairs=[("a", "b")], estimate=welch(A, B)
    )
    found = compare_predictions([one], runs, correct)
    assert found[["seed", "images", "only_plus", "only_minus"]].to_numpy().tolist() == [[0, 20, 10, 0], [1, 20, 0, 0]]
    assert found["p_holm"].iloc[0] == pytest.approx(2 * 0.5**10)
    (row,) = predictions_table(found).rows
    assert [cell.text for cell in row] == ["a − b", "2", "5.0", "0.0", "0.002", "1 of 2"]
    assert predictions_table(compare_predictions([one], runs, {})).rows == []


def test_the_smallest_detectable_effect_has_its_power_by_integration() -> None:
    """The power of a two-sided t test of one sample by the definition: over the distribution of the deviation."""
    estimate = Estimate(0.0, 5, se=1.0, df=4)
    critical = stats.t.ppf(0.975, 4)

    def rejected(chi2: float) -> float:
        bound = critical * math.sqrt(chi2 / 4)
        return float(stats.norm.sf(bound - estimate.detectable) * stats.chi2.pdf(chi2, 4))

    assert integrate.quad(rejected, 0, 60)[0] == pytest.approx(0.8, abs=1e-4)
