"""Define the base class of all configs, and read configs from YAML with one line of message for each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from reproduce.errors import UserError, did_you_mean


class SpecError(UserError):
    """Raised when an experiment or another config is not valid. The message has one line for each mistake."""


ADDED = "added after results were committed"
"""Marks a field, by `Annotated`, that enters a run's key only if its value differs from the default.

Runs that were recorded before the field was added therefore keep their keys."""


class Config(BaseModel):
    """Base class of all configs.

    Instances are immutable. Unknown keys, infinity and NaN are rejected, and defaults are validated like other values.
    The docstring below a field is its description in schemas and in new experiment files.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


C = TypeVar("C", bound=Config)


def read_text(path: Path) -> str:
    """Read a text file that a user wrote.

    Raises:
        SpecError: The file cannot be read, or its text is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error


def from_yaml(model: type[C], text: str, *, what: str, where: str) -> C:
    """Read a config from YAML.

    Args:
        model: The class of the config.
        text: The YAML text.
        what: Name of the kind of config with its article, for messages, such as "an experiment".
        where: Name of the file or other origin of the text, for messages.

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
    """Build a config from a mapping, with defaults filled in.

    Args:
        model: The class of the config.
        content: The values of its fields.
        where: Text before each line of a message, with its punctuation, such as "arms.small.recipe.".

    Raises:
        SpecError: The content is not valid. The message has one line for each mistake, which starts with `where` and
            the name of the field.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [_sentence(model, mistake) for mistake in error.errors()]
        raise SpecError("\n".join(f"{where}{line}" for line in lines)) from error


def _sentence(model: type[Config], mistake: Any) -> str:
    """Turn one of pydantic's validation errors into a line that names the field, the value and what is valid."""
    location = [str(part) for part in mistake["loc"]]
    field = ".".join(location) or "experiment"
    if mistake["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        hint = did_you_mean(location[-1], known)
        return f"{field}: unknown key; known here: {', '.join(known)}{hint}"
    if mistake["type"] == "missing":
        return f"{field}: missing; it has no default"
    if mistake["type"] == "value_error":
        message = str(mistake["ctx"]["error"])  # starts with the field, see the validators above
        return f"{field}.{message}" if location else message
    return f"{field}: {mistake['input']!r}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}"


def _known_keys(model: type[Config], location: list[str]) -> list[str]:
    """List the valid keys at a location in a config, sorted."""
    for part in location:
        if part in model.model_fields:  # otherwise a key or an index, whose values `model` describes already
            model = _config_in(model.model_fields[part].annotation) or model
    return sorted(model.model_fields)


def _config_in(annotation: Any) -> type[Config] | None:
    """Find the config class in a field's annotation, such as `ArmConfig` in `dict[str, ArmConfig]`, or None."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    return next(filter(None, map(_config_in, get_args(annotation))), None)
