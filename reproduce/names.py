"""Define the texts by which experiments call things, so that each can be shown, typed and used as a file's name."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

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
DataPath = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A path of one line."""
