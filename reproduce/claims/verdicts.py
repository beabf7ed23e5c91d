"""Types for measured values and for findings on claims, and the comparison of plain values with claims.

Estimates from runs, which have confidence intervals, are compared in `analysis.claims.decide`. This module imports no
torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Generic, TypeVar

from reproduce.claims.ledger import Claim, Part, Value
from reproduce.spec import SpecError

MAX_SEEDS = 1000
"""If at least this many further seeds are needed, findings state no exact number.

The estimate is then practically at the bound of the claim.
"""

V = TypeVar("V")


class Verdict(StrEnum):
    """The result of testing a claim or one of its parts. Each value is the text that tables and JSON show."""

    HOLDS = "holds"
    FAILS = "does not hold"
    NOT_ENOUGH = "not enough runs"
    UNDECIDED = "undecided"
    """All runs of the design are there, and they show neither the claim nor its opposite."""
    NOT_YET = "not measured yet"
    """The design is there, and its runs are not."""
    NOT_MEASURED = "not measured here"


@dataclass(frozen=True, kw_only=True)
class Measured(Generic[V]):
    """The result of a measurement.

    The values are of type `Value` if the network alone or evaluations were measured, and may be estimates with
    confidence intervals if runs were measured.
    """

    values: Mapping[str, V]
    """The measured values, by the names to which `Part.of` refers."""
    summary: str
    """One line with the main values."""
    evidence: str
    """One line on how the values were measured, with further results."""


StaticMeasurement = Callable[[], Measured[Value]]
"""A function that measures the network alone. It takes no arguments and needs no data."""


class NotMeasured(Exception):  # noqa: N818 - no error: it becomes a verdict
    """Raised by a measurement if the recorded runs or evaluations do not suffice to decide the claim.

    The message says why. `analysis.claims.decide` turns the exception into a finding with the verdict "not measured
    here".
    """


@dataclass(frozen=True, kw_only=True)
class PartFinding:
    """The comparison of one measured value with one part of a claim."""

    name: str
    """Name of the value in tables."""
    expected: str
    """The expected value or bound as text, for example "20 ± 0.5"."""
    measured: str
    """The measured value as text."""
    value: Value | Mapping[str, float | None]
    """The measured value for programs. For an estimate, its fields by name, with None for those that are not finite."""
    deviation: float | None = None
    """Deviation of the value from the expected number as a fraction of that number, for example -0.02.

    None if the part expects no number, or 0."""
    verdict: Verdict
    """Whether the part holds."""
    more: int = 0
    """Number of further seeds that are needed if the verdict is `NOT_ENOUGH`, else 0."""
    note: str = ""
    """The known reason for a deviation, from the ledger."""
    half: str = ""
    """The half of the claim that the part decides, from the ledger."""
    one_of: str = ""
    """The alternative that the part belongs to, from the ledger."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of testing a claim: its verdict with the measured values and the evidence."""

    claim: Claim
    """The claim as it stands in the ledger."""
    verdict: Verdict
    """The verdict on the whole claim."""
    measured: str = ""
    """One line with the main measured values. It is empty if nothing was measured."""
    evidence: str
    """One line on how the claim was tested, or on what is missing for the test."""
    parts: tuple[PartFinding, ...] = ()
    """Findings on the parts of the claim, in the ledger's order. There are none if nothing was measured."""
    scope: str = ""
    """The setting in which the verdict was found, for example "at 32 px, 6 epochs". It is empty if the verdict is
    exact, as those that the network alone decides are."""
    design: str = ""
    """When the design was written, and whether that was after the runs. It is empty if the claim has no design."""

    @property
    def halves(self) -> dict[str, Verdict]:
        """The verdict on each half of the claim, by its words; empty if the ledger names no halves."""
        halves = dict.fromkeys(part.half for part in self.parts if part.half)
        return {half: combined([part for part in self.parts if part.half == half]) for half in halves}

    @property
    def told(self) -> str:
        """The verdict with its scope and, if the claim has two halves, the verdict on each."""
        in_scope = f"{self.verdict} {self.scope}" if self.scope else str(self.verdict)
        halves = "; ".join(f"{half}: {verdict}" for half, verdict in self.halves.items())
        return f"{in_scope} ({halves})" if halves else in_scope


MEASURED = (Verdict.HOLDS, Verdict.FAILS, Verdict.NOT_ENOUGH, Verdict.UNDECIDED)
"""The verdicts on what was measured, which have a scope."""


def combined(parts: Sequence[PartFinding]) -> Verdict:
    """Combine verdicts on parts: all have to hold, but of the parts of one alternative only one."""
    alternatives: dict[str, list[Verdict]] = {}
    for place, part in enumerate(parts):
        alternatives.setdefault(part.one_of or f"part {place}", []).append(part.verdict)
    verdicts = set()
    for found in alternatives.values():
        best_first = (Verdict.HOLDS, Verdict.NOT_ENOUGH, Verdict.UNDECIDED, Verdict.NOT_MEASURED, Verdict.FAILS)
        verdicts.add(next(verdict for verdict in best_first if verdict in found))
    order = (Verdict.FAILS, Verdict.NOT_ENOUGH, Verdict.UNDECIDED, Verdict.NOT_MEASURED)
    return next((verdict for verdict in order if verdict in verdicts), Verdict.HOLDS)


