"""What a report says about runs that were not computed alike."""

from __future__ import annotations

import pandas as pd

from analysis.report.completeness import computed_differently

ALIKE = {
    "deeper.computation.machine": ["H200", "H200", None],
    "deeper.computation.threads": ["-", "-", None],
    "deeper.computation.code": ["c0de", "c0de", None],
}


def test_nothing_is_said_of_runs_that_were_computed_alike_or_did_not_record_it() -> None:
    assert computed_differently(pd.DataFrame(ALIKE)) == []
    assert computed_differently(pd.DataFrame({"key": ["a"]})) == []


def test_runs_that_differ_are_counted() -> None:
    runs = pd.DataFrame({**ALIKE, "deeper.computation.threads": ["1", "2", "1"]})
    assert computed_differently(runs) == [
        "Runs were computed on different terms, so that they compare up to rounding only: "
        "threads: 1 (2 runs), 2 (1 run)."
    ]


def test_another_decoder_and_other_code_are_more_than_rounding() -> None:
    runs = pd.DataFrame({"deeper.computation.decoder": ["native", "stock"], "deeper.computation.code": ["a", "b"]})
    assert [sentence.split(",")[0] for sentence in computed_differently(runs)[1:]] == [
        "Runs with another decoder saw other pixels",
        "Runs with other code may differ by more than rounding.",
    ]


def test_runs_that_were_resumed_with_another_computation_are_counted() -> None:
    runs = pd.DataFrame(
        {"deeper.changes.machine": ["a -> b", None, None], "deeper.changes.code": ["x -> y", None, "z"]}
    )
    assert computed_differently(runs) == ["2 runs went on after an interruption with a change of code, machine."]
