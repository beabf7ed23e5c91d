"""Finds the files in the records that could go, by experiment and kind."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.records.cleaning.kinds import Kind
from bench.records.evaluations import RESULT, parts_folder, read_evaluation
from bench.records.leases import LEASE
from bench.records.plan import experiments, planned_under, read_plans
from bench.records.states import PROGRESS, is_held, read_state
from reproduce import schema
from reproduce.files.locks import is_locked

PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}")  # see `reproduce.files.atomic.replacing`


@dataclass(frozen=True)
class Leftover:
    """Files of one kind that could go together, and that belong to one run, one evaluation, or all of the records."""

    experiment: str
    """The experiment; empty if there is none or if it is not one alone."""
    kind: Kind
    paths: tuple[Path, ...]
    """The files to remove, in this order."""
    bytes: int
    run: Path | None = None
    """The run's folder; None if they belong to no run."""
    surplus: bool = False
    """Whether the run's checkpoint is written anew without what is of no use any more. `bytes` includes this."""


@dataclass(frozen=True)
class Found:
    """What could go, and the runs that were not looked at."""

    leftovers: tuple[Leftover, ...]
    in_hand: tuple[Path, ...]
    """Folders of runs that a driver or a worker has in hand."""


def find_leftovers(records: Path, experiment: str | None, kinds: Sequence[Kind]) -> Found:
    """Find the files that could go. Nothing is changed.

    Args:
        records: The folder of the records.
        experiment: The experiment whose runs and evaluations are looked at; None means everything in the records.
        kinds: The kinds to look for.
    """
    owners = _experiments_of_runs(records)
    folders = [
        folder
        for folder in sorted((records / "runs").glob("*"))
        if folder.is_dir() and (experiment is None or experiment in owners.get(folder.name, ()))
    ]
    in_hand = tuple(folder for folder in folders if is_in_hand(folder))
    found: list[Leftover] = []
    for folder in folders:
        if folder not in in_hand:
            owner = experiment or next(iter(owners.get(folder.name, ())), "")
            found += run_leftovers(folder, owner, kinds)
    found += [leftover for leftover in _of_evaluations(records, kinds) if experiment in (None, leftover.experiment)]
    if experiment is None and "logs" in kinds and not in_hand:
        found += _leftover("", "logs", sorted(path for path in (records / "logs").rglob("*") if path.is_file()))
    return Found(tuple(found), in_hand)


def run_leftovers(folder: Path, experiment: str, kinds: Sequence[Kind]) -> list[Leftover]:
    """Find what could go of a run that nobody has in hand. Of a run that is not finished, only scratch could."""
    finished = read_state(folder).status == schema.FINISHED
    found: list[Leftover] = []
    if "checkpoints" in kinds and finished:
        from reproduce.training.checkpoint import FILE_NAME_BEFORE, surplus_bytes  # imports torch

        before, surplus = folder / FILE_NAME_BEFORE, surplus_bytes(folder, folder.name)
        paths = (before,) if before.is_file() else ()
        if paths or surplus:
            size = surplus + sum(path.stat().st_size for path in paths)
            found.append(Leftover(experiment, "checkpoints", paths, size, folder, surplus > 0))
    if "scratch" in kinds:
        scratch = [path for path in sorted(folder.iterdir()) if PARTIAL.fullmatch(path.name) and path.is_file()]
        signs = [folder / PROGRESS] if finished and (folder / PROGRESS).is_file() else []
        found += _leftover(experiment, "scratch", [*scratch, *signs], folder)
    if "logs" in kinds and finished and (folder / "log.txt").is_file():
        found += _leftover(experiment, "logs", [folder / "log.txt"], folder)
    return found


def is_in_hand(folder: Path) -> bool:
    """Return whether a driver holds a run's lease, or a worker the lock of its record. Nothing is written."""
    return is_held(folder) or is_locked(folder / LEASE)


def _experiments_of_runs(records: Path) -> dict[str, list[str]]:
    owners: dict[str, list[str]] = {}
    for name in experiments(records):
        for key in planned_under(read_plans(records, name)):
            owners.setdefault(key, []).append(name)
    return owners


def _of_evaluations(records: Path, kinds: Sequence[Kind]) -> Iterator[Leftover]:
    for folder in sorted((records / "evaluations").glob("*")):
        result, predictions = folder / RESULT, folder / schema.ARTIFACT_PREDICTIONS
        parts = [path for path in parts_folder(folder).rglob("*") if path.is_file()]
        content = read_evaluation(folder)
        if content is None:  # one that is going on has parts; without them, it is one that was half removed
            if "scratch" in kinds and predictions.is_file() and not parts_folder(folder).exists():
                yield from _leftover("", "scratch", [predictions])
            continue
        models = content["models"]
        names = {str(model.get("experiment", "")) for model in models}
        owner = names.pop() if len(names) == 1 else ""
        if "scratch" in kinds:
            yield from _leftover(owner, "scratch", parts)
        if "evaluations" in kinds:
            yield from _leftover(owner, "evaluations", [path for path in (result, predictions) if path.is_file()])


def _leftover(experiment: str, kind: Kind, paths: Sequence[Path], run: Path | None = None) -> list[Leftover]:
    if not paths:
        return []
    return [Leftover(experiment, kind, tuple(paths), sum(path.stat().st_size for path in paths), run)]
