"""Accuracy by class: names, means over runs, and clear differences from the baseline."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.details.classes import NAMES, classes_table, clear_differences, shares_by_class

IMAGES = 100
"""Number of images of each class."""


def predicted(correct: list[int], names: tuple[str, ...] = ()) -> pd.DataFrame:
    """Predictions in which the first `correct[label]` images of each class are right."""
    rows = [(label, number < right) for label, right in enumerate(correct) for number in range(IMAGES)]
    kept = pd.DataFrame(rows, columns=["label", "correct"])
    kept.attrs[NAMES] = names
    return kept


def recorded(runs: dict[str, list[str]]) -> Any:
    """An experiment with these finished runs by arm."""
    finished = pd.DataFrame([(run_id, arm) for arm, own in runs.items() for run_id in own], columns=["run_id", "arm"])
    return SimpleNamespace(arms=list(runs), finished=finished)


def texts(runs: dict[str, list[str]], predictions: dict[str, pd.DataFrame]) -> list[list[str]]:
    return [[cell.plain for cell in row] for row in classes_table(recorded(runs), predictions, "plain").rows]


def test_classes_have_the_names_that_the_predictions_hold() -> None:
    runs = {"plain": ["run"]}
    assert [row[0] for row in texts(runs, {"run": predicted([50, 25])})] == ["class 0", "class 1"]
    named = {"run": predicted([50, 25], ("tench", "church"))}
    assert texts(runs, named) == [["tench", "50.0", "0.0"], ["church", "25.0", "0.0"]]


def test_a_clear_difference_from_the_baseline_is_marked_after_the_correction_over_all_classes() -> None:
    runs = {"plain": ["a0", "a1", "a2"], "heads": ["b0", "b1", "b2"], "none": []}
    correct = {"a": [(60, 50, 90), (61, 40, 90), (62, 45, 90)], "b": [(80, 50, 90), (81, 51, 90), (82, 44, 90)]}
    predictions = {
        f"{arm}{seed}": predicted(list(row)) for arm, rows in correct.items() for seed, row in enumerate(rows)
    }
    assert texts(runs, predictions) == [
        ["class 0", "61.0", "81.0 (+20.0*)", "20.0"],
        ["class 1", "45.0", "48.3 (+3.3)", "3.3"],
        ["class 2", "90.0", "90.0 (+0.0)", "0.0"],
    ]
    caption = classes_table(recorded(runs), predictions, "plain").caption
    assert "the difference from plain in points; 2 of 3 arms; means over seeds" in caption
    assert "corrected over 2 differences (Holm)" in caption, "the class without any spread is not tested"


def test_p_values_by_class_are_those_of_scipy_and_statsmodels() -> None:
    random = np.random.default_rng(0)
    runs = {arm: [f"{arm}{seed}" for seed in range(4)] for arm in ("plain", "x", "y")}
    predictions = {run: predicted(random.integers(30, 70, 6).tolist()) for own in runs.values() for run in own}
    shares = shares_by_class(recorded(runs), predictions)
    raw = [
        stats.ttest_ind(shares[arm].loc[label], shares["plain"].loc[label], equal_var=False).pvalue
        for label in range(6)
        for arm in ("x", "y")
    ]
    expected = multipletests(raw, method="holm")[1]
    np.testing.assert_allclose(clear_differences(shares, "plain").to_numpy().ravel(), expected)


def test_single_runs_and_a_baseline_without_predictions_are_not_tested() -> None:
    runs = {"plain": ["a"], "heads": ["b"]}
    predictions = {"a": predicted([50, 40]), "b": predicted([60, 40])}
    assert texts(runs, predictions)[0] == ["class 0", "50.0", "60.0 (+10.0)", "10.0"]
    assert "Holm" not in classes_table(recorded(runs), predictions, "plain").caption
    assert texts(runs, {"b": predictions["b"]})[0] == ["class 0", "60.0", "0.0"]
    assert texts(runs, {}) == []
