"""One finding of `deeper doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One finding of `deeper doctor`: what was examined, what was found, and what to do about it."""

    name: str
    status: Status
    """ok; warn: it works, but slower or not completely; fail: nothing runs before it is repaired."""
    detail: str
    """What was found."""
    hint: str = ""
    """What to do about it; empty if there is nothing to do."""
