"""Keep the results of single images in a folder during an evaluation, so that a stopped one can be continued."""

from __future__ import annotations

import logging
import time
import uuid
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reproduce.files.atomic import replacing

WRITE_EVERY_S = 20.0

log = logging.getLogger(__name__)


class ImageResults(NamedTuple):
    """The evaluation results of N images, in any order, as one array for each kind of result."""

    number: npt.NDArray[np.int64]
    """Index of each image in the validation set, [N]."""
    label: npt.NDArray[np.int64]
    """Label, [N]."""
    top5: npt.NDArray[np.int64]
    """The five most probable classes, most probable first, [N, 5]; fewer columns if there are fewer classes."""
    loss: npt.NDArray[np.float64]
    """Cross-entropy of the averaged probabilities, [N]."""

    @classmethod
    def joined(cls, results: Sequence[ImageResults]) -> ImageResults:
        """Join several results into one, ordered by number.

        Args:
            results: The results, at least one. Of an image in several of them, the first is kept.
        """
        columns: list[Any] = [np.concatenate(column) for column in zip(*results, strict=True)]
        _, first = np.unique(columns[0], return_index=True)
        return cls(*(column[first] for column in columns))


class ResultWriter:
    """Context manager that writes the results of one process to new files in a folder.

    Results are written by `add`, once 20 seconds have passed since the last file, and when the `with` block ends, also
    by an exception. Several processes may write to one folder.

    Args:
        folder: The folder, which is created if necessary. None: results are discarded.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._unwritten: list[ImageResults] = []
        self._written_at = time.monotonic()

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, results: ImageResults) -> None:
        """Add the results of a batch. A file is written if the last one is more than 20 seconds old."""
        self._unwritten.append(results)
        if time.monotonic() - self._written_at > WRITE_EVERY_S:
            self._write()

    def _write(self) -> None:
        if self._folder is not None and self._unwritten:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder / f"{uuid.uuid4().hex}.npz") as file:
                np.savez(file, **ImageResults.joined(self._unwritten)._asdict())
        self._unwritten = []
        self._written_at = time.monotonic()


def read_results(folder: Path) -> ImageResults | None:
    """Read the results that all writers have written to a folder.

    A damaged file is left out with a warning, so that its images are evaluated again. The checksums of its zip archive
    show the damage.

    Returns:
        Each image once, ordered by number. None if the folder has no results or does not exist.
    """
    results = []
    for file in sorted(folder.glob("*.npz")):
        try:
            with np.load(file) as content:
                results.append(ImageResults(**content))
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("%s: damaged, so that its images are evaluated again: %s", file, error)
    return ImageResults.joined(results) if results else None
