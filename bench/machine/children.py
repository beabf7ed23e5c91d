"""Lets processes end with the process that started them, even if that one is killed and can end nothing itself."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

KILL_GROUP_AFTER_STDIN: Final = 'exec 3<&0; (read _ <&3; kill -KILL 0) & exec "$@" <&- 3<&-'
"""A script of sh that becomes the command in its arguments. A subshell stays beside it, in the same process group, and
kills the group once standard input is closed."""

_libc = ctypes.CDLL(None)


def end_with_parent() -> None:
    """Let Linux kill this process, but not its descendants, once the thread that has started it ends.

    It can be called in the process itself, or between fork and exec (`preexec_fn` of `subprocess.Popen`). On other
    systems than Linux it does nothing.
    """
    if not hasattr(_libc, "prctl"):
        return
    parent = os.getppid()
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def ending_with_stdin(command: Sequence[str]) -> list[str]:
    """Wrap a command so that it and its descendants are killed once its standard input is closed.

    Start it with `stdin=subprocess.PIPE` and `start_new_session=True`, and keep the pipe open: the kernel closes it
    with the process that holds it. The process of the command is the one that is started, and its own standard input is
    closed.
    """
    return ["/bin/sh", "-c", KILL_GROUP_AFTER_STDIN, "sh", *command]
