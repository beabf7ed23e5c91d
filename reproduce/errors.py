"""Define the base class of all errors that the user can correct, and a hint for mistyped words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Raised for a mistake that the user can correct, in a file, an option, a data set or the set-up of a machine.

    The message names the field, the value and what would be valid. The command line and the launcher of a SLURM job
    print it without a traceback. Any other exception that reaches them is a bug of this project and is shown with its
    traceback. The class is a `ValueError`, so that pydantic's validators may raise it.
    """


class CannotContinueError(UserError):
    """Raised if no run can go on until the user has mended something outside of the runs, such as a full disk.

    It is not the fault of the run that meets it: the run is interrupted rather than failed, no retry is used up, and
    all other runs are stopped as well. The same command resumes them.
    """


class SpecError(UserError):
    """Raised when an experiment or another config is not valid. The message has one line for each mistake."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the known name that is most similar to a mistyped word.

    Returns:
        The end of a message, "; did you mean NAME?". Empty if no known name is similar.
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
