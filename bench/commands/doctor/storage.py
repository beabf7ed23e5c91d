"""Checks the folders of records and data, and the tracking store."""

from __future__ import annotations

import shutil
import urllib.error
from pathlib import Path

from bench.commands.doctor.hardware import GIB, check_free
from bench.console.checks import Check
from bench.machine.filesystems import filesystem
from bench.tracking.dashboard import ask_health
from bench.tracking.location import tracking_uri
from bench.tracking.mlflow_setup import authorization, is_server
from reproduce.data import DataError, load_manifest
from reproduce.errors import UserError
from reproduce.text.redaction import redacted

RECORDS_GIB = 2
"""Free disk space for records, in GiB, below which the check warns.

It suffices for a small grid: each run has a checkpoint of 50 to 110 MB, telemetry and predictions."""

DATA_GIB = 20
"""Free disk space for data, in GiB, below which the check warns.

ImageNet as FFCV files at 256 px takes 20 to 60 GiB. Each of the small data sets takes less than 1 GiB."""


def checks(records: Path, data: Path) -> list[Check]:
    """Check disk space, the file system of the records, the data sets and the tracking store.

    A tracking server is contacted, which takes up to 5 seconds.

    Args:
        records: The folder of the records, which need not exist yet.
        data: The folder of the prepared data sets, which need not exist yet.

    Returns:
        One finding for each check.
    """
    return [
        _disk("disk for records", records, RECORDS_GIB, "--records"),
        _file_system(records),
        _disk("disk for data", data, DATA_GIB, "--data"),
        _data_sets(data),
        _tracking(records),
    ]


def _disk(name: str, folder: Path, wanted_gib: int, option: str) -> Check:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    hint = f"name another folder with {option} FOLDER"
    return check_free(name, free, wanted_gib, f"{free / GIB:.1f} GiB free at {folder}", hint)


def _file_system(records: Path) -> Check:
    """Check whether several hosts may share the records: hosts claim runs by `flock`."""
    mounted = filesystem(records)
    name, found = "file system of records", f"{mounted.kind} at {mounted.mount_point}"
    if not mounted.is_network:
        return Check(name, "ok", found)
    reaches = mounted.flock_reaches_other_hosts
    if reaches:
        return Check(name, "ok", f"{found}; locks reach other hosts")
    says = "locks do not reach other hosts" if reaches is False else "it is unknown whether locks reach other hosts"
    return Check(name, "warn", f"{found}; {says}", mounted.locking_hint)


def _data_sets(data: Path) -> Check:
    folders = sorted(path.parent for path in data.glob("**/manifest.json"))
    if not folders:
        return Check("data sets", "warn", f"none is prepared in {data}", "see `deeper data prepare --help`")
    found = []
    for folder in folders:
        try:
            splits = load_manifest(folder).splits
        except DataError as error:
            return Check("data sets", "warn", str(error), "prepare it again")
        found.append(f"{folder.relative_to(data)} ({splits['train'].images} + {splits['val'].images} images)")
    return Check("data sets", "ok", ", ".join(found))


def _tracking(records: Path) -> Check:
    try:
        uri = tracking_uri(records)
    except UserError as error:
        return Check("tracking", "fail", str(error), "use another folder, with --records FOLDER, or name a server")
    shown = redacted(uri)
    if not is_server(uri):
        return Check("tracking", "ok", shown)
    try:
        ask_health(uri, timeout_s=5, headers=authorization())
    except OSError as error:
        hint = "start the server, or unset MLFLOW_TRACKING_URI; until then, records wait on disk"
        if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403):
            hint = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return Check("tracking", "warn", f"{shown} does not answer: {redacted(str(error))}", hint)
    return Check("tracking", "ok", shown)
