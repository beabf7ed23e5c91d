"""Defines a finding of `deeper doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """A finding of `deeper doctor`: what was examined, what was found, and what to do about it."""

    name: str
    """The name of what was examined."""
    status: Status
    """`ok` if nothing is wrong, `warn` if it works slowly or incompletely, `fail` if no run works before its repair."""
    detail: str
    """What was found."""
    hint: str = ""
    """What to do about it; empty if there is nothing to do."""
