"""What a measurement gives, what a claim comes to, and the comparison of plain values between the two.

Estimates from runs have intervals; `analysis.claims.decide` compares those. This module imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from reproduce.claims.ledger import Claim, Part, Value
from reproduce.spec import SpecError

MAX_SEEDS = 1000
"""From here on, the number of seeds that are still needed is not told: the estimate is practically at the bound."""

V = TypeVar("V")


class Verdict(StrEnum):
    """What became of a claim, or of one part of it."""

    HOLDS = "holds"
    FAILS = "does not hold"
    NOT_ENOUGH = "not enough runs"
    NOT_MEASURED = "not measured here"


@dataclass(frozen=True, kw_only=True)
class Measured(Generic[V]):
    """What a measurement gives. The values are of type `Value`, or estimates where runs were measured."""

    values: Mapping[str, V]
    """By the names that `Part.of` refers to."""
    summary: str
    """One line: what was found."""
    evidence: str
    """One line: how it was found, and what else was seen."""


StaticMeasurement = Callable[[], Measured[Value]]


class NotMeasured(Exception):  # noqa: N818 - no error: it becomes a verdict
    """Raised by a measurement that lacks what it measures. The message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class PartFinding:
    """One measured value compared with what the claim says of it."""

    name: str
    expected: str
    measured: str
    value: Value | Mapping[str, float | None]
    """For programs: the value, or the fields of an estimate by their names."""
    deviation: float | None = None
    """Relative to the expected number, for example -0.02; None where no number is expected."""
    verdict: Verdict
    more: int = 0
    """How many more seeds are needed where the verdict is that there are not enough runs; else 0."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of a claim."""

    claim: Claim
    verdict: Verdict
    measured: str = ""
    evidence: str
    parts: tuple[PartFinding, ...] = ()


def find(claim: Claim, measured: Measured[V], compare: Callable[[Part, V], PartFinding]) -> Finding:
    """Decide a claim from what was measured.

    The claim holds where all its parts hold, and does not hold where one part does not. Otherwise there are not enough
    runs.

    Args:
        claim: A row of the ledger.
        measured: What its measurement gave.
        compare: Compares one measured value with its part; `compare_value` for plain values.

    Raises:
        SpecError: A part is about a value that the measurement does not give.
    """
    parts = tuple(compare(part, _value_of(claim, part, measured.values)) for part in claim.parts)
    verdicts = {part.verdict for part in parts}
    verdict = next((v for v in (Verdict.FAILS, Verdict.NOT_ENOUGH) if v in verdicts), Verdict.HOLDS)
    evidence = measured.evidence
    if verdict is Verdict.FAILS and len(parts) > 1:
        failing = (part.name + deviation_text(part.deviation) for part in parts if part.verdict is Verdict.FAILS)
        evidence = f"parts that do not hold: {', '.join(failing)}; {evidence}"
    elif verdict is Verdict.NOT_ENOUGH:
        more = max(part.more for part in parts)
        number = str(more) if more < MAX_SEEDS else f"over {MAX_SEEDS}"
        evidence = f"{number} more {'seed is' if more == 1 else 'seeds are'} needed; {evidence}"
    return Finding(claim=claim, verdict=verdict, measured=measured.summary, evidence=evidence, parts=parts)


def not_measured(claim: Claim, reason: str = "") -> Finding:
    """The finding on a claim for which there is nothing to measure. The evidence says what is needed."""
    needs = f"needs {claim.needs}" + (f": `deeper run {claim.experiment}`" if claim.experiment else "")
    evidence = "; ".join(text for text in (needs, reason) if text)
    return Finding(claim=claim, verdict=Verdict.NOT_MEASURED, evidence=evidence)


def compare_value(part: Part, value: Value) -> PartFinding:
    """Compare a plain value with its part. A number holds within the part's bounds, anything else where it is equal."""
    if isinstance(value, str | tuple):
        holds = value == part.expected
    else:
        low, high = bounds(part)
        holds = low <= value <= high
    return PartFinding(
        name=part.label,
        expected=expectation(part),
        measured=value_text(value),
        value=value,
        deviation=None if isinstance(value, str | tuple) else deviation(part, value),
        verdict=Verdict.HOLDS if holds else Verdict.FAILS,
        note=part.note,
    )


def bounds(part: Part) -> tuple[float, float]:
    """The smallest and the largest number that a part allows."""
    if isinstance(part.expected, int | float):
        return part.expected - part.within, part.expected + part.within
    low = -math.inf if part.at_least is None else part.at_least
    return low, math.inf if part.at_most is None else part.at_most


def deviation(part: Part, number: float) -> float | None:
    """How far a number is from the expected one, relative to it; None where no number, or 0, is expected."""
    return number / part.expected - 1 if isinstance(part.expected, int | float) and part.expected else None


def expectation(part: Part) -> str:
    """What a part expects, for example "20 ± 0.5" or "≥ 0"."""
    if part.expected is None:
        return f"≥ {value_text(part.at_least)}" if part.at_least is not None else f"≤ {value_text(part.at_most)}"
    return value_text(part.expected) + (f" ± {value_text(part.within)}" if part.within else "")


def deviation_text(deviation: float | None) -> str:
    """A relative deviation in parentheses, for example " (−4.2 %)"; nothing where there is none."""
    return f" ({100 * deviation:+.3g} %)".replace("-", "−") if deviation else ""


def value_text(value: Value | None) -> str:
    """A value as people read it: digits in groups of three, shapes with ×."""
    if isinstance(value, tuple):
        return "×".join(str(side) for side in value)
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float):
        value = round(value) if value.is_integer() else value
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else f"{value:.4g}"


def _value_of(claim: Claim, part: Part, values: Mapping[str, V]) -> V:
    if part.of not in values:
        raise SpecError(
            f"{claim.id}: parts: {part.of!r} is nothing that {claim.measurement} gives; it gives {', '.join(values)}"
        )
    return values[part.of]
