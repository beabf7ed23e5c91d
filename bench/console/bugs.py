"""What the command line does about a bug: a log file with the traceback, and one line that names it."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

TRACEBACK_VARIABLE = "DEEPER_TRACEBACK"


def traceback_wanted() -> bool:
    """Whether the user asks for tracebacks on the screen."""
    return bool(os.environ.get(TRACEBACK_VARIABLE))


def log_bug(error: Exception, command: Sequence[str], records: Path | None) -> Path | None:
    """Write the traceback of an unexpected exception to a log file.

    Args:
        error: The exception.
        command: The words of the command line.
        records: Folder of the records, if known. The log goes to its subfolder `logs`, and to the folder for temporary
            files if that cannot be written.

    Returns:
        The path of the log, or None if no folder can be written.
    """
    name = f"bug-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    content = (
        f"command: {' '.join(command)}\n"
        f"folder: {Path.cwd()}\n"
        f"Python: {platform.python_version()} at {sys.executable}\n\n"
        f"{''.join(traceback.format_exception(error))}"
    )
    for folder in (*([records / "logs"] if records else []), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
        except OSError:
            continue
        return folder / name
    return None


def describe_bug(error: Exception, log: Path | None) -> str:
    """Return one line that names the exception and the log file."""
    message = next(iter(str(error).splitlines()), "")
    name = f"{type(error).__name__}: {message}" if message else type(error).__name__
    place = f"the traceback is in {log}" if log else f"no log could be written; {TRACEBACK_VARIABLE}=1 shows it here"
    return f"this is a bug: {name}; {place}"
