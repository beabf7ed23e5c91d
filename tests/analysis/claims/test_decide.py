"""Estimates are compared with claims by their whole interval; too few seeds say how many more are needed."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from scipy import stats

from analysis.claims.decide import compare, judge
from analysis.claims.rendering import as_json, markdown
from analysis.statistics import Estimate, Ratio, mean
from reproduce.claims.ledger import Claim, Part
from reproduce.claims.verdicts import Finding, Measured, NotMeasured, Verdict, compare_value


def estimate(low: float, high: float, n: int = 3) -> Estimate:
    """An estimate with this interval."""
    half_width = stats.t.ppf(0.975, n - 1)
    return Estimate((low + high) / 2, n, se=(high - low) / 2 / half_width, df=n - 1)


def decided(*parts: dict[str, Any], **values: float | Estimate | Ratio) -> Finding:
    claim = Claim.model_validate(
        {
            "id": "S-one",
            "kind": "empirical",
            "statement": "heads | help",
            "source": {"document": "S", "section": "1"},
            "claimed": "more",
            "rule": "above 0",
            "protocol": "pairs",
            "measurement": "heads",
            "parts": parts,
            "experiment": "quickstart",
            "needs": "3 seeds",
        }
    )
    return judge(claim, Measured(values=values, summary="summary", evidence="n = 3"))


@pytest.mark.parametrize(
    ("part", "value", "verdict"),
    [
        ({"at_least": 0}, estimate(0.1, 0.3), Verdict.HOLDS),
        ({"at_least": 0}, estimate(-0.3, -0.1), Verdict.FAILS),
        ({"at_least": 0}, estimate(-0.1, 0.3), Verdict.NOT_ENOUGH),
        ({"expected": 0.5, "within": 0.2}, estimate(0.4, 0.6), Verdict.HOLDS),
        ({"expected": 0.5, "within": 0.2}, estimate(0.4, 0.8), Verdict.NOT_ENOUGH),
        ({"expected": 0.5, "within": 0.2}, estimate(0.8, 0.9), Verdict.FAILS),
        ({"at_least": 1}, Ratio(estimate(0.1, 0.3)), Verdict.HOLDS),
        ({"at_least": 1}, Ratio(estimate(-0.1, 0.3)), Verdict.NOT_ENOUGH),
        ({"at_least": 0}, Estimate(1, 1), Verdict.NOT_ENOUGH),
        ({"at_least": 0}, Estimate(1, 3), Verdict.NOT_ENOUGH),
        ({"at_least": 0}, estimate(0.1, 0.3, n=2), Verdict.NOT_ENOUGH),
    ],
)
def test_an_estimate_is_decided_by_its_whole_interval(
    part: dict[str, Any], value: Estimate | Ratio, verdict: Verdict
) -> None:
    assert decided({"of": "x", **part}, x=value).verdict is verdict


def test_a_plain_number_is_compared_as_it_is() -> None:
    part = Part(of="x", at_most=0.5)
    assert compare(part, 0.4) == compare_value(part, 0.4)


@pytest.mark.parametrize(
    ("part", "value", "verdict"),
    [
        ({"expected": 0.7, "within": 0.1}, 0.8, Verdict.HOLDS),
        ({"expected": 0.7, "within": 0.1}, 0.8000001, Verdict.FAILS),
        ({"expected": 0.3, "within": 0.1}, 0.2, Verdict.HOLDS),
        ({"expected": "equal"}, 5, Verdict.FAILS),
        ({"expected": (1, 1)}, 1.0, Verdict.FAILS),
        ({"expected": True}, True, Verdict.HOLDS),
    ],
)
def test_the_ends_of_a_bound_are_those_of_the_decimal_numbers(
    part: dict[str, Any], value: float, verdict: Verdict
) -> None:
    assert compare_value(Part(of="x", **part), value).verdict is verdict


def test_what_is_no_number_is_not_measured() -> None:
    with pytest.raises(NotMeasured, match="x: no number was measured"):
        compare_value(Part(of="x", at_least=0), math.nan)


def test_values_without_spread_show_no_interval() -> None:
    (part,) = decided({"of": "x", "at_least": 0}, x=mean([0.1] * 5)).parts
    assert part.measured == "0.1 (no interval), n = 5"
    assert (part.verdict, part.more) == (Verdict.NOT_ENOUGH, 1)


def test_a_part_that_fails_outweighs_one_without_enough_runs() -> None:
    finding = decided({"of": "a", "at_least": 0}, {"of": "b", "expected": 10}, a=estimate(-1, 1), b=8)
    assert finding.verdict is Verdict.FAILS
    assert [part.deviation for part in finding.parts] == [None, pytest.approx(-0.2)]


@pytest.mark.parametrize(
    ("value", "more"),
    [
        (estimate(-1, 2), 6),
        (estimate(-0.01, 2), 1),
        (estimate(-1, 1), None),
        (Estimate(0.5, 1), 2),
        (Estimate(0.5, 2), 1),
        (Estimate(0.5, 3), 1),
    ],
)
def test_too_few_runs_say_how_many_more_seeds_are_needed(value: Estimate, more: int | None) -> None:
    finding = decided({"of": "a", "at_least": 0}, {"of": "b", "at_least": 0}, a=value, b=1)
    assert finding.verdict is Verdict.NOT_ENOUGH
    number = "over 1000" if more is None else more
    assert finding.evidence == f"{number} more {'seed is' if more == 1 else 'seeds are'} needed; n = 3"


def test_so_many_more_seeds_of_the_same_spread_are_just_enough() -> None:
    low, high, n, more = -1, 2, 3, 6
    deviation = (high - low) / 2 * math.sqrt(n) / stats.t.ppf(0.975, n - 1)
    half_widths = [deviation * stats.t.ppf(0.975, k - 1) / math.sqrt(k) for k in (n + more - 1, n + more)]
    assert half_widths[0] >= (low + high) / 2 > half_widths[1]


def test_json_keeps_the_numbers_and_has_no_nan() -> None:
    findings = [
        decided({"of": "a", "at_least": 0}, a=Estimate(1, 1)),
        decided({"of": "a", "at_least": 0}, a=estimate(1, 2)),
    ]
    content = json.loads(json.dumps(as_json(findings, {"commit": "abc"}), allow_nan=False))
    first, second = content["claims"]
    assert (content["environment"], first["id"], first["verdict"]) == ({"commit": "abc"}, "S-one", "not enough runs")
    assert first["parts"][0]["value"] == {"value": 1, "low": None, "high": None, "n": 1, "detectable": None}
    assert second["parts"][0]["value"] == pytest.approx(
        {"value": 1.5, "low": 1, "high": 2, "n": 3, "detectable": estimate(1, 2).detectable}
    )


def test_markdown_has_a_row_for_each_claim_and_for_each_part() -> None:
    parts = ({"of": "a", "expected": 1}, {"of": "b", "expected": 2000, "note": "why"}, {"of": "c", "at_least": 0})
    lines = markdown([decided(*parts, a=1, b=1e3, c=estimate(0.1, 0.3))], {"S": "notes"}, "Here.").splitlines()
    assert "In the scope of what was measured: 1 does not hold. Here." in lines
    evidence = "parts that do not hold: b (−50 %); n = 3"
    assert f"| S-one | heads \\| help | more | summary | does not hold | {evidence} |" in lines
    assert "| b | 2\u202f000 | 1\u202f000 (−50 %) | does not hold | why |" in lines
    assert "| c | ≥ 0 | 0.2 [0.1, 0.3], n = 3 | holds |  |" in lines
