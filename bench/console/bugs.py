"""Reports a bug: writes the traceback to a log file and composes the line that names this file."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from reproduce.text.redaction import redacted

TRACEBACK_VARIABLE = "DEEPER_TRACEBACK"
"""Environment variable that, if it is set and not empty, shows tracebacks on the screen."""


def traceback_wanted() -> bool:
    """Return whether $DEEPER_TRACEBACK asks for tracebacks on the screen."""
    return bool(os.environ.get(TRACEBACK_VARIABLE))


def log_bug(error: Exception, command: Sequence[str], records: Path | None) -> Path | None:
    """Write the traceback of an unexpected exception to a log file.

    Args:
        error: The exception.
        command: The words of the command line, which the log repeats.
        records: The folder of the records, or None if it is not known. The log goes to its subfolder `logs` or, if
            that cannot be written, to the system's folder for temporary files.

    Returns:
        The path of the log, or None if neither folder can be written.
    """
    name = f"bug-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    content = redacted(
        f"command: {' '.join(command)}\n"
        f"folder: {Path.cwd()}\n"
        f"Python: {platform.python_version()} at {sys.executable}\n\n"
        f"{''.join(traceback.format_exception(error))}"
    )
    for folder in (*([records / "logs"] if records else []), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / name, "x", encoding="utf-8", errors="backslashreplace") as file:
                file.write(content)  # follows no link that others have planted
        except OSError:
            continue
        return folder / name
    return None


def describe_bug(error: Exception, log: Path | None) -> str:
    """Return one line that names the exception and, unless `log` is None, the log file."""
    message = next(iter(redacted(str(error)).splitlines()), "")
    name = f"{type(error).__name__}: {message}" if message else type(error).__name__
    place = f"the traceback is in {log}" if log else f"no log could be written; {TRACEBACK_VARIABLE}=1 shows it here"
    return f"this is a bug: {name}; {place}"
