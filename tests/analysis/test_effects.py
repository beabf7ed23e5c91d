"""Effects on grids of arms: estimates by hand, by plain least squares, and what an incomplete grid allows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_ind

from analysis.effects import decide_effects, effects
from analysis.factors import baseline, factors
from analysis.settings import Settings
from reproduce import schema

TOP1 = schema.FINAL_TOP1


def grid(cells: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"arm": f"{aux}-{reduction}", "seed": seed, "network.aux": aux, "network.reduction": reduction, TOP1: value}
            for (aux, reduction), values in cells.items()
            for seed, value in enumerate(values)
        ]
    )


CELLS = {
    ("both", "reduced"): [0.90, 0.91, 0.92],
    ("both", "unreduced"): [0.91, 0.93, 0.92],
    ("none", "reduced"): [0.88, 0.87, 0.885],
    ("none", "unreduced"): [0.90, 0.89, 0.88],
}


def test_a_full_grid_gives_contrasts_of_cell_means_with_satterthwaites_degrees_of_freedom() -> None:
    found = effects(grid(CELLS), TOP1).set_index("kind")
    heads, reduced = (found.loc["main"].iloc[i] for i in (0, 1))
    interaction = found.loc["interaction"]
    means = {cell: np.mean(values) for cell, values in CELLS.items()}
    parts = np.array([np.var(values, ddof=1) / 3 for values in CELLS.values()])
    df = parts.sum() ** 2 / (parts**2 / 2).sum()

    with_heads = (means["both", "reduced"] + means["both", "unreduced"]) / 2
    without = (means["none", "reduced"] + means["none", "unreduced"]) / 2
    assert heads["contrast"] == "both − none"
    assert heads["difference"] == pytest.approx(with_heads - without)
    assert heads["df"] == pytest.approx(df)
    half = stats.t.ppf(0.975, df) * math.sqrt(parts.sum()) / 2
    assert heads["high"] - heads["difference"] == pytest.approx(half)
    assert reduced["contrast"] == "reduced − unreduced"
    expected = (means["both", "reduced"] - means["none", "reduced"]) - (
        means["both", "unreduced"] - means["none", "unreduced"]
    )
    assert interaction["difference"] == pytest.approx(expected)
    assert interaction["high"] - interaction["difference"] == pytest.approx(2 * half)


def test_a_contrast_agrees_with_least_squares_of_statsmodels_with_each_arms_own_variance() -> None:
    runs = grid({**CELLS, ("none", "reduced"): [0.88, 0.86, 0.84, 0.85, 0.9]})
    heads = effects(runs, TOP1).iloc[0]
    design = pd.get_dummies(runs["arm"]).astype(float)
    fit = sm.OLS(runs[TOP1], design).fit(cov_type="HC2")  # of cell means, HC2 has the variance of each cell
    weights = [0.5 if arm.startswith("both") else -0.5 for arm in design]
    test = fit.t_test(weights)
    assert (heads["difference"], heads["high"]) == pytest.approx(
        (test.effect.item(), test.effect.item() + stats.t.ppf(0.975, heads["df"]) * test.sd.item())
    )


def test_the_family_is_corrected_together_and_no_question_is_asked_twice() -> None:
    found = effects(grid(CELLS), TOP1)
    assert list(found["kind"]) == ["main", "main", "interaction"]
    assert found["p_holm"].tolist() == pytest.approx(multipletests(found["p"], method="holm")[1].tolist())


def test_a_missing_arm_leaves_the_pairs_with_the_baseline_by_welchs_test() -> None:
    cells = {cell: values for cell, values in CELLS.items() if cell != ("none", "unreduced")}
    found = effects(grid(cells), TOP1)
    assert list(found["contrast"]) == ["both-unreduced − both-reduced", "none-reduced − both-reduced"]
    assert set(found["kind"]) == {"pairwise"}
    reference = stats.ttest_ind(CELLS["none", "reduced"], CELLS["both", "reduced"], equal_var=False)
    assert (found["p"].iloc[1], found["df"].iloc[1]) == pytest.approx((reference.pvalue, reference.df))


def test_the_experiment_names_the_baseline() -> None:
    cells = {cell: values for cell, values in CELLS.items() if cell != ("none", "unreduced")}
    found = effects(grid(cells), TOP1, Settings(baseline="none-reduced"))
    assert list(found["effect"]) == ["both-reduced", "both-unreduced"]
    assert baseline(grid(cells), "not finished yet") == "both-reduced"


def test_a_paired_experiment_compares_the_seeds_that_arms_share() -> None:
    cells = {("none", "reduced"): [0.5, 0.6, 0.72, 0.9], ("both", "reduced"): [0.52, 0.63, 0.74]}
    (found,) = decide_effects(grid(cells), TOP1, Settings(paired=True))
    reference = stats.ttest_rel(cells["both", "reduced"], cells["none", "reduced"][:3])
    assert (found.estimate.p, found.estimate.n, found.estimate.replicates) == (pytest.approx(reference.pvalue), 6, 3)
    (alone,) = decide_effects(grid(cells), TOP1)
    assert alone.estimate.p == pytest.approx(
        stats.ttest_ind(cells["both", "reduced"], cells["none", "reduced"], equal_var=False).pvalue
    )
    assert alone.correlation == pytest.approx(np.corrcoef(cells["both", "reduced"], cells["none", "reduced"][:3])[0, 1])


def test_a_margin_makes_a_small_difference_equivalent() -> None:
    cells = {("none", "reduced"): [0.5, 0.5002, 0.5004], ("both", "reduced"): [0.5001, 0.5002, 0.5005]}
    runs = grid(cells)
    assert effects(runs, TOP1)["verdict"].item() == "no clear difference"
    found = effects(runs, TOP1, Settings(margin=0.005)).iloc[0]
    reference = ttost_ind(cells["both", "reduced"], cells["none", "reduced"], -0.005, 0.005, usevar="unequal")[0]
    assert (found["verdict"], found["p_equivalence"]) == ("equivalent", pytest.approx(reference))
    assert found["seeds"] == 2
    assert effects(runs, TOP1, Settings(margin=1e-6))["verdict"].item() == "no clear difference"


SPREADS = {"equal": (1.0, 1.0, 1.0, 1.0), "one arm five times": (1.0, 1.0, 1.0, 5.0)}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_of_the_grid_cover_the_truth_and_the_family_keeps_its_level(n: int, spread: str) -> None:
    """For many experiments at once; `test_the_simulation_is_that_of_the_estimates` holds its formulas to ours."""
    experiments = 20_000
    values = np.random.default_rng(n).normal(size=(experiments, 4, n)) * np.array(SPREADS[spread])[:, None]
    value, se, df = simulated(values)
    covered = (np.abs(value) <= stats.t.ppf(0.975, df) * se).mean(axis=0)
    assert covered.min() > 0.93
    assert covered.max() < 0.97
    smallest = (2 * stats.t.sf(np.abs(value) / se, df)).min(axis=1)
    assert (3 * smallest < 0.05).mean() < 0.05 + 3 * math.sqrt(0.05 * 0.95 / experiments)  # Holm rejects any at all


CONTRASTS = np.array([[1, 1, -1, -1], [1, -1, 1, -1], [2, -2, -2, 2]]) / 2


def simulated(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Estimate, standard error and degrees of freedom [experiments, contrast] of values [experiments, arm, seed]."""
    n = values.shape[-1]
    parts = values.var(axis=2, ddof=1) / n
    variance = parts @ (CONTRASTS**2).T
    return values.mean(axis=2) @ CONTRASTS.T, np.sqrt(variance), variance**2 / (parts**2 @ (CONTRASTS**4).T / (n - 1))


