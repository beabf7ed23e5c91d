"""What an evaluation has found so far, kept in a folder, so that one which was stopped goes on where it was."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reproduce.atomic import replacing

EVERY_S = 20.0


class Found(NamedTuple):
    """Images in any order: their numbers and labels [N], best five classes [N, 5], losses [N]."""

    number: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    top5: npt.NDArray[np.int64]
    loss: npt.NDArray[np.float64]

    @classmethod
    def joined(cls, parts: Sequence[Found]) -> Found:
        """Of several, each image once, in the order of their numbers."""
        columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
        _, first = np.unique(columns[0], return_index=True)
        return cls(*(column[first] for column in columns))


class Parts:
    """Writes what one process finds, now and then, as new files of a folder; `with` writes the rest, whatever happens.

    Several processes may write to one folder. None: keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._unwritten: list[Found] = []
        self._written_at = time.monotonic()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, found: Found) -> None:
        self._unwritten.append(found)
        if time.monotonic() - self._written_at > EVERY_S:
            self._write()

    def _write(self) -> None:
        if self._folder is not None and self._unwritten:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder / f"{uuid.uuid4().hex}.npz") as file:
                np.savez(file, **Found.joined(self._unwritten)._asdict())
        self._unwritten = []
        self._written_at = time.monotonic()


def read_parts(folder: Path) -> Found | None:
    """All that the files of a folder hold; None if that is nothing."""
    parts = []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as content:
            parts.append(Found(**content))
    return Found.joined(parts) if parts else None
