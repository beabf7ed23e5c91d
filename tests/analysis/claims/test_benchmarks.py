"""Claims about speed follow the ratios of interleaved benchmarks."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from analysis.claims.decide import decide_by_benchmarks
from reproduce.claims.ledger import load_ledger
from reproduce.claims.verdicts import Verdict

CLAIMS = {claim.id: claim for claim in load_ledger().claims}
SPEED = "images per CPU-second"


def result(**speeds: float) -> dict[str, Any]:
    """A result of `deeper bench layers`; each repetition is slower than the one before, for all alike."""
    given = {"reduced": 200, "unreduced": 100, "sparse": 10, "dense": 50, "dense, all weights": 20, "sparse, 1 %": 15}
    rounds = {
        name: [{SPEED: speed * (1 - 0.1 * turn) * (1 + 0.01 * ((turn + len(name)) % 3))} for turn in range(5)]
        for name, speed in {**given, **speeds}.items()
    }
    once = {"parameters, M": 6.0, "multiply-adds an image, M": 32.0, "peak memory, GiB": 1.0}
    comparisons = [
        {"name": "reductions", "title": "a step", "rounds": {n: rounds[n] for n in ("reduced", "unreduced")}},
        {"name": "sparse", "title": "a layer", "rounds": {n: rounds[n] for n in list(given)[2:]}},
    ]
    for comparison in comparisons:
        comparison["once"] = {name: dict(once) for name in comparison["rounds"]}
    comparisons[0]["once"]["unreduced"] = {name: 4 * value for name, value in once.items()}
    machine = {"machine": {"cpu": "a CPU"}}
    return {
        "suite": "layers",
        "kind": "a-kind",
        "date": "2026-01-02",
        "environment": machine,
        "comparisons": comparisons,
    }


@pytest.mark.parametrize(
    ("claim", "speeds", "verdict"),
    [
        ("S-reduce-cheap", {}, Verdict.HOLDS),
        ("S-reduce-cheap", {"unreduced": 300}, Verdict.FAILS),
        ("P-sparse", {}, Verdict.HOLDS),
        ("P-sparse", {"sparse, 1 %": 80}, Verdict.FAILS),
    ],
)
def test_the_verdict_follows_the_ratio_within_repetitions(
    claim: str, speeds: dict[str, float], verdict: Verdict
) -> None:
    finding = decide_by_benchmarks(CLAIMS[claim], [result(**speeds)])
    assert finding.verdict is verdict
    assert finding.told.startswith(f"{verdict} on a-kind")
    assert "n = 5 interleaved repetitions on a-kind, a CPU, 2026-01-02" in finding.evidence


def test_the_last_result_decides() -> None:
    later = copy.deepcopy(result(unreduced=300))
    later["date"] = "2026-02-01"
    assert decide_by_benchmarks(CLAIMS["S-reduce-cheap"], [later, result()]).verdict is Verdict.FAILS


def test_without_a_result_a_speed_is_not_measured() -> None:
    finding = decide_by_benchmarks(CLAIMS["P-sparse"], [])
    assert finding.verdict is Verdict.NOT_MEASURED
    assert "no result of `deeper bench layers` was found" in finding.evidence