def find(claim: Claim, measured: Measured[Value]) -> Finding:
    """Decide a claim from plain values. It holds if all its parts hold, and does not hold if one part does not.

    Args:
        claim: A row of the ledger.
        measured: The result of the claim's measurement.

    Raises:
        NotMeasured: A value is NaN.
        SpecError: A part names a value that the measurement does not return.
    """
    parts = [compare_value(part, value_of(claim, part, measured.values)) for part in claim.parts]
    return summed_up(claim, measured, parts, combined(parts))


def summed_up(
    claim: Claim, measured: Measured[V], parts: Sequence[PartFinding], verdict: Verdict, *, asks: bool = True
) -> Finding:
    """Put the findings on the parts of a claim together to a finding on the claim.

    Args:
        claim: A row of the ledger.
        measured: The result of the claim's measurement.
        parts: The findings on its parts.
        verdict: The verdict on the claim.
        asks: Whether the evidence says how many further seeds are needed. A design names its next look instead.

    Returns:
        The finding. Its evidence names the parts that do not hold, or says how many further seeds are needed.
    """
    evidence = measured.evidence
    if verdict is Verdict.FAILS and len(parts) > 1:
        failing = (part.name + deviation_text(part.deviation) for part in parts if part.verdict is Verdict.FAILS)
        evidence = f"parts that do not hold: {', '.join(failing)}; {evidence}"
    elif verdict is Verdict.NOT_ENOUGH and asks:
        more = max(part.more for part in parts)
        number = str(more) if more < MAX_SEEDS else f"over {MAX_SEEDS}"
        if more:
            evidence = f"{number} more {'seed is' if more == 1 else 'seeds are'} needed; {evidence}"
    return Finding(claim=claim, verdict=verdict, measured=measured.summary, evidence=evidence, parts=tuple(parts))


def not_measured(claim: Claim, reason: str = "") -> Finding:
    """Create the finding on a claim that the available data cannot decide.

    The verdict is "not measured yet" if the claim has a design, and "not measured here" otherwise.

    Args:
        claim: A row of the ledger.
        reason: Reason why no verdict is possible. The evidence first states what the claim needs and then the reason.
    """
    needs = f"needs {claim.needs}" + (f": `deeper run {claim.experiment}`" if claim.experiment else "")
    evidence = "; ".join(text for text in (needs, reason) if text)
    if claim.design is None:
        return Finding(claim=claim, verdict=Verdict.NOT_MEASURED, evidence=evidence)
    return Finding(claim=claim, verdict=Verdict.NOT_YET, evidence=evidence, design=claim.design.dated)


def compare_value(part: Part, value: Value) -> PartFinding:
    """Compare a plain value with a part of a claim.

    A number or a boolean holds if it lies within the `bounds` of the part, ends included. A string or a shape holds if
    it equals `part.expected`.

    Raises:
        NotMeasured: The value is NaN.
    """
    if isinstance(value, float) and math.isnan(value):
        raise NotMeasured(f"{part.label}: no number was measured")
    if isinstance(value, str | tuple) or isinstance(part.expected, str | tuple):
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
        half=part.half,
        one_of=part.one_of,
    )


def bounds(part: Part) -> tuple[float, float]:
    """Return the smallest and the largest number at which a part holds.

    A side without a bound is infinite. Both are infinite if the part expects a string or a shape. The bounds are those
    of the decimal numbers that the ledger states: 0.7 ± 0.1 ends at 0.8, where the sum of the floats is smaller.
    """
    if isinstance(part.expected, int | float):
        expected, within = Decimal(repr(float(part.expected))), Decimal(repr(part.within))
        return float(expected - within), float(expected + within)
    low = -math.inf if part.at_least is None else part.at_least
    return low, math.inf if part.at_most is None else part.at_most


def deviation(part: Part, number: float) -> float | None:
    """Compute the deviation of a number from the expected one, as a fraction of the expected one.

    Returns:
        The deviation, for example -0.02, or None if the part expects no number, or 0.
    """
    return number / part.expected - 1 if isinstance(part.expected, int | float) and part.expected else None


def expectation(part: Part) -> str:
    """Format the condition of a part, for example "20 ± 0.5" or "≥ 0"."""
    if part.expected is None:
        return f"≥ {value_text(part.at_least)}" if part.at_least is not None else f"≤ {value_text(part.at_most)}"
    return value_text(part.expected) + (f" ± {value_text(part.within)}" if part.within else "")


def deviation_text(deviation: float | None) -> str:
    """Format a relative deviation in percent, for example " (−4.2 %)" for -0.042.

    Returns:
        The text with a leading space, or an empty string if the deviation is None or 0.
    """
    return f" ({100 * deviation:+.3g} %)".replace("-", "−") if deviation else ""


def value_text(value: Value | None) -> str:
    """Format a value for readers.

    Integers and whole floats have their digits in groups of three, other floats four significant digits. Shapes are
    joined by ×, and booleans and strings stay as they are.
    """
    if isinstance(value, tuple):
        return "×".join(str(side) for side in value)
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float):
        value = round(value) if value.is_integer() else value
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else f"{value:.4g}"


def value_of(claim: Claim, part: Part, values: Mapping[str, V]) -> V:
    """Return the measured value to which a part of a claim refers.

    Raises:
        SpecError: The measurement does not return this value.
    """
    if part.of not in values:
        raise SpecError(
            f"{claim.id}: parts: {part.of!r} is nothing that {claim.measurement} gives; it gives {', '.join(values)}"
        )
    return values[part.of]
