"""The plan of an experiment, as it is kept beside the records of its runs.

<records>/experiments/<name>/plan.json    one entry per planned run
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reproduce.atomic import write_atomically
from reproduce.spec import PlannedRun, SpecError

PLAN = "plan.json"


@dataclass(frozen=True)
class PlanEntry:
    """A planned run as `plan.json` lists it."""

    key: str
    arm: str
    seed: int
    name: str
    epochs: int
    costs: Mapping[str, float] = field(default_factory=dict)
    """Cost metrics by their name in `reproduce.schema`, such as `cost/parameters`."""


def experiment_folder(records: Path, name: str) -> Path:
    """The folder of an experiment's plan and description; it need not exist yet."""
    return records / "experiments" / name


def experiments(records: Path) -> list[str]:
    """List the names of the experiments that have a plan in these records."""
    return sorted(path.parent.name for path in (records / "experiments").glob(f"*/{PLAN}"))


def write_plan(
    records: Path, experiment: str, planned: Sequence[PlannedRun], costs: Mapping[str, Mapping[str, float]]
) -> Path:
    """Write the plan of an experiment, replacing an earlier one.

    Args:
        records: folder of the records.
        experiment: name of the experiment.
        planned: its runs, in the order in which they are listed.
        costs: cost metrics of each run, by the run's key.

    Returns:
        The path of `plan.json`.
    """
    entries = [
        asdict(PlanEntry(run.key, run.arm, run.seed, run.name, run.config.recipe.epochs, dict(costs.get(run.key, {}))))
        for run in planned
    ]
    path = experiment_folder(records, experiment) / PLAN
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(entries, indent=1).encode())
    return path


def read_plan(records: Path, experiment: str) -> list[PlanEntry]:
    """Read the plan of an experiment.

    Raises:
        SpecError: if the experiment was never planned in these records.
    """
    try:
        content = (experiment_folder(records, experiment) / PLAN).read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(experiments(records)) or "no experiment"
        raise SpecError(f"experiment: {experiment!r} has no records in {records}, which holds {known}") from None
    return [PlanEntry(**entry) for entry in json.loads(content)]
