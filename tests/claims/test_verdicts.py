from __future__ import annotations

import json
import math
from typing import Any

import pytest
from scipy import stats

from reproduce.claims.ledger import Claim, Value
from reproduce.claims.rendering import as_json, markdown
from reproduce.claims.verdicts import Estimate, Measured, Verdict, find, not_measured, text
from reproduce.spec import SpecError


def claim(*parts: dict[str, Any]) -> Claim:
    return Claim.model_validate(
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


def measured(**values: Value | Estimate) -> Measured:
    return Measured(values=values, summary="summary", evidence="n = 3")


def estimate(low: float, high: float, n: int = 3) -> Estimate:
    return Estimate(value=(low + high) / 2, low=low, high=high, n=n)


@pytest.mark.parametrize(
    ("part", "value", "verdict"),
    [
        ({"expected": 5}, 5, Verdict.HOLDS),
        ({"expected": 5}, 6, Verdict.FAILS),
        ({"expected": 20, "within": 0.5}, 20.5, Verdict.HOLDS),
        ({"expected": 20, "within": 0.5}, 19.4, Verdict.FAILS),
        ({"expected": [7, 7, 3]}, (7, 7, 3), Verdict.HOLDS),
        ({"expected": [7, 7, 3]}, (7, 8, 3), Verdict.FAILS),
        ({"expected": "equal"}, "differs", Verdict.FAILS),
        ({"at_least": 0.5}, 0.88, Verdict.HOLDS),
        ({"at_most": 0.5}, 0.88, Verdict.FAILS),
        ({"at_least": 0}, estimate(0.1, 0.3), Verdict.HOLDS),
        ({"at_least": 0}, estimate(-0.3, -0.1), Verdict.FAILS),
        ({"at_least": 0}, estimate(-0.1, 0.3), Verdict.NOT_ENOUGH),
        ({"expected": 0.5, "within": 0.2}, estimate(0.4, 0.6), Verdict.HOLDS),
        ({"expected": 0.5, "within": 0.2}, estimate(0.4, 0.8), Verdict.NOT_ENOUGH),
        ({"expected": 0.5, "within": 0.2}, estimate(0.8, 0.9), Verdict.FAILS),
        ({"at_least": 0}, Estimate(value=1, n=1), Verdict.NOT_ENOUGH),
        ({"at_least": 0}, estimate(0.1, 0.3, n=2), Verdict.NOT_ENOUGH),
    ],
)
def test_a_value_is_judged_by_its_range_and_an_estimate_by_its_interval(
    part: dict[str, Any], value: Value | Estimate, verdict: Verdict
) -> None:
    assert find(claim({"of": "x", **part}), measured(x=value)).verdict is verdict


def test_one_part_that_fails_decides_and_is_named_with_its_deviation() -> None:
    parts = ({"of": "a", "expected": 10}, {"of": "b", "name": "the b", "expected": 10}, {"of": "c", "at_least": 0})
    finding = find(claim(*parts), measured(a=10, b=8, c=estimate(-1, 1)))
    assert finding.verdict is Verdict.FAILS
    assert finding.evidence == "not so: the b (−20 %); n = 3"
    assert [part.deviation for part in finding.parts] == [0, pytest.approx(-0.2), None]


@pytest.mark.parametrize(
    ("low", "high", "n", "more"),
    [(-1, 2, 3, 6), (-0.01, 2, 3, 1), (-1, 1, 3, None), (math.nan, math.nan, 1, 2), (math.nan, math.nan, 2, 1)],
)
def test_too_few_runs_say_how_many_seeds_more(low: float, high: float, n: int, more: int | None) -> None:
    finding = find(
        claim({"of": "a", "at_least": 0}, {"of": "b", "at_least": 0}), measured(a=estimate(low, high, n), b=1)
    )
    assert finding.verdict is Verdict.NOT_ENOUGH
    number = "over 1000" if more is None else more
    assert finding.evidence == f"{number} more {'seed is' if more == 1 else 'seeds are'} needed; n = 3"
    if more and n == 3:  # mean 0.5 and the same spread
        spread = (high - low) / 2 * math.sqrt(n) / stats.t.ppf(0.975, n - 1)
        mean = (low + high) / 2
        halves = [spread * stats.t.ppf(0.975, k - 1) / math.sqrt(k) for k in (n + more - 1, n + more)]
        assert halves[0] >= mean > halves[1]


def test_what_is_not_measured_says_what_is_needed() -> None:
    finding = not_measured(claim({"of": "a", "at_least": 0}), "no store")
    assert (finding.verdict, finding.evidence) == (
        Verdict.NOT_MEASURED,
        "needs 3 seeds; deeper run quickstart; no store",
    )


def test_a_part_of_something_else_is_answered_with_what_there_is() -> None:
    with pytest.raises(SpecError, match="S-one: parts: 'c' is nothing that heads gives; it gives a, b"):
        find(claim({"of": "c", "expected": 1}), measured(a=1, b=2))


def test_json_keeps_the_numbers_and_has_no_nan() -> None:
    findings = [
        find(claim({"of": "a", "at_least": 0}), measured(a=Estimate(value=1, n=1))),
        find(claim({"of": "a", "expected": [1, 2, 3]}), measured(a=(1, 2, 3))),
    ]
    content = json.loads(json.dumps(as_json(findings, {"commit": "abc"}), allow_nan=False))
    first, second = content["claims"]
    assert (content["environment"], first["id"], first["verdict"]) == ({"commit": "abc"}, "S-one", "not enough runs")
    assert first["parts"][0]["value"] == {
        "value": 1, "low": None, "high": None, "n": 1, "detectable": None,
    }  # fmt: skip
    assert second["parts"][0]["value"] == [1, 2, 3]


def test_markdown_has_a_row_a_claim_and_a_row_a_part() -> None:
    finding = find(
        claim({"of": "a", "expected": 1}, {"of": "b", "expected": 2000, "note": "why"}), measured(a=1, b=1e3)
    )
    lines = markdown([finding], {"S": "notes"}, "Here.").splitlines()
    assert "does not hold: 1. Here." in lines
    assert "| S-one | heads \\| help | more | summary | does not hold | not so: b (−50 %); n = 3 |" in lines
    assert "| b | 2\u202f000 | 1\u202f000 (−50 %) | does not hold | why |" in lines


def test_values_read_well() -> None:
    texts = [text(value) for value in (6998552, 8.7304, (7, 7, 1024), "equal", -3, estimate(0.1, 0.3))]
    assert texts == ["6\u202f998\u202f552", "8.73", "7×7×1024", "equal", "-3", "0.2 [0.1, 0.3], n = 3"]
