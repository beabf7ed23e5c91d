"""Describes how the runs of an empirical claim are planned and judged: the design of a row of the ledger.

A design is written down, with its date and commit, before its runs. Readers compare its date with the start of the runs
that it judges, so that a design that was written or changed afterwards says so itself. This module imports no torch.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BeforeValidator, Field, model_validator

from reproduce.spec import Config

Spending = Literal["obrien-fleming", "pocock"]


def _moment(value: Any) -> Any:
    """Accept a date and time that YAML left as text."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]
"""A date and time with its time zone."""


class Change(Config):
    """A later change of a design."""

    written: Moment
    """When the change was written."""
    what: str
    """What was changed and why, in one sentence."""
    commit: str = Field("", pattern=r"^([0-9a-f]{7,40})?$")
    """The commit that holds the change; empty until there is one."""


class Design(Config):
    """How many runs judge a claim, by which tests and at which levels.

    "Holds" has to be shown of every part, an intersection-union test, which is made at the whole level without a
    correction. "Does not hold" needs one part whose opposite is shown, so it is corrected over the parts.
    """

    arms: tuple[str, ...] = Field(min_length=1)
    """The arms of the experiment that take part. Runs of other arms are left out."""
    awaits: tuple[str, ...] = ()
    """Further arms whose seeds have to be finished before a look, although they take no part."""
    looks: tuple[Annotated[int, Field(ge=2)], ...] = Field(min_length=1)
    """The number of seeds of each arm at each look, in ascending order. Between looks nothing is tested."""
    resolution: int = Field(ge=1)
    """Side of the images in pixels."""
    epochs: tuple[int, ...] = Field(min_length=1)
    """Epochs of the runs; several if arms differ in them."""
    sided: Literal["one", "two"] = "two"
    """one: a one-sided test against a margin, at the level `alpha` in each direction that is asked.
    two: a claim of two directions, each of which is tested at half of `alpha`."""
    margin: float | None = Field(None, ge=0)
    """The largest difference that counts as none, in percentage points; None if the claim has no margin."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """The level of the row over all looks."""
    correction: Literal["none", "holm"] = "none"
    """How "does not hold" is corrected over the parts: by Holm's method, or not, which is for a single part."""
    spending: Spending | tuple[float, ...] | None = None
    """How the level is spent on several looks: the name of a spending function, or the levels in one direction."""
    paired: bool = False
    """Whether arms are compared seed by seed."""
    written: Moment
    """When the design was written."""
    commit: str = Field("", pattern=r"^([0-9a-f]{7,40})?$")
    """The commit that holds the design; empty until there is one."""
    note: str = ""
    """What else has to be known of the design, in one sentence."""
    changes: tuple[Change, ...] = ()
    """Later changes, oldest first. The fields above hold the design as it stands now."""

    @model_validator(mode="after")
    def _coherent(self) -> Design:
        if list(self.looks) != sorted(set(self.looks)):
            raise ValueError(f"looks: {list(self.looks)}: give the numbers of seeds in ascending order, each once")
        if len(self.looks) > 1 and self.spending is None:
            raise ValueError("spending: missing; several looks need obrien-fleming, pocock or a level for each look")
        if isinstance(self.spending, tuple):
            if len(self.spending) != len(self.looks):
                raise ValueError(
                    f"spending: {len(self.spending)} levels for {len(self.looks)} looks; give one for each"
                )
            if sum(self.spending) > self.level * (1 + 1e-9):
                raise ValueError(f"spending: the levels add up to {sum(self.spending):g}, above {self.level:g}")
        return self

    @property
    def level(self) -> float:
        """The level of a test in one direction, over all looks."""
        return self.alpha / 2 if self.sided == "two" else self.alpha

    @property
    def dated(self) -> str:
        """When the design was written and changed and in which commits it is, for tables."""
        written = f"design of {_dated(self.written, self.commit)}"
        return "".join([written, *(f", changed on {_dated(c.written, c.commit)}" for c in self.changes)])

    def written_after(self, first_start: datetime) -> bool:
        """Return whether the design was written after the first run that it judges had started."""
        return self.written > first_start

    def changed_after(self, first_start: datetime) -> list[Change]:
        """Return the changes that were written after the first run that the design judges had started."""
        return [change for change in self.changes if change.written > first_start]


def _dated(moment: datetime, commit: str) -> str:
    return f"{moment:%Y-%m-%d}" + (f" (commit {commit[:7]})" if commit else "")
