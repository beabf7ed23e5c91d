from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import statistics
from analysis.statistics import Contrast, FactorialFit, effects, factors
from reproduce import schema

TOP1 = schema.FINAL_TOP1


def grid(cells: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"arm": f"{aux}-{reduction}", "network.aux": aux, "network.reduction": reduction, TOP1: value}
            for (aux, reduction), values in cells.items()
            for value in values
        ]
    )


CELLS = {
    ("both", "reduced"): [0.90, 0.91, 0.92],
    ("both", "unreduced"): [0.91, 0.93, 0.92],
    ("none", "reduced"): [0.88, 0.87, 0.885],
    ("none", "unreduced"): [0.90, 0.89, 0.88],
}


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


def test_balanced_grid_gives_differences_of_cell_means() -> None:
    runs = grid(CELLS)
    means = {cell: np.mean(values) for cell, values in CELLS.items()}
    pooled = np.mean([np.var(values, ddof=1) for values in CELLS.values()])
    found = effects(runs, TOP1).set_index("kind")
    heads, reduced = (found.loc["main"].iloc[i] for i in (0, 1))
    interaction = found.loc["interaction"]

    with_heads = (means["both", "reduced"] + means["both", "unreduced"]) / 2
    without = (means["none", "reduced"] + means["none", "unreduced"]) / 2
    assert heads["contrast"] == "both − none"
    assert heads["difference"] == pytest.approx(with_heads - without)
    half = stats.t.ppf(0.975, 8) * math.sqrt(pooled / 3)
    assert heads["high"] - heads["difference"] == pytest.approx(half)
    assert reduced["contrast"] == "reduced − unreduced"
    expected = (means["both", "reduced"] - means["none", "reduced"]) - (
        means["both", "unreduced"] - means["none", "unreduced"]
    )
    assert interaction["difference"] == pytest.approx(expected)
    assert interaction["high"] - interaction["difference"] == pytest.approx(2 * half)


def test_a_missing_run_leaves_the_effect_unweighted_by_cell_sizes() -> None:
    cells = {**CELLS, ("none", "unreduced"): [0.90, 0.89]}
    means = {cell: np.mean(values) for cell, values in cells.items()}
    heads = effects(grid(cells), TOP1).iloc[0]
    expected = (
        means["both", "reduced"] + means["both", "unreduced"] - means["none", "reduced"] - means["none", "unreduced"]
    ) / 2
    assert heads["difference"] == pytest.approx(expected)
    assert heads["df"] == 11 - 4


def test_a_missing_arm_leaves_main_effects_without_interaction() -> None:
    cells = {cell: values for cell, values in CELLS.items() if cell != ("none", "unreduced")}
    found = effects(grid(cells), TOP1)
    assert set(found["kind"]) == {"main", "pairwise"}
    assert found.iloc[0]["difference"] == pytest.approx(
        np.mean(cells["both", "reduced"]) - np.mean(cells["none", "reduced"])
    )


def test_several_heads_are_asked_together_and_each() -> None:
    runs = grid({(aux, "reduced"): [0.9, 0.91] for aux in ("none", "aux1", "aux2", "both")})
    main = effects(runs, TOP1).query("kind == 'main'")
    assert list(main["contrast"]) == ["any − none", "aux1 − none", "aux2 − none", "both − none"]


def test_fields_that_divide_the_arms_alike_are_one_factor() -> None:
    runs = grid(CELLS)
    runs["recipe.learning_rate"] = runs["network.aux"].map({"both": "0.1", "none": "0.2"})
    runs["network.classes"] = runs["network.aux"].map({"both": "10", "none": "100"})
    assert [factor.field for factor in factors(runs)] == ["network.aux", "network.reduction"]


def test_one_run_an_arm_has_effects_but_no_intervals() -> None:
    found = effects(grid({cell: values[:1] for cell, values in CELLS.items()}), TOP1)
    assert found["difference"].notna().all()
    assert found[["low", "high", "p", "detectable"]].isna().all(axis=None)
    assert set(found["verdict"]) == {"no interval"}


def test_a_difference_inside_the_noise_is_called_that() -> None:
    found = effects(grid({("both", "reduced"): [0.9, 0.92, 0.91], ("none", "reduced"): [0.91, 0.9, 0.93]}), TOP1)
    assert set(found["verdict"]) == {"within the noise"}


def test_factors_that_the_arms_cannot_part_are_not_identified() -> None:
    runs = pd.DataFrame(
        {"arm": ["a", "b", "c"], "network.aux": ["none", "both", "both"], "recipe.epochs": ["1", "1", "2"]}
    ).assign(**{"recipe.momentum": ["0.9", "0.8", "0.9"], TOP1: [0.1, 0.2, 0.3]})
    assert not FactorialFit(runs, factors(runs), TOP1).identified


def test_effects_coding_agrees_with_plain_least_squares() -> None:
    runs = grid({**CELLS, ("none", "reduced"): [0.88]})
    heads, reductions = factors(runs)
    fit = FactorialFit(runs, [heads, reductions], TOP1)
    code = {"both": 1, "none": -1, "reduced": 1, "unreduced": -1}
    a, b = (runs[column].map(code).to_numpy() for column in ("network.aux", "network.reduction"))
    x = np.column_stack([np.ones(len(runs)), a, b, a * b])
    beta, residual, *_ = np.linalg.lstsq(x, runs[TOP1].to_numpy(), rcond=None)
    estimate = fit.main(heads, Contrast("both − none", ("both",), ("none",)))
    se = 2 * math.sqrt(residual[0] / (len(runs) - 4) * np.linalg.inv(x.T @ x)[1, 1])
    assert estimate.value == pytest.approx(2 * beta[1])
    assert estimate.se == pytest.approx(se)


def test_baseline_is_the_arm_nearest_to_the_paper() -> None:
    assert statistics.baseline(grid(dict(reversed(CELLS.items())))) == "both-reduced"


def test_concurrent_runs_are_counted_per_host() -> None:
    runs = pd.DataFrame({"started": [0, 5, 5, 20], "ended": [10, 15, 12, 30], schema.TAG_HOST: ["a", "a", "b", "a"]})
    assert statistics.concurrent_runs(runs) == 2
