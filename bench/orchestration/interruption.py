"""Requests to stop before all runs have ended: a signal, or a stop file."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

REASONS: Final[Mapping[int, str]] = {signal.SIGINT: "interrupted by hand", signal.SIGTERM: "terminated"}


class Interruption:
    """A context manager that notes the first SIGINT or SIGTERM; a second one has its usual effect.

    A stop file requests the same without a signal, because SLURM sends a signal to every process of a job step, Ray's
    included. The content of the file is the reason.
    """

    def __init__(self, stop_file: Path | None = None) -> None:
        self._stop_file = stop_file
        self._signal: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def reason(self) -> str | None:
        """Why to stop, or None as long as nobody has asked for it."""
        if self._signal is not None:
            return REASONS[self._signal]
        if self._stop_file is None:
            return None
        try:
            return self._stop_file.read_text(encoding="utf-8").strip() or None  # empty while it is being written
        except FileNotFoundError:
            return None

    @property
    def signalled(self) -> bool:
        """Whether a signal arrived, which means that somebody is waiting for the command to end."""
        return self._signal is not None

    def wait(self, seconds: float) -> None:
        """Sleep, and return early when a signal arrives meanwhile."""
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
