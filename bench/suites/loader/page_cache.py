"""Drops files from the page cache, and tells which share of them is in it. Needs Linux, but not root.

Dropped are the files' pages in the memory of this machine. The names and sizes of the files stay in memory, and so may
what a disk, or the host of a virtual machine, has cached itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.suites.harness.errors import MeasurementError

COLD = 0.01  # of a file's pages, at most, are in memory when it counts as dropped
_ATTEMPTS = 5
_MADV_PAGEOUT = 21  # since Linux 5.4; madvise(2)
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def resident_share(files: Sequence[Path]) -> float:
    """Return the share of the files' pages that are in memory, from 0 to 1, as mincore(2) tells it.

    The kernel shows it only to those who may write a file; it calls the pages of all other files resident.

    Args:
        files: Files, of which those that are empty do not count.

    Raises:
        MeasurementError: All files are empty.
    """
    pages, resident = 0, 0
    for file in files:
        if flags := _resident_pages(file):
            pages += len(flags)
            resident += int(np.count_nonzero(np.frombuffer(flags, np.uint8) & 1))
    if not pages:
        raise MeasurementError("there is nothing in the files whose pages are to be dropped")
    return resident / pages


def drop_pages(files: Sequence[Path]) -> None:
    """Write the files to the disk and drop their pages from memory, those that this process has mapped as well.

    Args:
        files: Files of this user. No other process may have mapped their pages.

    Raises:
        MeasurementError: More than 1 % (`COLD`) of the pages are still in memory.
    """
    for _ in range(_ATTEMPTS):
        _page_out_mappings(files)
        for file in files:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        share = resident_share(files)
        if share <= COLD:
            return
    raise MeasurementError(
        f"{files[0].parent}: {share:.1%} of the pages are still in memory after the kernel was asked to drop them, "
        f"not at most {COLD:.0%}; another process may use them, or the files may be in memory only"
    )


def _resident_pages(file: Path) -> bytes:
    """Return a byte for each page of a file, whose lowest bit says whether the page is in memory."""
    size = file.stat().st_size
    if not size:
        return b""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_READ) as mapping:
        content = np.frombuffer(mapping, np.uint8)
        flags = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
        failed = _LIBC.mincore(content.ctypes.data, size, flags)
        del content  # which would keep the mapping from being closed
        if failed:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(file))
    return flags.raw


def _page_out_mappings(files: Sequence[Path]) -> None:
    """Drop the pages that this process has mapped, because `posix_fadvise` leaves mapped pages alone."""
    names = {str(file.resolve()) for file in files}
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # a mapping without a name has fewer fields
            addresses, _, _, _, _, name = line.split(maxsplit=5)
            if name in names:
                start, end = (int(address, 16) for address in addresses.split("-"))
                _LIBC.madvise(start, end - start, _MADV_PAGEOUT)
