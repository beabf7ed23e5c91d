"""Locks of files, and that no attempt at one leaves a file descriptor open."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from reproduce.files import locks
from reproduce.files.locks import try_lock


@pytest.mark.parametrize("error", [BlockingIOError(), OSError(errno.ENOLCK, "No locks available")])
def test_a_lock_that_is_not_given_leaves_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise error

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    before = sorted(os.listdir("/proc/self/fd"))
    if isinstance(error, BlockingIOError):
        assert try_lock(tmp_path / "lock") is None
    else:
        with pytest.raises(OSError, match="No locks"):
            try_lock(tmp_path / "lock")
    assert sorted(os.listdir("/proc/self/fd")) == before
