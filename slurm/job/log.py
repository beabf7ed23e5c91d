"""Writes lines to the job's log, into which SLURM collects the output of all nodes."""

from __future__ import annotations

import socket
import sys
import time

from reproduce.text.redaction import redacted


def log(text: str) -> None:
    """Write a line with the local time and the name of this host to standard error, which is the log of the job.

    Secrets in it are hidden.
    """
    print(f"{time.strftime('%F %T')} {socket.gethostname()}: {redacted(text)}", file=sys.stderr, flush=True)


def one_line(error: Exception) -> str:
    """Return the message of an error in one line, with " | " in place of line breaks."""
    return " | ".join(str(error).splitlines())
