"""Effects on grids of arms: estimates by hand, by plain least squares, and what an incomplete grid allows."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.effects import Contrast, FactorialFit, baseline, effects, factors
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


def test_auxiliary_heads_are_compared_with_none_together_and_one_by_one() -> None:
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


@pytest.mark.parametrize(("plus", "minus"), [(0.1, 0.1), (0.5, 0.25), (0.7, 0.7), (1e-5, 1e5)])
def test_seeds_that_agree_exactly_get_no_interval_and_no_verdict(plus: float, minus: float) -> None:
    found = effects(grid({("both", "reduced"): [plus] * 5, ("none", "reduced"): [minus] * 3}), TOP1)
    assert set(found["kind"]) == {"main", "pairwise"}
    assert set(found["verdict"]) == {"no interval"}
    assert found[["low", "high", "p", "p_holm", "detectable"]].isna().all(axis=None)
    assert found["difference"].tolist() == pytest.approx([plus - minus, minus - plus], abs=1e-12)


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


def test_factors_that_the_arms_do_not_separate_are_not_identified() -> None:
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
