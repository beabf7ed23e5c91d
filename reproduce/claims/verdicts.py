"""From a measurement to a verdict. Compares; measures nothing itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from reproduce.claims.ledger import Claim, Part, Value
from reproduce.spec import SpecError

if TYPE_CHECKING:
    import pandas as pd


class Verdict(StrEnum):
    HOLDS = "holds"
    FAILS = "does not hold"
    NOT_ENOUGH = "not enough runs"
    NOT_MEASURED = "not measured here"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value measured on `n` runs, with its interval (NaN where there is none)."""

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int
    detectable: float = math.nan
    """The smallest difference that so many runs could have seen."""
    more: int = 1
    """Runs that are still needed, should the interval leave the claim open."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a measurement gives."""

    values: Mapping[str, Value | Estimate]
    """By the names that `Part.of` refers to."""
    summary: str
    """One line for a table: what was found."""
    evidence: str
    """One line: how it was found, and what else it shows."""


class NotMeasured(Exception):  # noqa: N818 - no error: a verdict
    """Raised by a measurement whose material is not at hand; the message says what is needed."""


class RecordedRuns(Protocol):
    """The recorded runs of an experiment: frames as `analysis.frames.Recorded` describes them."""

    @property
    def runs(self) -> pd.DataFrame: ...

    @property
    def finished(self) -> pd.DataFrame: ...

    @property
    def epochs(self) -> pd.DataFrame: ...


StaticMeasurement = Callable[[], Measured]
EmpiricalMeasurement = Callable[[RecordedRuns], Measured]


@dataclass(frozen=True, kw_only=True)
class PartFinding:
    """One value against what was claimed of it."""

    name: str
    expected: str
    measured: str
    value: Value | Estimate
    deviation: float | None
    """Relative to the expected number, e.g. -0.02; None where there is no such number."""
    verdict: Verdict
    note: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of a claim."""

    claim: Claim
    verdict: Verdict
    measured: str = ""
    evidence: str
    parts: tuple[PartFinding, ...] = ()


def find(claim: Claim, measured: Measured) -> Finding:
    """Compare every part of a claim with what was measured: all hold, or one does not, or one is left open.

    Raises `SpecError` for a part of something that the measurement does not give.
    """
    parts = tuple(_compare(claim, part, measured.values) for part in claim.parts)
    verdicts = {part.verdict for part in parts}
    verdict = next((v for v in (Verdict.FAILS, Verdict.NOT_ENOUGH) if v in verdicts), Verdict.HOLDS)
    evidence = measured.evidence
    if verdict is Verdict.FAILS and len(parts) > 1:
        failing = ", ".join(part.name + percent(part.deviation) for part in parts if part.verdict is Verdict.FAILS)
        evidence = f"not so: {failing}; {evidence}"
    elif verdict is Verdict.NOT_ENOUGH:
        left_open = (part.value for part in parts if part.verdict is Verdict.NOT_ENOUGH)
        more = max(value.more for value in left_open if isinstance(value, Estimate))
        evidence = f"{more} more runs are needed; {evidence}"
    return Finding(claim=claim, verdict=verdict, measured=measured.summary, evidence=evidence, parts=parts)


def not_measured(claim: Claim, reason: str = "") -> Finding:
    """The finding of a claim for which there is nothing to measure; says what is needed."""
    command = f"deeper run {claim.experiment}" if claim.experiment else ""
    evidence = "; ".join(text for text in (f"needs {claim.needs}", command, reason) if text)
    return Finding(claim=claim, verdict=Verdict.NOT_MEASURED, evidence=evidence)


def _compare(claim: Claim, part: Part, values: Mapping[str, Value | Estimate]) -> PartFinding:
    if part.of not in values:
        raise SpecError(
            f"{claim.id}: parts: {part.of!r} is nothing that {claim.measurement} gives; it gives {', '.join(values)}"
        )
    value = values[part.of]
    number = value.value if isinstance(value, Estimate) else value
    deviation = None
    if isinstance(number, int | float) and isinstance(part.expected, int | float) and part.expected:
        deviation = number / part.expected - 1
    return PartFinding(
        name=part.label,
        expected=_expectation(part),
        measured=text(value),
        value=value,
        deviation=deviation,
        verdict=_judge(part, value),
        note=part.note,
    )


def _judge(part: Part, value: Value | Estimate) -> Verdict:
    """Three-valued for an estimate: its whole interval inside the claimed range, outside it, or neither."""
    if isinstance(value, str | tuple):
        return Verdict.HOLDS if value == part.expected else Verdict.FAILS
    low, high = (value.low, value.high) if isinstance(value, Estimate) else (value, value)
    least, most = -math.inf, math.inf
    if isinstance(part.expected, int | float):
        least, most = part.expected - part.within, part.expected + part.within
    least = least if part.at_least is None else part.at_least
    most = most if part.at_most is None else part.at_most
    if least <= low and high <= most:
        return Verdict.HOLDS
    return Verdict.FAILS if high < least or low > most else Verdict.NOT_ENOUGH


def _expectation(part: Part) -> str:
    if part.expected is None:
        return f"≥ {text(part.at_least)}" if part.at_least is not None else f"≤ {text(part.at_most)}"
    return text(part.expected) + (f" ± {text(part.within)}" if part.within else "")


def percent(deviation: float | None) -> str:
    """A relative deviation, e.g. " (−4.2 %)"; nothing where there is none."""
    return f" ({100 * deviation:+.3g} %)".replace("-", "−") if deviation else ""


def text(value: Value | Estimate | None) -> str:
    """A value as people read it: digits in groups of three, shapes with ×, estimates with interval and n."""
    if isinstance(value, Estimate):
        return f"{value.value:.4g} [{value.low:.4g}, {value.high:.4g}], n = {value.n}"
    if isinstance(value, tuple):
        return "×".join(str(side) for side in value)
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float):
        value = round(value) if value.is_integer() else value
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else f"{value:.4g}"
