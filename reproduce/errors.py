"""The one type of error that the user can mend, and a hint for mistyped words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave: a file, an option, a data set, a machine that lacks something.

    Its message is a whole sentence that names the field, the value and what would be valid. The command line and the
    launcher of a SLURM job print it without a traceback. Any other exception that reaches them is a bug of this
    project and is shown with its traceback. It is a `ValueError`, so that pydantic's validators may raise it.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence, "; did you mean NAME?", for the known name that is most like `word`; empty if none is."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
