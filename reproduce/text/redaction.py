"""Hides passwords and tokens in text that is printed, logged or recorded."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import TextIO, cast
from urllib.parse import quote

HIDDEN = "***"

SECRET_NAME = r"\w*(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|ACCESS_KEY|SECRET_KEY|CREDENTIALS?)"
"""Pattern of the names of environment variables, and of parameters of a URL, whose values are secrets."""

SHORTEST_SECRET = 6
"""Length below which the value of a variable is not hidden: what is shorter is found in words that are no secret."""

_SECRET_VARIABLE = re.compile(SECRET_NAME, re.IGNORECASE)
_USER_INFO = re.compile(r"""(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/?#"'<>{}\\\[\]]*@""", re.IGNORECASE)
_HEADER = re.compile(r"""(?P<name>\bAuthorization["']?\s*[:=]\s*b?["']?\w+\s+)[^\s"',}]+""", re.IGNORECASE)
_PARAMETER = re.compile(rf"""(?P<name>[?&]{SECRET_NAME}=)[^\s&#"'<>]+""", re.IGNORECASE)


def redacted(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Replace the secrets in a text by `***`.

    Secrets are the user information of every URL (`http://***@host`), the parameters of a URL whose names are those of
    secrets, the credentials of HTTP headers, and the values of the environment variables whose names are those of
    secrets, such as MLFLOW_TRACKING_PASSWORD, AWS_SECRET_ACCESS_KEY and RAY_AUTH_TOKEN, also as URLs hold them.

    Args:
        text: A text of one or more lines. A result of this function is not changed by it.
        environment: The environment variables.
    """
    text = _PARAMETER.sub(rf"\g<name>{HIDDEN}", _USER_INFO.sub(rf"\g<scheme>{HIDDEN}@", text))
    text = _HEADER.sub(rf"\g<name>{HIDDEN}", text)
    values = {value for name, value in environment.items() if _SECRET_VARIABLE.fullmatch(name)}
    values |= {quote(value, safe="") for value in values}
    for value in sorted(values, key=len, reverse=True):  # one may be a part of another
        if len(value) >= SHORTEST_SECRET:
            text = text.replace(value, HIDDEN)
    return text


class RedactingStream(io.TextIOBase):
    """A text stream that passes whole lines on to another one, without the secrets in them.

    A line without its end is passed on when the stream is closed, which leaves the other stream open. Several threads
    may write to it.

    Args:
        stream: The stream that receives the lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Pass on what `text` completes. Returns its length."""
        with self._lock:
            whole, end, self._line = (self._line + text).rpartition("\n")
            if end:
                self._stream.write(redacted(whole) + end)
        return len(text)

    def flush(self) -> None:
        """Flush the other stream."""
        self._stream.flush()

    def close(self) -> None:
        """Pass on the last line, which may lack its end."""
        with self._lock:
            if not self.closed and self._line:
                self._stream.write(redacted(self._line))
                self._line = ""
        super().close()

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor of the other stream, to which native code writes as it is."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Return whether the other stream is a terminal."""
        return self._stream.isatty()


def redacting(stream: TextIO) -> TextIO:
    """Return a `RedactingStream`, which can take the place of `sys.stdout` or `sys.stderr`."""
    return cast(TextIO, RedactingStream(stream))


@contextlib.contextmanager
def redacting_output() -> Iterator[None]:
    """Hide secrets in what this process prints by Python's `sys.stdout` and `sys.stderr`, within a block."""
    with (
        contextlib.closing(redacting(sys.stdout)) as out,
        contextlib.closing(redacting(sys.stderr)) as error,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        yield
