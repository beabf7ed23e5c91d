"""Prepared data copied to a node's own disk, whole and verified, for all jobs of a user on that node.

Where many nodes read one file system, FFCV's random reads of every epoch are the traffic that it feels most.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from reproduce.data import load_manifest, verify
from reproduce.errors import UserError

CHUNK = 64 * 2**20
TELL_EVERY_S = 10.0
GIB = 2**30


def stage(data: Path, paths: Sequence[str], scratch: str, tell: Callable[[str], None]) -> Path:
    """Copy the data sets `data`/path to `scratch` where they are not there yet; the data root to use instead.

    $VARIABLES in `scratch` are those of this node. The folder's name tells the content, so jobs with other data do not
    meet, and a copy gets its name only once it is verified. Raises `ValueError` (`DataError` among them) with one line.
    """
    expanded = os.path.expandvars(scratch)
    if "$" in expanded or not os.path.isabs(expanded):
        raise UserError(f"scratch: {scratch} is {expanded!r} on this node; name a folder on the node's own disk")
    manifests = {path: load_manifest(data / path) for path in sorted(paths)}
    content = hashlib.sha256(repr([(path, manifest.hash) for path, manifest in manifests.items()]).encode())
    root = Path(expanded) / f"deeper-{os.getuid()}" / content.hexdigest()[:12]
    try:
        root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"scratch: {expanded}: {error.strerror}; name a folder that jobs may write to") from error
    with open(root.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another job of this node may be copying the same
        if root.is_dir():
            for path in manifests:
                load_manifest(root / path)
            return root
        _copy(data, list(manifests), root, tell)
    return root


def _copy(data: Path, paths: Sequence[str], root: Path, tell: Callable[[str], None]) -> None:
    files = [file for path in paths for file in sorted((data / path).iterdir()) if file.is_file()]
    total = sum(file.stat().st_size for file in files)
    free = shutil.disk_usage(root.parent).free
    if total > free:
        raise UserError(f"scratch: {root.parent}: {total / GIB:.1f} GiB are needed and {free / GIB:.1f} GiB are free")
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a job that was killed while it copied
    start = told = time.monotonic()
    done = 0
    for file in files:
        target = partial / file.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as source, target.open("wb") as copy:
            while chunk := source.read(CHUNK):
                copy.write(chunk)
                done += len(chunk)
                now = time.monotonic()
                if now - told > TELL_EVERY_S:
                    told = now
                    left = (total - done) * (now - start) / done
                    tell(f"staging: {done / GIB:.1f} of {total / GIB:.1f} GiB, about {left:.0f} s left")
    for path in paths:
        verify(partial / path)
    partial.rename(root)
    tell(f"staged {total / GIB:.2f} GiB to {root} in {time.monotonic() - start:.0f} s, verified")
