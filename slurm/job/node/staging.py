"""Checks the data sets that a node reads, or copies them to the node's own disk for all jobs of this user on the node.

Many nodes that read one shared file system at random positions, as FFCV does in every epoch, slow it down for everyone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path

from reproduce.data import load_manifest, verify
from reproduce.errors import UserError
from reproduce.files.disk import naming_full_disk
from reproduce.files.private_folders import private_folder
from reproduce.grid import arm_data
from reproduce.spec import load_experiment
from slurm.job.config import LauncherConfig
from slurm.job.log import log

STAGING_TIMEOUT_S = 4 * 3600  # for the slowest node of a job to copy its data
POLL_S = 0.5
CHUNK_BYTES = 64 * 2**20
PROGRESS_INTERVAL_S = 10.0
GIB = 2**30


def prepare_data_unless(config: LauncherConfig, is_over: Callable[[], bool]) -> Path | None:
    """Prepare the data as `prepare_data` does, but give up once the job is over, also in the middle of a file.

    Another thread does the work. It ends with this process, and what it has copied by then is never used.

    Args:
        config: Settings of the launcher.
        is_over: Called about every `POLL_S` seconds; says whether the job is over.

    Returns:
        The root folder from which this node reads the data sets; None if the job is over.

    Raises:
        UserError: As `prepare_data`.
    """
    prepared: Future[Path] = Future()

    def prepare() -> None:
        try:
            prepared.set_result(prepare_data(config))
        except BaseException as error:
            prepared.set_exception(error)

    threading.Thread(target=prepare, name="staging", daemon=True).start()
    while not wait([prepared], timeout=POLL_S).done:
        if is_over():
            log("the job is over, so this node prepares no data any more")
            return None
    return prepared.result()


def prepare_data(config: LauncherConfig) -> Path:
    """Check the data sets of a job's experiment on this node, and copy them to its own disk if `scratch` is set.

    Without `scratch`, only the manifests and the sizes of the files are checked.

    Args:
        config: Settings of the launcher.

    Returns:
        The root folder from which this node reads the data sets.

    Raises:
        UserError: This node does not see the submission's folder; or the experiment is invalid, a data set is missing
            or damaged, or `scratch` cannot be used.
    """
    require_shared_folders(config)
    paths = [data.path for data in arm_data(load_experiment(config.experiment))]
    if config.scratch:
        return stage_data(config.data, paths, config.scratch, log)
    for path in paths:
        load_manifest(config.data / path)
    return config.data


def require_shared_folders(config: LauncherConfig) -> None:
    """Raise `UserError` unless this node sees the folders of the submission and of the records, and may write them."""
    if not config.folder.is_dir():
        raise UserError(f"--records: {config.folder} does not exist on this node; name a folder that all nodes share")
    for folder in (config.folder, config.records):
        if not os.access(folder, os.W_OK, effective_ids=True):
            raise UserError(f"--records: {folder} cannot be written on this node; see how it is mounted there")


def stage_data(data: Path, paths: Sequence[str], scratch: str, report_progress: Callable[[str], None]) -> Path:
    """Copy data sets to the node's own disk unless they are already there.

    The folder of the copy is named after its content, so jobs with different data do not collide. It gets that name
    only after the SHA-256 of every file has been verified. If another process on this node copies data sets of the same
    content, this waits for it without a time limit. The copy is never removed.

    Args:
        data: Root folder of the prepared data sets on the shared file system.
        paths: The folders of the data sets to copy, relative to `data`.
        scratch: Folder on the node's own disk. $VARIABLES are expanded with the environment of this process.
        report_progress: Called with a line of text about every `PROGRESS_INTERVAL_S` while files are copied, and once
            at the end.

    Returns:
        The root folder of the copy, to use in place of `data`.

    Raises:
        UserError: `scratch` cannot be used or its disk has too little free space, a file cannot be copied, or a data
            set is missing or damaged (`DataError`).
    """
    try:
        return _stage(data, paths, scratch, report_progress)
    except OSError as error:
        place = error.filename or scratch
        raise UserError(f"scratch: {place}: {error.strerror}; mend that disk, or leave scratch out") from error


def _stage(data: Path, paths: Sequence[str], scratch: str, report_progress: Callable[[str], None]) -> Path:
    folder = _scratch_folder(scratch)
    manifests = {path: load_manifest(data / path) for path in sorted(paths)}
    content = hashlib.sha256(repr([(path, manifest.hash) for path, manifest in manifests.items()]).encode())
    root = folder / content.hexdigest()[:12]
    with open(root.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another job on this node may be copying the same data
        if root.is_dir():
            for path in manifests:
                load_manifest(root / path)
        else:
            _copy_verified(data, list(manifests), root, report_progress)
    return root


def _scratch_folder(scratch: str) -> Path:
    """Create this user's own folder below `scratch` if it does not exist, and return it. Raises `UserError`."""
    expanded = os.path.expandvars(scratch)
    if "$" in expanded or not os.path.isabs(expanded):
        raise UserError(f"scratch: {scratch} is {expanded!r} on this node; name a folder on the node's own disk")
    try:
        Path(expanded).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"scratch: {expanded}: {error.strerror}; name a folder that jobs may write to") from error
    return private_folder(Path(expanded) / f"deeper-{os.getuid()}", "scratch")


def _copy_verified(data: Path, paths: Sequence[str], root: Path, report_progress: Callable[[str], None]) -> None:
    files = [file for path in paths for file in sorted((data / path).iterdir()) if file.is_file()]
    total = sum(file.stat().st_size for file in files)
    free = shutil.disk_usage(root.parent).free
    if total > free:
        raise UserError(f"scratch: {root.parent}: {total / GIB:.1f} GiB are needed and {free / GIB:.1f} GiB are free")
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a job that was killed while it copied
    start = time.monotonic()
    _copy(files, data, partial, total, report_progress)
    for path in paths:
        verify(partial / path)
    partial.rename(root)
    report_progress(f"staged {total / GIB:.2f} GiB to {root} in {time.monotonic() - start:.0f} s, verified")


def _copy(files: Sequence[Path], data: Path, target: Path, total: int, report_progress: Callable[[str], None]) -> None:
    start = last_report = time.monotonic()
    done = 0
    for file in files:
        copy = target / file.relative_to(data)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with naming_full_disk(copy), file.open("rb") as source, copy.open("wb") as destination:
            while chunk := source.read(CHUNK_BYTES):
                destination.write(chunk)
                done += len(chunk)
                now = time.monotonic()
                if now - last_report > PROGRESS_INTERVAL_S:
                    last_report = now
                    left = (total - done) * (now - start) / done
                    report_progress(f"staging: {done / GIB:.1f} of {total / GIB:.1f} GiB, about {left:.0f} s left")
