"""Lines of the job's log, which holds what every node of the job prints."""

from __future__ import annotations

import socket
import sys
import time


def log(text: str) -> None:
    """Write a line to the job's log, with time and host."""
    print(f"{time.strftime('%F %T')} {socket.gethostname()}: {text}", file=sys.stderr, flush=True)


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return " | ".join(str(error).splitlines())
