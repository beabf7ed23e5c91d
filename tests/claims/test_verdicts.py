"""Plain values are compared with what a claim says of them, and the parts of a claim make one verdict."""

from __future__ import annotations

from typing import Any

import pytest

from reproduce.claims.ledger import Claim, Value
from reproduce.claims.verdicts import Finding, Measured, Verdict, find, not_measured, value_text
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


def decided(*parts: dict[str, Any], **values: Value) -> Finding:
    return find(claim(*parts), Measured(values=values, summary="summary", evidence="n = 3"))


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
    ],
)
def test_a_value_holds_within_the_bounds_of_its_part(part: dict[str, Any], value: Value, verdict: Verdict) -> None:
    assert decided({"of": "x", **part}, x=value).verdict is verdict


def test_a_part_that_fails_decides_and_is_named_with_its_deviation() -> None:
    finding = decided({"of": "a", "expected": 10}, {"of": "b", "name": "the b", "expected": 10}, a=10, b=8)
    assert finding.verdict is Verdict.FAILS
    assert finding.evidence == "parts that do not hold: the b (−20 %); n = 3"
    assert [part.deviation for part in finding.parts] == [0, pytest.approx(-0.2)]


def test_what_is_not_measured_says_what_is_needed() -> None:
    finding = not_measured(claim({"of": "a", "at_least": 0}), "no store")
    assert (finding.verdict, finding.evidence) == (
        Verdict.NOT_MEASURED,
        "needs 3 seeds: `deeper run quickstart`; no store",
    )


def test_an_unknown_value_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SpecError, match="S-one: parts: 'c' is nothing that heads gives; it gives a, b"):
        decided({"of": "c", "expected": 1}, a=1, b=2)


def test_values_read_well() -> None:
    texts = [value_text(value) for value in (6998552, 8.7304, (7, 7, 1024), "equal", -3)]
    assert texts == ["6\u202f998\u202f552", "8.73", "7×7×1024", "equal", "-3"]
