"""From a measurement to a verdict. Compares; measures nothing itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from scipy import special

from reproduce.claims.ledger import Claim, Part, Value
from reproduce.spec import SpecError

if TYPE_CHECKING:
    import pandas as pd


LEVEL = 0.95
"""Of intervals."""
FEWEST_SEEDS = 3
"""With fewer, no interval decides."""
MOST_SEEDS = 1000
"""More than so many are not told as a number: the claim's margin is then as good as hit."""


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
EvaluationMeasurement = Callable[["pd.DataFrame"], Measured]
"""Of a table of evaluations, a row each."""


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
    more: int
    """Seeds that are still needed, if the verdict is that there are not enough; else 0."""
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
        more = max(part.more for part in parts)
        number = str(more) if more < MOST_SEEDS else f"over {MOST_SEEDS}"
        evidence = f"{number} more {'seed is' if more == 1 else 'seeds are'} needed; {evidence}"
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
    verdict = _judge(part, value)
    return PartFinding(
        name=part.label,
        expected=_expectation(part),
        measured=text(value),
        value=value,
        deviation=deviation,
        verdict=verdict,
        more=_more(part, value) if verdict is Verdict.NOT_ENOUGH and isinstance(value, Estimate) else 0,
        note=part.note,
    )


def _range(part: Part) -> tuple[float, float]:
    """What a part allows a number to be."""
    if isinstance(part.expected, int | float):
        return part.expected - part.within, part.expected + part.within
    least = -math.inf if part.at_least is None else part.at_least
    return least, math.inf if part.at_most is None else part.at_most


def _judge(part: Part, value: Value | Estimate) -> Verdict:
    """Three-valued for an estimate: its whole interval inside the claimed range, outside it, or neither."""
    if isinstance(value, str | tuple):
        return Verdict.HOLDS if value == part.expected else Verdict.FAILS
    if isinstance(value, Estimate) and value.n < FEWEST_SEEDS:
        return Verdict.NOT_ENOUGH
    low, high = (value.low, value.high) if isinstance(value, Estimate) else (value, value)
    least, most = _range(part)
    if least <= low and high <= most:
        return Verdict.HOLDS
    return Verdict.FAILS if high < least or low > most else Verdict.NOT_ENOUGH


def _more(part: Part, value: Estimate) -> int:
    """Seeds to add until the interval, were value and spread to stay, keeps clear of the ends of the part's range."""
    if value.n < FEWEST_SEEDS:
        return FEWEST_SEEDS - value.n
    spread = (value.high - value.low) / 2 / _half_width(value.n)
    distance = min(abs(value.value - end) for end in _range(part))
    enough = (n for n in range(value.n + 1, value.n + MOST_SEEDS) if spread * _half_width(n) < distance)
    return next(enough, value.n + MOST_SEEDS) - value.n


def _half_width(n: int) -> float:
    """Of the t interval of a mean of `n` values, in their standard deviations."""
    return float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) / math.sqrt(n)


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
