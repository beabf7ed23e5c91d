"""What a part of the suite is, what it is given, and what it tells as soon as it knows it. Needs no torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reproduce.spec import Config

if TYPE_CHECKING:
    import torch

Figure = float | str | None
"""None: there is no such figure, or it is not finite."""
Outcome = Literal["done", "failed", "cut", "absent"]
"""cut: ended at its limit of time or by hand, with what it had told by then. absent: the machine lacks something."""


class LackingError(Exception):
    """The machine lacks what a part needs; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the work is that is measured."""

    side: int
    """Pixels of an image."""
    batch: int
    """Images of a step, where nothing else is said."""
    batches: tuple[int, ...]
    """Further ones."""
    published_batch: int
    """Of the comparison with published figures, at 224 pixels."""
    pictures: int
    """That the loader reads."""
    repetition_s: float
    """Least length of one repetition."""


SIZES = {
    "cuda": Size(side=224, batch=256, batches=(64, 1024), published_batch=128, pictures=1024, repetition_s=0.5),
    "cpu": Size(side=64, batch=32, batches=(8, 64), published_batch=4, pictures=128, repetition_s=0.3),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a part is given."""

    device_name: str
    """As torch has it: cpu, cuda:0."""
    threads: int
    """Of torch, and of a run."""
    deadline: float
    """Of `time.monotonic`; the part is ended then."""
    scratch: Path
    """A folder that is removed afterwards."""

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device(self.device_name)

    @property
    def size(self) -> Size:
        return SIZES[self.device_name.partition(":")[0]]

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()


class Table(Config):
    """Figures by name, of each row."""

    title: str
    rows: dict[str, dict[str, Figure]]


class Check(Config):
    """A figure with its bounds."""

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
    """A sentence that belongs to the figures."""

    text: str


class Progress(Config):
    """What is being done; told while it is, and not kept."""

    text: str


class Rates(Config):
    """Training images/s as `bench.planning.rates` takes them."""

    rates: list[dict[str, float | None]]


Message = Table | Check | Note | Progress | Rates


class Report:
    """How a part tells what it finds; each message is kept the moment it comes, in case that the part is cut."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send

    def table(self, title: str, rows: Mapping[str, Mapping[str, Figure]]) -> None:
        """One of the same title takes the place of the one before."""
        kept = {name: {figure: _kept(value) for figure, value in row.items()} for name, row in rows.items()}
        self._send(Table(title=title, rows=kept))

    def check(self, what: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
        finite = value if math.isfinite(value) else None
        self._send(Check(what=what, value=finite, at_least=at_least, at_most=at_most))

    def holds(self, what: str, truth: bool) -> None:
        """A check that is either right or wrong: 1 or 0."""
        self.check(what, float(truth), at_least=1)

    def note(self, text: str) -> None:
        self._send(Note(text=text))

    def progress(self, text: str) -> None:
        self._send(Progress(text=text))

    def rates(self, rates: list[dict[str, float | None]]) -> None:
        self._send(Rates(rates=rates))


def _kept(value: Figure) -> Figure:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that the suite finds out."""

    name: str
    help: str
    work: Callable[[Task, Report], None]
    """At a module's top; raises `LackingError`."""
    seconds: float
    """Its limit where the suite has eight minutes; with more or less time it grows or shrinks in proportion."""
    packages: tuple[str, ...] = ()
    """That it imports beyond torch, by their names in Python."""
    gpu: bool = False
    """Whether it needs a GPU."""

    def lacks(self, device: torch.device) -> str:
        """What it needs and the machine does not have; empty where it can be done."""
        missing = [name for name in self.packages if find_spec(name) is None]
        reasons = [f"not installed: {', '.join(missing)}"] if missing else []
        if self.gpu and device.type != "cuda":
            reasons.append("there is no GPU")
        return "; ".join(reasons)


class Result(Config):
    """What is known of a part."""

    part: str
    outcome: Outcome
    why: str = ""
    """It is not done."""
    seconds: float = 0.0
    limit_s: float = 0.0
    tables: tuple[Table, ...] = ()
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    rates: list[dict[str, float | None]] = []

    @property
    def passed(self) -> bool:
        return self.outcome != "failed" and all(check.passed for check in self.checks)

    def ended(self, outcome: Outcome, why: str) -> Result:
        return self.model_copy(update={"outcome": outcome, "why": why})

    def told(self, message: Message) -> Result:
        """With one message more."""
        match message:
            case Table():
                others = [table for table in self.tables if table.title != message.title]
                return self.model_copy(update={"tables": (*others, message)})
            case Check():
                return self.model_copy(update={"checks": (*self.checks, message)})
            case Note():
                return self.model_copy(update={"notes": (*self.notes, message.text)})
            case Rates():
                return self.model_copy(update={"rates": message.rates})
            case Progress():
                return self
