"""When a repeated run reproduces a recorded one, and how often the interval holds a further run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.comparisons.reproduction import (
    EQUAL,
    NOT_REPRODUCED,
    UNDECIDED,
    WITHIN,
    compare,
    compare_run,
    prediction_interval,
    reproduction_table,
)
from reproduce import schema


def test_the_interval_is_students() -> None:
    values = [0.67, 0.68, 0.70]
    spread = np.std(values, ddof=1) * math.sqrt(1 + 1 / 3)
    assert prediction_interval(values) == pytest.approx(stats.t.interval(0.95, 2, np.mean(values), spread))


@pytest.mark.parametrize("n", [2, 3, 10])
def test_a_further_run_lies_within_the_interval_95_times_in_100(n: int) -> None:
    random = np.random.default_rng(n)
    hits = 0
    for _ in range(4000):
        low, high = prediction_interval(random.normal(0.7, 0.01, n).tolist())
        hits += low <= random.normal(0.7, 0.01) <= high
    assert hits / 4000 == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize(
    ("measured", "references", "verdict"),
    [
        (0.7, [0.7], EQUAL),
        (0.7, [0.7, 0.6, 0.8], EQUAL),
        (0.65, [0.7, 0.6, 0.8], WITHIN),
        (0.1, [0.7, 0.69, 0.71], NOT_REPRODUCED),
        (math.inf, [0.7, 0.6, 0.8], NOT_REPRODUCED),
        (0.65, [0.7], UNDECIDED),
        (0.65, [0.7, 0.7], UNDECIDED),
    ],
)
def test_verdicts(measured: float, references: list[float], verdict: str) -> None:
    found = compare("final/val_top1", measured, 0.7, references)
    assert found.verdict == verdict
    assert bool(found.reason) == (verdict == UNDECIDED)


def test_only_what_a_key_determines_is_compared() -> None:
    recorded = {schema.FINAL_TOP1: 0.7, schema.FINAL_DURATION_S: 100.0, schema.FINAL_VAL_LOSS: 1.0}
    found = compare_run({schema.FINAL_TOP1: 0.7}, recorded, [recorded])
    assert {one.metric: one.verdict for one in found} == {
        schema.FINAL_TOP1: EQUAL,
        schema.FINAL_VAL_LOSS: NOT_REPRODUCED,
    }
    assert "| a s0 | top-1 | 0.7000 | 0.7000 |" in reproduction_table({"a s0": found}).markdown()