def test_the_simulation_is_that_of_the_estimates() -> None:
    value, se, df = simulated(np.array([list(CELLS.values())]))
    decided = [one.estimate for one in decide_effects(grid(CELLS), TOP1)]
    assert [(e.value, e.se, e.df) for e in decided] == [
        pytest.approx(row) for row in zip(value[0], se[0], df[0], strict=True)
    ]


def test_auxiliary_heads_are_compared_with_none_together_and_one_by_one() -> None:
    runs = grid({(aux, "reduced"): [0.9, 0.91] for aux in ("none", "aux1", "aux2", "both")})
    main = effects(runs, TOP1).query("kind == 'main'")
    assert list(main["contrast"]) == ["any − none", "aux1 − none", "aux2 − none", "both − none"]


def test_fields_that_divide_the_arms_alike_are_one_factor_with_all_their_names() -> None:
    runs = grid(CELLS)
    runs["recipe.learning_rate"] = runs["network.aux"].map({"both": "0.1", "none": "0.2"})
    runs["network.classes"] = runs["network.aux"].map({"both": "10", "none": "100"})
    heads, reductions = factors(runs)
    assert (heads.label, heads.levels) == ("Auxiliary classifiers / recipe.learning_rate", ("both / 0.1", "none / 0.2"))
    assert (heads.is_confounded, reductions.is_confounded) == (True, False)
    assert effects(runs, TOP1)["contrast"].iloc[0] == "none / 0.2 − both / 0.1"


