"""Writes and reads an experiment and its plans, which are kept beside the records of its runs.

<records>/experiments/<name>/plan.json            the present plan: one entry per planned run
                             plans/<hash>.json    each plan that the experiment has or had under this name, alike
                             plans/history.jsonl  which of them became the present one, when, and by whom
                             experiment.yaml      the experiment, with the descriptions of its arms

An experiment that is edited under its old name gets another plan. The older ones stay, because their runs do.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import itertools
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench.records.reading import DamagedRecordError, read_bytes, read_json
from bench.records.states import events_from, run_folder
from reproduce.files.atomic import write_atomically
from reproduce.spec import ExperimentConfig, PlannedRun, SpecError

PLAN = "plan.json"
PLANS = "plans"
HISTORY = "history.jsonl"
EXPERIMENT = "experiment.yaml"
FORM: tuple[type[Any], ...] = (str, str, int, str, int, dict)
"""Types of the fields of an entry."""
NOTED: Mapping[str, type] = {"t": float, "plan": str, "by": str}
"""Fields of a line of the history, and their types."""


@dataclass(frozen=True)
class PlanEntry:
    """An entry of `plan.json`: the names, epochs and costs of one planned run."""

    key: str
    arm: str
    seed: int
    name: str
    """The name of the run within its experiment, such as `baseline s0`."""
    epochs: int
    """Number of epochs of the recipe."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Cost metrics of the network, by their name in `reproduce.schema`, such as `cost/parameters`."""


@dataclass(frozen=True)
class RecordedPlan:
    """A plan that an experiment has or had under its name."""

    hash: str
    """The plan's hash, from `plan_hash`."""
    entries: tuple[PlanEntry, ...]
    since: float
    """When it last became the present plan, in seconds since 1970. If a version of this program did that kept no
    history, it is when the first of its runs began, or when its file was written if none did."""
    by: str
    """Who made it the present plan, as USER on HOST. Empty if a version of this program did that kept no history."""


def plan_hash(runs: Sequence[PlanEntry] | Sequence[PlannedRun]) -> str:
    """Return 8 hexadecimal digits that identify a plan: a hash of the arms, seeds and keys of its runs, in order."""
    content = json.dumps([[run.arm, run.seed, run.key] for run in runs])
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def experiment_folder(records: Path, name: str) -> Path:
    """The path of the folder with an experiment's plan and SLURM submissions, which need not exist."""
    return records / "experiments" / name


def experiments(records: Path) -> list[str]:
    """List the names of the experiments that have a plan in the records, in alphabetical order."""
    return sorted(path.parent.name for path in (records / "experiments").glob(f"*/{PLAN}"))


def write_plan(
    records: Path, experiment: str, planned: Sequence[PlannedRun], costs: Mapping[str, Mapping[str, float]]
) -> Path:
    """Make a plan the present one of an experiment, and keep the older ones.

    Args:
        records: The folder of the records.
        experiment: The name of the experiment.
        planned: The runs of the experiment, in the order of the entries.
        costs: The cost metrics of each run, by the run's key. A run may be missing.

    Returns:
        The path of `plan.json`.
    """
    entries = [
        PlanEntry(run.key, run.arm, run.seed, run.name, run.config.recipe.epochs, dict(costs.get(run.key, {})))
        for run in planned
    ]
    return write_entries(records, experiment, entries)


def write_entries(records: Path, experiment: str, entries: Sequence[PlanEntry]) -> Path:
    """Make a plan of these entries the present one of an experiment, as `write_plan` does."""
    content, digest = json.dumps([asdict(entry) for entry in entries], indent=1).encode(), plan_hash(entries)
    folder = experiment_folder(records, experiment)
    (folder / PLANS).mkdir(parents=True, exist_ok=True)
    _keep_present(folder)
    write_atomically(folder / PLANS / f"{digest}.json", content)
    _note(folder, digest, time.time(), _author())
    write_atomically(folder / PLAN, content)
    return folder / PLAN


def was_replaced(records: Path, experiment: str, planned: Sequence[PlannedRun]) -> bool:
    """Return whether the experiment had the plan of these runs once, and has another one now."""
    kept = experiment_folder(records, experiment) / PLANS / f"{plan_hash(planned)}.json"
    return kept.exists() and plan_hash(read_plan(records, experiment)) != plan_hash(planned)


def write_experiment(records: Path, experiment: ExperimentConfig) -> Path:
    """Write `experiment.yaml` beside the plan, replacing an earlier one, and return its path.

    The publisher takes the descriptions of the experiment and its arms from it. Write it before the plan, whose change
    the publisher notices.

    Args:
        records: The folder of the records.
        experiment: The experiment; its defaults are written as well.
    """
    path = experiment_folder(records, experiment.name) / EXPERIMENT
    path.parent.mkdir(parents=True, exist_ok=True)
    content = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_atomically(path, content.encode())
    return path


