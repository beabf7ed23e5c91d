"""Copies pooled runs into a folder of records and writes the pooled plans. The sources stay as they are."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.records.evaluations import evaluation_files
from bench.records.leases import LEASE
from bench.records.merging.choosing import Pooled
from bench.records.plan import EXPERIMENT, PlanEntry, experiment_folder, write_entries
from bench.records.reading import read_mapping
from bench.records.states import EVENTS, LOCK, PROGRESS, REFUSED, run_folder
from reproduce.files.atomic import write_atomically
from reproduce.files.disk import naming_full_disk

MERGED = "merged.jsonl"
SET_ASIDE = "set-aside"
"""The folder of records that were in the target folder and are not the ones that were taken."""
PARTIAL = ".merging-"
LEFT_OUT = (LOCK, LEASE, PROGRESS, REFUSED)
"""Files that belong to the process that writes a record and not to the record."""


def size_of(pooled: Pooled, into: Path) -> int:
    """Return the bytes of the runs that are to be copied."""
    folders = [run_folder(source, key) for key, source in pooled.runs.items() if source != into]
    return sum(path.stat().st_size for folder in folders for path in folder.iterdir() if path.is_file())


def copy(
    pooled: Pooled, sources: Sequence[Path], into: Path, *, progress: Callable[[int], None] = lambda done: None
) -> list[str]:
    """Copy what was chosen into a folder of records.

    Each run appears with all its files at once. A copy that is interrupted is completed by the same call. For each run,
    `merged.jsonl` gets a line that names its source.

    Args:
        pooled: What to pool.
        sources: The folders of records that were pooled, the most decisive first.
        into: The folder of records to write. It may be one of the sources; then its runs stay where they are.
        progress: Called with the number of runs that are done.

    Returns:
        The keys of the runs that were copied.

    Raises:
        DiskFullError: There is no room.
    """
    runs = into / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for left in runs.glob(f"{PARTIAL}*"):
        shutil.rmtree(left)
    copied = []
    with naming_full_disk(into):
        for done, (key, source) in enumerate(pooled.runs.items(), 1):
            if source != into:
                _copy_run(source, into, key)
                copied.append(key)
            progress(done)
        _copy_evaluations(sources, into)
        for name, entries in pooled.plans.items():
            _write_experiment(name, entries, sources, into)
            write_entries(into, name, entries)
    return copied


def _copy_run(source: Path, into: Path, key: str) -> None:
    target, partial = run_folder(into, key), into / "runs" / f"{PARTIAL}{key}"
    shutil.copytree(run_folder(source, key), partial, ignore=shutil.ignore_patterns(*LEFT_OUT, ".*"))
    with open(into / MERGED, "a", encoding="utf-8") as file:
        line = {"t": time.time(), "key": key, "source": str(source.absolute()), "host": socket.gethostname()}
        file.write(json.dumps(line) + "\n")
    if target.exists():
        before = partial.with_name(f"{PARTIAL}{key}-before")
        if not _continues(partial, target):  # another training, which is kept
            (into / SET_ASIDE).mkdir(exist_ok=True)
            before = into / SET_ASIDE / f"{key}-{time.time_ns()}"
        target.rename(before)
    partial.rename(target)
    shutil.rmtree(partial.with_name(f"{PARTIAL}{key}-before"), ignore_errors=True)


def _continues(newer: Path, older: Path) -> bool:
    """Whether a record holds all events of another one, and more."""
    present = (older / EVENTS).read_bytes() if (older / EVENTS).is_file() else b""
    return (newer / EVENTS).read_bytes().startswith(present)


def _copy_evaluations(sources: Sequence[Path], into: Path) -> None:
    """Copy complete evaluations that the folder lacks; their names are hashes of what determines their numbers."""
    for source in sources:
        for file in evaluation_files(source):
            target = into / "evaluations" / file.parent.name
            if not target.exists():
                partial = target.with_name(f"{PARTIAL}{target.name}")
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(file.parent, partial)
                partial.rename(target)


def _write_experiment(name: str, entries: Sequence[PlanEntry], sources: Sequence[Path], into: Path) -> None:
    """Write the experiment as its first source describes it, with the arms and the seeds of all."""
    files = [experiment_folder(source, name) / EXPERIMENT for source in sources]
    found: list[Mapping[str, Any]] = [read_mapping(file) for file in files if file.is_file()]
    if not found:  # older records have none
        return
    arms = {arm: content for experiment in reversed(found) for arm, content in experiment["arms"].items()}
    order = dict.fromkeys(entry.arm for entry in entries)
    pooled = {
        **found[0],
        "arms": {arm: arms[arm] for arm in order if arm in arms},
        "seeds": sorted({entry.seed for entry in entries}),
    }
    path = experiment_folder(into, name) / EXPERIMENT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, yaml.safe_dump(pooled, sort_keys=False, allow_unicode=True).encode())
