"""The base of all configs: frozen, validated, read from YAML, with one line for each mistake."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from reproduce.errors import UserError


class SpecError(UserError):
    """A user's mistake in an experiment or another config; the message has one line for each mistake."""


ADDED = "added after results were committed"
"""Marks a field (with `Annotated`) that a run's key leaves out while it has its default.

Runs from before the field was added keep their keys."""


class Config(BaseModel):
    """Base of every config: frozen, without unknown keys, and with validated defaults."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


C = TypeVar("C", bound=Config)


def from_yaml(model: type[C], text: str, *, what: str, where: str) -> C:
    """Read a config from YAML.

    Args:
        model: The class of the config.
        text: The YAML text.
        what: What the config is, for messages: "an experiment".
        where: Where the text comes from, for messages.

    Raises:
        SpecError: The text is not YAML, or not a valid config.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{where}: not YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise SpecError(f"{where}: {what} is a mapping with {', '.join(model.model_fields)}")
    return validated(model, content, where=f"{where}: ")


def validated(model: type[C], content: Mapping[str, Any], where: str) -> C:
    """Validate `content` as a config.

    Raises:
        SpecError: One line for each mistake, starting with `where` and the field.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [_sentence(model, mistake) for mistake in error.errors()]
        raise SpecError("\n".join(f"{where}{line}" for line in lines)) from error


def _sentence(model: type[Config], mistake: Any) -> str:
    """One of pydantic's validation errors as a line that names the field, the value and what is valid."""
    location = [str(part) for part in mistake["loc"]]
    field = ".".join(location) or "experiment"
    if mistake["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{field}: unknown key; known here: {', '.join(known)}{hint}"
    if mistake["type"] == "missing":
        return f"{field}: missing; it has no default"
    if mistake["type"] == "value_error":
        message = str(mistake["ctx"]["error"])  # starts with the field, see the validators above
        return f"{field}.{message}" if location else message
    return f"{field}: {mistake['input']!r}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}"


def _known_keys(model: type[Config], location: list[str]) -> list[str]:
    """The keys that are known at a location in a config."""
    for part in location:
        if part in model.model_fields:  # otherwise a key or an index, whose values `model` describes already
            model = _config_in(model.model_fields[part].annotation) or model
    return sorted(model.model_fields)


def _config_in(annotation: Any) -> type[Config] | None:
    """The config class that a field's annotation names, such as `ArmConfig` in `dict[str, ArmConfig]`."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    return next(filter(None, map(_config_in, get_args(annotation))), None)
