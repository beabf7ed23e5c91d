"""Reads images from the disk before they are decoded, and nothing around them.

FFCV decodes from a mapped file. A page that is not in memory is then read when a decoder meets it, together with what
lies around it in the file: up to the read-ahead of the disk, which may be megabytes. In a random order of the images
that is of use only if all of it stays in memory until its turn comes. Of data that are larger than the memory, an epoch
would read many times their size.
"""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
IS_SUPPORTED = hasattr(os, "posix_fadvise")  # elsewhere than on Linux, pages are read as they are met
PIECE = 1 << 16  # bytes; of one request, the kernel reads perhaps no more than its default read-ahead, 128 KiB


class ReadAhead:
    """Asks the kernel to read the images of a file.

    Args:
        file: The file.
        starts: [N], position of each image in the file, in bytes.
        sizes: [N], size of each image in the file, in bytes.
    """

    def __init__(self, file: Path, starts: npt.NDArray[np.uint64], sizes: npt.NDArray[np.uint64]) -> None:
        end = np.uint64(file.stat().st_size)  # which a damaged table may exceed
        self._starts = np.minimum(starts, end).astype(np.int64)
        self._sizes = np.minimum(sizes, end).astype(np.int64)
        self._file = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def ask_for(self, numbers: Numbers) -> None:
        """Have images read into memory, those that are not there, without waiting until they are.

        Args:
            numbers: Numbers of the images in the file.
        """
        if IS_SUPPORTED:
            for start, size in zip(self._starts[numbers].tolist(), self._sizes[numbers].tolist(), strict=True):
                for position in range(start, start + size, PIECE):
                    os.posix_fadvise(self._file, position, min(PIECE, start + size - position), os.POSIX_FADV_WILLNEED)


def read_nothing_around(content: np.memmap[tuple[int], np.dtype[np.uint8]]) -> None:
    """Have the kernel read only the pages of a mapped file that are met, and nothing around them.

    Args:
        content: A whole file, mapped by numpy.
    """
    if IS_SUPPORTED and isinstance(content.base, mmap.mmap):
        content.base.madvise(mmap.MADV_RANDOM)
