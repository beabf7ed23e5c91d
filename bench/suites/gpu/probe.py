"""Defines a probe: its context, the messages by which it reports, and its result. Does not import torch."""

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
"""A cell of a table: a number, a text, or None for a missing value. A number that is not finite is reported as None."""
ProbeOutcome = Literal["done", "failed", "cut", "absent"]
"""How a probe ended.

done: it returned. failed: it raised an exception, or its process ended early. cut: it reached its time limit, the user
stopped it, or it did not start in time; its result holds what it had reported until then. absent: the machine lacks
something that the probe needs.
"""


class MissingRequirementError(BenchmarkError):
    """Raised by a probe if the machine lacks something that the probe needs. The message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class WorkloadSize:
    """Sizes of the work that probes measure, which depend on the type of device."""

    side: int
    """Side of the images, in pixels."""
    batch: int
    """Images in a step, except in probes that use another number."""
    batches: tuple[int, ...]
    """Further batch sizes at which the probe `step` measures."""
    small_side: int
    """Side of the images of the probe `graph`, in pixels: small enough that a step waits for launches."""
    small_batch: int
    """Images in a step of the probe `graph`."""
    published_batch: int
    """Images in a step of the comparison with published speeds, at 224 pixels."""
    pictures: int
    """Images in the data set of the probe `loader`."""
    repetition_s: float
    """Shortest duration of a repetition, in seconds."""


SIZES = {
    "cuda": WorkloadSize(
        side=224,
        batch=256,
        batches=(64, 1024),
        small_side=96,
        small_batch=128,
        published_batch=128,
        pictures=1024,
        repetition_s=0.5,
    ),
    "cpu": WorkloadSize(
        side=64,
        batch=32,
        batches=(8, 64),
        small_side=32,
        small_batch=16,
        published_batch=4,
        pictures=128,
        repetition_s=0.3,
    ),
}


@dataclass(frozen=True, kw_only=True)
class ProbeContext:
    """The device, the resources and the time limit that the runner gives to a probe."""

    device_name: str
    """Name of the device in torch: `cpu` or, for example, `cuda:0`."""
    threads: int
    """CPU threads of torch and of a run."""
    deadline: float
    """Time at which the runner ends the probe, in seconds on the clock `time.monotonic`."""
    scratch: Path
    """A folder for the files of the probe. The runner removes it after the probe has ended."""

    @property
    def device(self) -> torch.device:
        """The device that the probe measures. Imports torch."""
        import torch

        return torch.device(self.device_name)

    @property
    def size(self) -> WorkloadSize:
        """The sizes of the work for this type of device."""
        return SIZES[self.device_name.partition(":")[0]]

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.deadline - time.monotonic()


class ProbeTable(Config):
    """A table of values that a probe reports."""

    title: str
    """Title of the table, which identifies it within the probe."""
    rows: dict[str, dict[str, Value]]
    """The cells by the name of the row, then by the name of the column. Rows may lack columns."""


class BoundCheck(Config):
    """A value and the bounds that it has to respect."""

    what: str
    """Describes the value, with its unit."""
    value: float | None
    """The value. None if it is not finite."""
    at_least: float | None = None
    """Lower bound, inclusive. None if there is none."""
    at_most: float | None = None
    """Upper bound, inclusive. None if there is none."""

    @property
    def passed(self) -> bool:
        """Whether the value is finite and within its bounds."""
        return (
            self.value is not None
            and (self.at_least is None or self.value >= self.at_least)
            and (self.at_most is None or self.value <= self.at_most)
        )


class Note(Config):
    """A sentence that explains the values of a probe."""

    text: str


class Activity(Config):
    """A phrase that says what a probe is doing at the moment. The runner shows it and does not keep it."""

    text: str


class RateEntries(Config):
    """Training rates that a probe measured, in the form that `bench.planning.rates` reads."""

    rates: list[dict[str, float | None]]
    """Entries made by `bench.planning.rates.rate_entry`."""


Message = ProbeTable | BoundCheck | Note | Activity | RateEntries
"""A message from a probe to the runner."""


class Reporter:
    """Sends the findings of a probe to the runner.

    The runner writes each message to the result at once, so that it is kept even if the probe is ended early.

    Args:
        send: Sends one message.
    """

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send

    def table(self, title: str, rows: Mapping[str, Mapping[str, Value]]) -> None:
        """Report a table, which replaces an earlier table with the same title.

        Args:
            title: Title of the table.
            rows: The cells by the name of the row, then by the name of the column. Numbers that are not finite are
                reported as missing.
        """
        finite = {name: {column: _finite(value) for column, value in row.items()} for name, row in rows.items()}
        self._send(ProbeTable(title=title, rows=finite))

    def check(self, what: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
        """Report a value and its inclusive bounds. The check fails if the value is out of bounds or not finite.

        Args:
            what: Describes the value, with its unit.
            value: The value.
            at_least: Lower bound, or None.
            at_most: Upper bound, or None.
        """
        finite = value if math.isfinite(value) else None
        self._send(BoundCheck(what=what, value=finite, at_least=at_least, at_most=at_most))

    def check_true(self, what: str, truth: bool) -> None:
        """Report a check that passes if `truth` is True. Its value is 1 or 0, and its lower bound is 1."""
        self.check(what, float(truth), at_least=1)

    def note(self, text: str) -> None:
        """Report a sentence that explains the values."""
        self._send(Note(text=text))

    def progress(self, text: str) -> None:
        """Report what the probe is doing at the moment. The text is shown and not kept."""
        self._send(Activity(text=text))

    def rates(self, rates: list[dict[str, float | None]]) -> None:
        """Report training rates for `deeper plan`, which replace those reported before.

        Args:
            rates: Entries made by `bench.planning.rates.rate_entry`.
        """
        self._send(RateEntries(rates=rates))


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A test or measurement that `deeper bench gpu` runs in a process of its own, and its requirements."""

    name: str
    """Unique name, which the option `--probe` takes and the files of its result have."""
    help: str
    """Describes the probe in a phrase, which is shown while it runs."""
    run: Callable[[ProbeContext, Reporter], None]
    """Runs the probe. It must be a function at the top level of its module, and may raise `MissingRequirementError`."""
    seconds: float
    """Time limit in seconds if the suite has eight minutes. It is scaled in proportion to the time of the suite."""
    packages: tuple[str, ...] = ()
    """Names of the packages other than torch that the probe imports."""
    gpu: bool = False
    """Whether the probe needs a GPU."""

    def missing_requirements(self, device: torch.device) -> str:
        """Describe the requirements of the probe that this machine does not meet.

        Args:
            device: The device that the suite uses.

        Returns:
            The missing packages and the missing GPU as a phrase, or "" if every requirement is met.
        """
        missing = [name for name in self.packages if find_spec(name) is None]
        reasons = [f"not installed: {', '.join(missing)}"] if missing else []
        if self.gpu and device.type != "cuda":
            reasons.append("there is no GPU")
        return "; ".join(reasons)


