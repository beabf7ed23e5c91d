"""What each field of a profile stands for: declared once, beside the field, and read by everything that needs it.

A field is annotated with the option of `sbatch` that it becomes, the option of the launcher that it becomes, or the
resource of a node that it asks for. The batch scripts, the checks against a cluster, the refusal of a second way to
give the same option, and the table in the README follow from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from slurm.queries import NodeKind

Section = Literal["queue", "job", "node", "signal"]


@dataclass(frozen=True)
class SbatchOption:
    """The field becomes an option of `sbatch`, unless its value is None, 0 or False. True becomes a flag."""

    name: str
    """Without the dashes."""
    section: Section
    """Which part of the directives it belongs to: `queue` (of the report's script, too), `job`, `node` or `signal`."""
    form: str = "{}"
    """How the value is written."""

    def directive(self, value: object) -> object:
        """The option's value as `sbatch` takes it; None to leave the option out, True for a flag."""
        if not value:
            return None
        return True if value is True else self.form.format(value)


@dataclass(frozen=True)
class LauncherOption:
    """The field becomes an option of the launcher, unless its value is None."""

    name: str
    """Without the dashes."""


@dataclass(frozen=True)
class NodeResource:
    """The field asks for an amount of something that each node of a partition has."""

    unit: str
    available: Callable[[NodeKind], int]
    """How much of it a node of some kind has."""


Meaning = SbatchOption | LauncherOption | NodeResource
M = TypeVar("M", SbatchOption, LauncherOption, NodeResource)


def fields_with(model: type[BaseModel], kind: type[M]) -> Iterator[tuple[str, M]]:
    """The fields of a profile that are annotated with a kind of meaning, in the order of their declaration."""
    for name, field in model.model_fields.items():
        for meaning in field.metadata:
            if isinstance(meaning, kind):
                yield name, meaning


def markdown_table(model: type[BaseModel]) -> str:
    """A table of all fields of a profile: name, default, meaning and the option of `sbatch`."""
    options = {name: f"`--{option.name}`" for name, option in fields_with(model, SbatchOption)}
    rows = [
        f"| `{name}` | {_default(field)} | {' '.join((field.description or '').split())} | {options.get(name, '')} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(["| field | default | meaning | `sbatch` |", "|---|---|---|---|", *rows])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None or default in ("", ()):
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)
