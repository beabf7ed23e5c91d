"""The numbers of each arm."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.summaries import concurrent_runs, summarise_arms
from reproduce import schema


def test_an_arm_has_means_intervals_and_costs_and_what_is_missing_is_nan() -> None:
    runs = pd.DataFrame({"arm": ["a", "a", "b"], schema.FINAL_TOP1: [0.6, 0.7, 0.8], schema.COST_MACS: [5, 5, 7]})
    summary = summarise_arms(runs, ["b", "a"])
    assert summary[["arm", "n", "macs"]].to_numpy().tolist() == [["b", 1, 7], ["a", 2, 5]]
    assert summary["top1"].tolist() == pytest.approx([0.8, 0.65])
    assert summary["top1_low"].isna().tolist() == [True, False]
    assert summary.loc[1, "top1_sd"] == pytest.approx(0.05 * 2**0.5)
    assert summary[["top5", "parameters"]].isna().all(axis=None)


def test_concurrent_runs_are_counted_on_each_host() -> None:
    runs = pd.DataFrame({"started": [0, 5, 5, 20], "ended": [10, 15, 12, 30], schema.TAG_HOST: ["a", "a", "b", "a"]})
    assert concurrent_runs(runs) == 2
