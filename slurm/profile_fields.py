"""Annotations that declare, beside each field of a profile, the option or the resource that it requests.

A field is annotated with the option of `sbatch` that it sets, the option of the launcher that it sets, or the resource
of a node that it requests. The batch scripts, the checks against a cluster, the check that the field `sbatch` repeats
no other field's option, and the README's table are derived from these annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from slurm.queries import NodeKind

Section = Literal["queue", "job", "node", "dependency", "signal"]


@dataclass(frozen=True)
class SbatchOption:
    """Annotation of a field that sets an option of `sbatch`."""

    name: str
    """Name of the option without the dashes."""
    section: Section
    """The group of directives that the option belongs to. Those in `queue` are also in the report's script; `job`,
    `node` and `signal` are in the experiment's script only, in that order."""
    form: str = "{}"
    """Format string that makes the option's value from the field's value."""

    def directive(self, value: object) -> object:
        """Convert the field's value to that of the option.

        Returns:
            None if the field's value is None, 0, False or empty, which leaves the option out; True if it is True, for
            an option without a value; otherwise a string.
        """
        if not value:
            return None
        return True if value is True else self.form.format(value)


@dataclass(frozen=True)
class LauncherOption:
    """Annotation of a field that sets an option of the launcher, which is left out if the field's value is None."""

    name: str
    """Name of the option without the dashes."""


@dataclass(frozen=True)
class NodeResource:
    """Annotation of a field that requests an amount of a resource on each node."""

    unit: str
    """Unit of the field's value, for messages."""
    available: Callable[[NodeKind], int]
    """Returns the amount of the resource on a node of the given kind, in the same unit."""


Meaning = SbatchOption | LauncherOption | NodeResource
M = TypeVar("M", SbatchOption, LauncherOption, NodeResource)


def fields_with(model: type[BaseModel], kind: type[M]) -> Iterator[tuple[str, M]]:
    """Find the fields that carry an annotation of one class.

    Args:
        model: The class of profiles.
        kind: Class of the annotation.

    Yields:
        The name of the field and its annotation, in the order of declaration.
    """
    for name, field in model.model_fields.items():
        for meaning in field.metadata:
            if isinstance(meaning, kind):
                yield name, meaning


def markdown_table(model: type[BaseModel]) -> str:
    """Return a table in Markdown of all fields: name, default, description and option of `sbatch`."""
    return "\n".join(["| field | default | meaning | `sbatch` |", "|---|---|---|---|", *_rows(model)])


def _rows(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield a row for each field, followed by the fields within it, which have a dotted name."""
    options = {name: f"`--{option.name}`" for name, option in fields_with(model, SbatchOption)}
    for name, field in model.model_fields.items():
        meaning = " ".join((field.description or "").split())
        yield f"| `{prefix}{name}` | {_default(field)} | {meaning} | {options.get(name, '')} |"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _rows(field.annotation, f"{prefix}{name}.")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return "below"
    if default is None or default in ("", ()):
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)
