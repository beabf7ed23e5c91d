"""Runs that waited for one slow rank are among what a report says of its data."""

from __future__ import annotations

import pandas as pd

from analysis.report.completeness import slow_ranks
from reproduce import schema


def test_a_report_names_the_run_its_slow_rank_and_the_host() -> None:
    said = "rank 2 on n2 is 2.6 times as slow as the median rank: 30 ms forward"
    runs = pd.DataFrame({"arm": ["both", "none", "aux"], "seed": [0, 1, 2], schema.TAG_SLOWEST: [said, "-", None]})
    assert slow_ranks(runs) == [f"both, seed 0: {said}."]


def test_records_without_the_ranks_times_say_nothing() -> None:
    assert slow_ranks(pd.DataFrame({"arm": ["both"], "seed": [0]})) == []