class ProbeResult(Config):
    """The findings of a probe and how it ended. It is immutable."""

    probe: str
    """Name of the probe."""
    outcome: ProbeOutcome
    """How the probe ended. While it runs, the outcome is "cut"."""
    why: str = ""
    """The reason why the outcome is not "done"; empty while the probe runs and if it is done."""
    seconds: float = 0.0
    """Seconds that the probe ran, once it has ended."""
    limit_s: float = 0.0
    """Time limit of the probe, in seconds."""
    tables: tuple[ProbeTable, ...] = ()
    """Tables in the order in which each was last reported."""
    checks: tuple[BoundCheck, ...] = ()
    """Checks in the order in which they were reported."""
    notes: tuple[str, ...] = ()
    """Sentences that explain the values."""
    rates: list[dict[str, float | None]] = []
    """Training rates for `deeper plan`."""

    @property
    def passed(self) -> bool:
        """Whether the outcome is not "failed" and every check passed, also for a probe that was cut or is absent."""
        return self.outcome != "failed" and all(check.passed for check in self.checks)

    def with_outcome(self, outcome: ProbeOutcome, why: str) -> ProbeResult:
        """Return a copy with another outcome and its reason."""
        return self.model_copy(update={"outcome": outcome, "why": why})

    def with_message(self, message: Message) -> ProbeResult:
        """Return a copy to which a message of the probe is added.

        A table replaces the table with the same title, and rates replace all earlier rates. An `Activity` adds nothing.
        """
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
