"""What a probe is, what it is given, and how it reports what it finds. Does not load torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.suites.harness.errors import BenchmarkError
from reproduce.spec import Config

if TYPE_CHECKING:
    import torch

Value = float | str | None
"""A cell of a table. None if there is no such value, or if it is not finite."""
ProbeOutcome = Literal["done", "failed", "cut", "absent"]
"""How a probe ended. cut: at its time limit or by the user, with what it had reported by then. absent: the machine
lacks something that the probe needs."""


class MissingRequirementError(BenchmarkError):
    """The machine lacks something that a probe needs. The message says what."""


@dataclass(frozen=True, kw_only=True)
class WorkloadSize:
    """How large the work is that probes measure on a type of device."""

    side: int
    """Side of the images, in pixels."""
    batch: int
    """Images in a step, unless a probe says otherwise."""
    batches: tuple[int, ...]
    """Further batch sizes that are measured."""
    published_batch: int
    """Images in a step of the comparison with published figures, at 224 pixels."""
    pictures: int
    """Images that the loader reads."""
    repetition_s: float
    """How many seconds a repetition takes at least."""


SIZES = {
    "cuda": WorkloadSize(side=224, batch=256, batches=(64, 1024), published_batch=128, pictures=1024, repetition_s=0.5),
    "cpu": WorkloadSize(side=64, batch=32, batches=(8, 64), published_batch=4, pictures=128, repetition_s=0.3),
}


@dataclass(frozen=True, kw_only=True)
class ProbeContext:
    """What a probe is given."""

    device_name: str
    """As torch spells it: cpu, cuda:0."""
    threads: int
    """CPU threads of torch and of a run."""
    deadline: float
    """When the probe is ended, in seconds of `time.monotonic`."""
    scratch: Path
    """A folder that is removed once the probe has ended."""

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device(self.device_name)

    @property
    def size(self) -> WorkloadSize:
        return SIZES[self.device_name.partition(":")[0]]

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


class ProbeTable(Config):
    """A table of values, by row and by column."""

    title: str
    rows: dict[str, dict[str, Value]]


class BoundCheck(Config):
    """A value and the bounds that it has to respect."""

    what: str
    value: float | None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def passed(self) -> bool:
        return (
            self.value is not None
            and (self.at_least is None or self.value >= self.at_least)
            and (self.at_most is None or self.value <= self.at_most)
        )


class Note(Config):
    """A sentence that explains the values."""

    text: str


class Activity(Config):
    """What a probe is doing right now. It is shown and not kept."""

    text: str


class RateEntries(Config):
    """Training images/s in the form that `bench.planning.rates` reads."""

    rates: list[dict[str, float | None]]


Message = ProbeTable | BoundCheck | Note | Activity | RateEntries


class Reporter:
    """Sends what a probe finds. Each message is kept at once, in case that the probe is ended before it is done."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send

    def table(self, title: str, rows: Mapping[str, Mapping[str, Value]]) -> None:
        """Reports a table, which replaces an earlier table with the same title."""
        finite = {name: {column: _finite(value) for column, value in row.items()} for name, row in rows.items()}
        self._send(ProbeTable(title=title, rows=finite))

    def check(self, what: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
        """Reports a value with its bounds. A value that is not finite fails."""
        finite = value if math.isfinite(value) else None
        self._send(BoundCheck(what=what, value=finite, at_least=at_least, at_most=at_most))

    def check_true(self, what: str, truth: bool) -> None:
        """Reports a check that either passes or fails, with the value 1 or 0."""
        self.check(what, float(truth), at_least=1)

    def note(self, text: str) -> None:
        """Reports a sentence that explains the values."""
        self._send(Note(text=text))

    def progress(self, text: str) -> None:
        """Reports what the probe is doing right now."""
        self._send(Activity(text=text))

    def rates(self, rates: list[dict[str, float | None]]) -> None:
        """Reports training images/s for `deeper plan`."""
        self._send(RateEntries(rates=rates))


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One thing that the suite finds out."""

    name: str
    help: str
    run: Callable[[ProbeContext, Reporter], None]
    """A function at the top level of its module, which may raise `MissingRequirementError`."""
    seconds: float
    """Its time limit if the suite has eight minutes. With more or less time, it grows or shrinks in proportion."""
    packages: tuple[str, ...] = ()
    """Names of the packages beyond torch that it imports."""
    gpu: bool = False
    """Whether it needs a GPU."""

    def missing_requirements(self, device: torch.device) -> str:
        """Returns what the probe needs and the machine lacks, as a sentence; empty if it lacks nothing."""
        missing = [name for name in self.packages if find_spec(name) is None]
        reasons = [f"not installed: {', '.join(missing)}"] if missing else []
        if self.gpu and device.type != "cuda":
            reasons.append("there is no GPU")
        return "; ".join(reasons)


class ProbeResult(Config):
    """What a probe has found."""

    probe: str
    """Name of the probe."""
    outcome: ProbeOutcome
    why: str = ""
    """Why it is not done."""
    seconds: float = 0.0
    """How long it ran."""
    limit_s: float = 0.0
    """How many seconds it was allowed to run."""
    tables: tuple[ProbeTable, ...] = ()
    checks: tuple[BoundCheck, ...] = ()
    notes: tuple[str, ...] = ()
    rates: list[dict[str, float | None]] = []

    @property
    def passed(self) -> bool:
        """Whether the probe did not fail, and no check did."""
        return self.outcome != "failed" and all(check.passed for check in self.checks)

    def with_outcome(self, outcome: ProbeOutcome, why: str) -> ProbeResult:
        return self.model_copy(update={"outcome": outcome, "why": why})

    def with_message(self, message: Message) -> ProbeResult:
        """Returns the result with one more message of the probe."""
        match message:
            case ProbeTable():
                others = [table for table in self.tables if table.title != message.title]
                return self.model_copy(update={"tables": (*others, message)})
            case BoundCheck():
                return self.model_copy(update={"checks": (*self.checks, message)})
            case Note():
                return self.model_copy(update={"notes": (*self.notes, message.text)})
            case RateEntries():
                return self.model_copy(update={"rates": message.rates})
            case Activity():
                return self