def read_plan(records: Path, experiment: str, plan: str | None = None) -> list[PlanEntry]:
    """Read a plan of an experiment.

    Args:
        records: The folder of the records.
        experiment: The name of the experiment.
        plan: The hash of the plan, or the beginning of it. None means the present plan.

    Raises:
        SpecError: The records hold no plan of the experiment, or none with this hash.
        DamagedRecordError: The file of a plan is damaged.
    """
    if plan is None:
        try:
            return _read_entries(experiment_folder(records, experiment) / PLAN)
        except FileNotFoundError:
            known = ", ".join(experiments(records)) or "no experiment"
            raise SpecError(f"experiment: {experiment!r} has no records in {records}, which holds {known}") from None
    plans = read_plans(records, experiment)
    found = [candidate for candidate in plans if candidate.hash.startswith(plan)]
    if len(found) != 1:
        known = ", ".join(f"{candidate.hash} ({describe(candidate)})" for candidate in plans)
        raise SpecError(f"--plan: {plan!r} names no single plan of {experiment!r}; there are: {known}")
    return list(found[0].entries)


def read_plans(records: Path, experiment: str) -> list[RecordedPlan]:
    """Read all plans of an experiment: the present one first, then the older ones, the newest of them first.

    Raises:
        SpecError: The records hold no plan of the experiment.
        DamagedRecordError: The file of a plan is damaged.
    """
    present = read_plan(records, experiment)
    folder = experiment_folder(records, experiment)
    notes = {note["plan"]: note for note in _read_history(folder)}

    def recorded(entries: Sequence[PlanEntry], path: Path) -> RecordedPlan:
        note = notes.get(digest := plan_hash(entries), {})
        since = note["t"] if note else _first_start(records, entries) or path.stat().st_mtime
        return RecordedPlan(digest, tuple(entries), since, note.get("by", ""))

    first = recorded(present, folder / PLAN)
    older = [recorded(_read_kept(path), path) for path in (folder / PLANS).glob("*.json")]
    return [
        first,
        *sorted((plan for plan in older if plan.hash != first.hash), key=lambda plan: plan.since, reverse=True),
    ]


def _first_start(records: Path, entries: Sequence[PlanEntry]) -> float | None:
    """Return when the first of these runs began, in seconds since 1970; None if none did. Copies of files keep it."""
    started: list[float] = []
    for entry in entries:
        with contextlib.suppress(DamagedRecordError):
            started += [event["t"] for event, _ in itertools.islice(events_from(run_folder(records, entry.key), 0), 1)]
    return min(started, default=None)


def planned_under(plans: Sequence[RecordedPlan]) -> dict[str, PlanEntry]:
    """Return the entries of several plans by key; a run that several plans ask for has its entry of the first."""
    entries: dict[str, PlanEntry] = {}
    for plan in plans:
        for entry in plan.entries:
            entries.setdefault(entry.key, entry)
    return entries


def describe(plan: RecordedPlan) -> str:
    """Return the number of runs, the date and the author of a plan, such as "8 runs, 2026-11-26 by a on b"."""
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(plan.since))
    runs = f"{len(plan.entries)} run{'' if len(plan.entries) == 1 else 's'}"
    return f"{runs}, {date}" + (f" by {plan.by}" if plan.by else "")


def _read_entries(path: Path) -> list[PlanEntry]:
    content = read_json(path, list)
    try:
        entries = [PlanEntry(**entry) for entry in content]
    except TypeError as error:
        raise DamagedRecordError(path, error) from error
    if not all(map(_is_whole, entries)):
        raise DamagedRecordError(path, "an entry does not describe a run")
    return entries


def _is_whole(entry: PlanEntry) -> bool:
    kinds = zip(vars(entry).values(), FORM, strict=True)
    return all(isinstance(value, kind) for value, kind in kinds) and entry.name == f"{entry.arm} s{entry.seed}"


def _read_kept(path: Path) -> list[PlanEntry]:
    """Read one of the plans that are named by their hashes."""
    entries = _read_entries(path)
    if plan_hash(entries) != path.stem:
        raise DamagedRecordError(path, f"its runs have the hash {plan_hash(entries)}")
    return entries


def _keep_present(folder: Path) -> None:
    """Keep the present plan, which a version of this program may have written that kept no other."""
    present = folder / PLAN
    if not present.exists():
        return
    digest = plan_hash(_read_entries(present))
    kept = folder / PLANS / f"{digest}.json"
    if not kept.exists():
        write_atomically(kept, present.read_bytes())
        _note(folder, digest, present.stat().st_mtime, "")


def _note(folder: Path, digest: str, since: float, by: str) -> None:
    """Add to the history that a plan became the present one, unless it was that already."""
    history = _read_history(folder)
    if history and history[-1]["plan"] == digest:
        return
    path = folder / PLANS / HISTORY
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    line = json.dumps({"t": since, "plan": digest, "by": by}) + "\n"
    with open(path, "ab") as file:
        file.write(("\n" + line if torn else line).encode())
        file.flush()
        os.fsync(file.fileno())


def _read_history(folder: Path) -> list[dict[str, Any]]:
    notes = []
    with contextlib.suppress(FileNotFoundError):
        for line in read_bytes(folder / PLANS / HISTORY).splitlines():
            with contextlib.suppress(ValueError, RecursionError):  # a line that a crash tore, or that is damaged
                notes.append(json.loads(line))
    return [
        note for note in notes if isinstance(note, dict) and all(map(isinstance, map(note.get, NOTED), NOTED.values()))
    ]


def _author() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for this user
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}"
