"""Define the base class of all configs and the names in them, and read configs from YAML.

Each mistake in a config is a line of a message.
"""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from reproduce.errors import SpecError, did_you_mean
from reproduce.text.yaml_files import parse_yaml

ADDED = "added after results were committed"
"""Marks a field, by `Annotated`, that enters a run's key only if its value differs from the default.

Runs that were recorded before the field was added therefore keep their keys."""


class _NoNumberError(ValueError):
    """Raised for what pydantic would read as a number though it is none. The message says what is valid."""


class Config(BaseModel):
    """Base class of all configs.

    Instances are immutable. Unknown keys, infinity, NaN, and truth values and text in place of numbers are rejected,
    and defaults are validated like other values.
    The docstring below a field is its description in schemas and in new experiment files.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _only_numbers_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject `true` and `'1'` for a number, which pydantic would read as 1."""
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, bool | str) for one in values):
            kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
            if kinds & {int, float} and not kinds & {bool, str}:
                if any(isinstance(one, bool) for one in values):
                    raise _NoNumberError("use a number")
                if any(isinstance(one, str) and _IN_QUOTES.fullmatch(one) for one in values):
                    raise _NoNumberError("use a number without quotes")
        return value


C = TypeVar("C", bound=Config)

MOST_MISTAKES = 20
"""Mistakes that one message names. A file of another kind has as many as it has lines."""

_VALID = {
    "bool_parsing": "use true or false",
    "bool_type": "use true or false",
    "dict_type": "use a mapping of names to values",
    "finite_number": "use a finite number",
    "float_parsing": "use a number",
    "float_type": "use a number",
    "greater_than": "use more than {gt:.9g}",
    "greater_than_equal": "use at least {ge:.9g}",
    "int_from_float": "use a whole number",
    "int_parsing": "use a whole number",
    "int_parsing_size": "use a smaller number",
    "int_type": "use a whole number",
    "less_than": "use less than {lt:.9g}",
    "less_than_equal": "use at most {le:.9g}",
    "list_type": "use a list, such as [a, b]",
    "literal_error": "use {expected}",
    "model_type": "use a mapping of names to values",
    "string_too_long": "use at most {max_length} characters",
    "string_too_short": "use at least {min_length} character",
    "string_type": "use text, in quotes where YAML would read it as a number or a truth value",
    "too_long": "use at most {max_length}",
    "too_short": "use at least {min_length}",
    "tuple_type": "use a list, such as [a, b]",
}
"""What is valid, by the type of pydantic's validation error, with the context of the error filled in."""
EXPERIMENT_NAME, ONE_LINE, WORD = r"^[a-z0-9][a-z0-9._-]*$", r"^[^\x00-\x1f\x7f]+$", r"^\S+$"
PATTERNS = {
    EXPERIMENT_NAME: "use lower-case letters, digits, dots, underscores and hyphens, beginning with a letter or digit",
    ONE_LINE: "use one line of text",
    WORD: "use one word, without spaces",
}
"""What is valid, by the pattern that a text has to match."""
_IN_QUOTES = re.compile(r"\s*[-+]?[0-9_]*\.?[0-9]+\s*")
"""Text that YAML would read as a number without its quotes; 1e-3 it would not, and pydantic reads that."""
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80
_SHOWN.maxlong = 40


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
    content = parse_yaml(text, where=where)
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
        mistakes = _without_consequences(error.errors())
        lines = [_sentence(model, mistake) for mistake in mistakes[:MOST_MISTAKES]]
        if len(mistakes) > MOST_MISTAKES:
            lines.append(f"there are {len(mistakes) - MOST_MISTAKES} more mistakes; is this the right file?")
        raise SpecError("\n".join(f"{where}{line}" for line in lines)) from error


def _without_consequences(mistakes: list[Any]) -> list[Any]:
    """Leave out that a list is too short where that is so only because of mistakes in its items."""
    return [
        mistake
        for mistake in mistakes
        if mistake["type"] != "too_short"
        or not any(other["loc"][: len(mistake["loc"])] == mistake["loc"] for other in mistakes if other is not mistake)
    ]


def _kinds(annotation: Any) -> set[type]:
    """The classes in a field's annotation, such as `tuple` and `int` in `tuple[int, ...]`."""
    within = {kind for argument in get_args(annotation) for kind in _kinds(argument)}
    return within | {annotation} if isinstance(annotation, type) else within


def _sentence(model: type[Config], mistake: Any) -> str:
    """Turn one of pydantic's validation errors into a line that names the field, the value and what is valid."""
    of_a_key = mistake["loc"][-1:] == ("[key]",)
    location = [_brief(str(part)) for part in mistake["loc"][: -1 if of_a_key else None]]
    field = ".".join(location) or "experiment"
    kind, value = mistake["type"], _SHOWN.repr(mistake["input"])
    if kind == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        hint = did_you_mean(location[-1], known)
        return f"{field}: unknown key; known here: {', '.join(known)}{hint}"
    if kind == "missing":
        return f"{field}: missing; it has no default"
    if kind == "value_error" and isinstance(mistake["ctx"]["error"], _NoNumberError):
        return f"{field}: {value}: {mistake['ctx']['error']}"
    if kind == "value_error":
        message = str(mistake["ctx"]["error"])
        if of_a_key:
            return f"{field}: {message}"
        return f"{field}.{message}" if location else message  # starts with the field, see the validators of the configs
    if kind == "string_pattern_mismatch":
        pattern = mistake["ctx"]["pattern"]
        return f"{field}: {value}: {PATTERNS.get(pattern, f'does not match the pattern {pattern}')}"
    valid = _VALID.get(kind, f"{mistake['msg'][0].lower()}{mistake['msg'][1:]}").format(**mistake.get("ctx", {}))
    hint = ""
    if kind == "literal_error":
        hint = did_you_mean(
            str(mistake["input"]), mistake["ctx"]["expected"].replace("'", "").replace(" or", ",").split(", ")
        )
    return f"{field}: {value}: {valid}{hint}"


def _brief(part: str) -> str:
    """Shorten a part of a location, which may be a key of the user's, and make visible what cannot be seen in it."""
    part = part if part.isprintable() else repr(part)[1:-1]
    return (part if len(part) <= 80 else f"{part[:77]}...") or "''"


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


# --- names ---------------------------------------------------------------------------------------------

LONGEST_NAME = 100
"""Characters that the name of an arm may have."""
SEPARATORS = ":/"
"""Characters that separate the parts of a run's name on the command line, as in EXPERIMENT:ARM:SEED."""


def arm_name(text: str) -> str:
    """Check the name of an arm, and return it in Unicode's normal form C.

    Raises:
        ValueError: The name is empty or too long, has spaces around it, or has characters that cannot be shown or that
            separate names.
    """
    name = unicodedata.normalize("NFC", text)
    if not name.strip():
        raise ValueError("an arm needs a name; give it a word, such as baseline")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"the name of this arm has {len(name)} characters; use at most {LONGEST_NAME}")
    if name != name.strip() or not name.isprintable():
        raise ValueError(f"the name of this arm, {name!r}, has spaces around it or characters that cannot be shown")
    if found := next((character for character in SEPARATORS if character in name), None):
        raise ValueError(f"the name of this arm has a {found!r}, which separates names of runs; use a hyphen")
    return name


ArmName = Annotated[str, AfterValidator(arm_name)]
DataPath = Annotated[str, Field(min_length=1, max_length=1000, pattern=ONE_LINE)]
"""A path of one line."""
