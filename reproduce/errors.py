"""The one type of error that says the user can mend it."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave: a file, an option, a data set, a machine that lacks something.

    Its message is a whole sentence that names the field, the value and what would be valid. The command line and the
    launcher of a SLURM job print it without a traceback. Any other exception that reaches them is a bug of this
    project and is shown with its traceback. It is a `ValueError`, so that pydantic's validators may raise it.
    """