def test_one_run_an_arm_has_effects_but_no_intervals() -> None:
    found = effects(grid({cell: values[:1] for cell, values in CELLS.items()}), TOP1)
    assert found["difference"].notna().all()
    assert found[["low", "high", "p", "detectable"]].isna().all(axis=None)
    assert set(found["verdict"]) == {"no interval"}


@pytest.mark.parametrize(("plus", "minus"), [(0.1, 0.1), (0.5, 0.25), (0.7, 0.7), (1e-5, 1e5)])
def test_seeds_that_agree_exactly_get_no_interval_and_no_verdict(plus: float, minus: float) -> None:
    found = effects(grid({("both", "reduced"): [plus] * 5, ("none", "reduced"): [minus] * 3}), TOP1)
    assert set(found["kind"]) == {"main"}
    assert set(found["verdict"]) == {"no interval"}
    assert found[["low", "high", "p", "p_holm", "detectable"]].isna().all(axis=None)
    assert found["difference"].tolist() == pytest.approx([plus - minus], abs=1e-12)


@settings(deadline=None, max_examples=100)
@given(
    both=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4),
    none=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4),
)
def test_any_finite_outcomes_have_effects_with_whole_intervals_or_none(both: list[float], none: list[float]) -> None:
    found = effects(grid({("both", "reduced"): both, ("none", "reduced"): none}), TOP1)
    assert found["difference"].notna().all()
    numbers = found[["low", "high", "p", "p_holm", "detectable"]]
    without = numbers.isna()
    assert (without.all(axis=1) | ~without.any(axis=1)).all()
    assert without["p"].tolist() == found["verdict"].eq("no interval").tolist()


def test_noise_is_no_clear_difference() -> None:
    found = effects(grid({("both", "reduced"): [0.9, 0.92, 0.91], ("none", "reduced"): [0.91, 0.9, 0.93]}), TOP1)
    assert set(found["verdict"]) == {"no clear difference"}


def test_baseline_is_the_arm_nearest_to_the_paper() -> None:
    assert baseline(grid(dict(reversed(CELLS.items())))) == "both-reduced"


@pytest.mark.parametrize(
    ("values", "verdicts"),
    [
        ([0.90, 0.91, 0.92], {"higher"}),
        ([0.84, 0.85, 0.86], {"lower"}),
    ],
)
def test_a_clear_difference_is_called_by_its_direction(values: list[float], verdicts: set[str]) -> None:
    found = effects(grid({("none", "reduced"): [0.875, 0.88, 0.885], ("both", "reduced"): values}), TOP1)
    assert set(found.query("kind == 'main'")["verdict"]) == verdicts


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("n", [3, 5])
def test_an_effect_of_the_printed_size_is_found_after_the_correction_in_4_of_5_experiments(n: int, spread: str) -> None:
    """In experiments whose true spread is the one that was observed, and in which nothing else is there to be found."""
    deviations = np.array(SPREADS[spread])
    standard = stats.norm.ppf((np.arange(n) + 0.5) / n)
    standard /= standard.std(ddof=1)
    values = [list(0.5 + 0.01 * deviation * standard) for deviation in deviations]
    decided = decide_effects(grid(dict(zip(CELLS, values, strict=True))), TOP1)
    noise = np.random.default_rng(n).normal(size=(20_000, 4, n)) * 0.01 * deviations[:, None]
    for place, one in enumerate(decided):
        shift = one.detectable * CONTRASTS[place] / (CONTRASTS[place] @ CONTRASTS[place])
        value, se, df = simulated(noise + shift[:, None])
        ordered = np.sort(p := 2 * stats.t.sf(np.abs(value) / se, df), axis=1)
        steps = np.minimum.accumulate(ordered < 0.05 / np.array([3, 2, 1]), axis=1).sum(axis=1)  # Holm's rejections
        found = (np.argsort(np.argsort(p, axis=1), axis=1)[:, place] < steps).mean()
        assert 0.78 < found < 0.85


def test_so_many_seeds_find_the_margin_after_the_correction_and_fewer_do_not() -> None:
    decided = decide_effects(grid(CELLS), TOP1, Settings(margin=0.004))[0]
    assert decided.family == 3
    estimate, seeds = decided.estimate, int(decided.seeds)

    def detectable(count: int) -> float:
        df = estimate.df * (count - 1) / 2
        return replace(estimate, se=estimate.se * math.sqrt(3 / count), df=df, replicates=count).detectable_at(0.05 / 3)

    assert detectable(seeds) <= 0.004 < detectable(seeds - 1)
