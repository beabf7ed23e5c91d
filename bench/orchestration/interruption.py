"""Receives requests to stop before all runs have ended, by a signal or by a stop file."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

REASONS: Final[Mapping[int, str]] = {signal.SIGINT: "interrupted by hand", signal.SIGTERM: "terminated"}

STOP_FILE_EVERY_S = 2.0
"""Least seconds between two looks for a stop file, which lies on a file system that all jobs of a cluster share."""


class Interruption:
    """A context manager that turns SIGINT, SIGTERM and a stop file into a request that the block can query.

    Within the block, the first SIGINT and the first SIGTERM only set `reason`; a second signal of the same kind has its
    previous effect. The handlers are process-wide, so only the main thread can enter the block. A stop file requests a
    stop without a signal, because SLURM sends a signal to every process of a job step, including Ray's.

    Args:
        stop_file: A file whose appearance requests a stop. Its content is the reason, so an empty file has no effect.
    """

    def __init__(self, stop_file: Path | None = None) -> None:
        self._stop_file = stop_file
        self._stop: str | None = None
        self._looked_at = -math.inf
        self._signal: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def reason(self) -> str | None:
        """Why to stop, or None if nothing has requested it.

        After a signal this is its entry in `REASONS`. Without a signal it is the content of the stop file, which is
        looked for at most every `STOP_FILE_EVERY_S` seconds.
        """
        if self._signal is not None:
            return REASONS[self._signal]
        if self._stop_file is not None and time.monotonic() - self._looked_at >= STOP_FILE_EVERY_S:
            self._looked_at = time.monotonic()
            with contextlib.suppress(FileNotFoundError):  # and it is empty while it is written
                self._stop = self._stop_file.read_text(encoding="utf-8", errors="replace").strip() or None
        return self._stop

    @property
    def signalled(self) -> bool:
        """Whether a signal has arrived, so that the command should end soon. A stop file does not set this."""
        return self._signal is not None

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`, or until a signal arrives. A stop file does not end the sleep."""
        known, until = self._signal, time.monotonic() + seconds
        while self._signal == known and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def __enter__(self) -> Interruption:
        for number in REASONS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self._signal = number
        signal.signal(number, self._previous[number])
