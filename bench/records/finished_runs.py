"""Finds the runs that are named on the command line. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.plan import PlanEntry, experiments, planned_under, read_plan, read_plans
from bench.records.reading import DamagedRecordError, read_frame, read_mapping
from bench.records.states import read_state, run_folder
from reproduce import schema
from reproduce.spec import RunConfig, SpecError, validated


@dataclass(frozen=True)
class RecordedRun:
    """A run with a record, and the names under which it was planned."""

    experiment: str
    """The first experiment that plans the run; empty if none in these records does."""
    arm: str
    """The arm of the run; the run's key if no experiment plans it."""
    seed: int
    """The seed of the run, 0 if no experiment plans it."""
    label: str
    """EXPERIMENT:ARM:SEED, or the run's key if no experiment plans it."""
    folder: Path
    """The run's record folder."""
    config: RunConfig
    """The configuration in the record."""


def find_runs(
    records: Path, names: Iterable[str], plan: str | None = None, *, unfinished: bool = False
) -> list[RecordedRun]:
    """Find finished runs by their names.

    Args:
        records: The folder of the records.
        names: Each name is a run's key, EXPERIMENT:ARM:SEED, or EXPERIMENT:ARM for all seeds of the arm. A slash may
            replace a colon.
        plan: The hash of the plan of the named experiments, or its beginning. None means their present plans.
        unfinished: Find runs that are not finished, or that have no predictions, as well.

    Returns:
        The runs in the order of the names, each run once.

    Raises:
        SpecError: A name is malformed, or a run or the plan is unknown, or a run has not begun, or it is not finished
            or has no predictions and `unfinished` is not set.
        DamagedRecordError: The file of a plan or a configuration is damaged.
    """
    found: dict[str, RecordedRun] = {}
    for name in names:
        for experiment, entry in _planned(records, name, plan):
            if entry.key not in found:
                found[entry.key] = _recorded(records, experiment, entry, unfinished)
    return list(found.values())


def other_runs(records: Path, experiment: str, entries: Sequence[PlanEntry]) -> list[str]:
    """List the keys of recorded runs that other plans of an experiment ask for, and the given plan does not."""
    planned = {entry.key for entry in entries}
    known = planned_under(read_plans(records, experiment))
    return [key for key in known if key not in planned and run_folder(records, key).is_dir()]


def own_validation(run: RecordedRun) -> dict[str, Any]:
    """Compute the result of a run's own final validation, in the form of a single-crop evaluation.

    Reads the run's `predictions.parquet`.

    Returns:
        A dictionary that `table_rows` accepts: models (a list with one entry), crops (1), and the accuracies top1 and
        top5, from 0 to 1.
    """
    table = read_frame(run.folder / schema.ARTIFACT_PREDICTIONS, ["label", "top5", "correct"])
    topk_correct = [label in top5 for label, top5 in zip(table["label"], table["top5"], strict=True)]
    top1, top5 = float(table["correct"].mean()), sum(topk_correct) / len(topk_correct)
    return {"models": [{"run": run.config.key}], "crops": 1, "top1": top1, "top5": top5}


def _planned(records: Path, name: str, wanted: str | None) -> list[tuple[str, PlanEntry]]:
    """The experiment and the plan entry of each run that a name refers to."""
    if re.fullmatch(r"[0-9a-f]{12}", name):
        if not run_folder(records, name).is_dir():
            raise SpecError(f"run: {name!r} has no record in {records}")
        recorded = [(experiment, read_plans(records, experiment)) for experiment in experiments(records)]
        present = [(experiment, entry) for experiment, known in recorded for entry in known[0].entries]
        older = [(experiment, entry) for experiment, known in recorded for entry in planned_under(known[1:]).values()]
        unplanned = ("", PlanEntry(key=name, arm=name, seed=0, name=name, epochs=0))
        return [next((planned for planned in (*present, *older) if planned[1].key == name), unplanned)]
    experiment, *rest = re.split("[:/]", name)
    arm, seed = (*rest, "", "")[:2]
    if not rest or len(rest) > 2 or (seed and not re.fullmatch("[0-9]+", seed)):
        raise SpecError(f"run: {name!r} names no run; give a key (12 hexadecimal digits) or EXPERIMENT:ARM[:SEED]")
    plan = read_plan(records, experiment, wanted)
    of_arm = [entry for entry in plan if entry.arm == arm]
    if not of_arm:
        arms = ", ".join(dict.fromkeys(entry.arm for entry in plan))
        raise SpecError(f"run: {name!r}: {experiment} has no arm {arm!r}; it has {arms}")
    chosen = [entry for entry in of_arm if not seed or entry.seed == int(seed)]
    if not chosen:
        seeds = ", ".join(str(entry.seed) for entry in of_arm)
        raise SpecError(f"run: {name!r}: {arm} has no seed {seed}; it has {seeds}")
    return [(experiment, entry) for entry in chosen]


def _recorded(records: Path, experiment: str, entry: PlanEntry, unfinished: bool) -> RecordedRun:
    label = f"{experiment}:{entry.arm}:{entry.seed}" if experiment else entry.key
    folder = run_folder(records, entry.key)
    if unfinished:
        if not (folder / schema.ARTIFACT_CONFIG).is_file():
            raise SpecError(f"run: {label} ({entry.key}) has not begun; start it with `deeper run`")
    else:
        _check_finished(folder, f"{label} ({entry.key})")
    return RecordedRun(experiment, entry.arm, entry.seed, label, folder, read_config(folder))


def read_config(folder: Path) -> RunConfig:
    """Read the configuration in a run's record folder, which is named by the key of the run.

    Raises:
        FileNotFoundError: The record has no configuration.
        SpecError: The configuration is not valid.
        DamagedRecordError: The file is damaged. The key shows that also where it can be read.
    """
    path = folder / schema.ARTIFACT_CONFIG
    config = validated(RunConfig, read_mapping(path), where=f"{path}: ")
    if config.key != folder.name:
        raise DamagedRecordError(path, f"it is the configuration of run {config.key}")
    return config


def _check_finished(folder: Path, name: str) -> None:
    status = read_state(folder).status
    if status != schema.FINISHED:
        raise SpecError(f"run: {name} is {status}; only a finished run can be evaluated")
    if not (folder / schema.ARTIFACT_PREDICTIONS).is_file():
        raise SpecError(f"run: {name} has no {schema.ARTIFACT_PREDICTIONS} in {folder}; `deeper run` makes it")
