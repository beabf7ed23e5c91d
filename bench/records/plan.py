"""Writes and reads an experiment and its plan, which are kept beside the records of its runs.

<records>/experiments/<name>/plan.json          one entry per planned run
                            experiment.yaml    the experiment, with the descriptions of its arms
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from reproduce.atomic import write_atomically
from reproduce.spec import ExperimentConfig, PlannedRun, SpecError

PLAN = "plan.json"
EXPERIMENT = "experiment.yaml"


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


def experiment_folder(records: Path, name: str) -> Path:
    """The path of the folder with an experiment's plan and SLURM submissions, which need not exist."""
    return records / "experiments" / name


def experiments(records: Path) -> list[str]:
    """List the names of the experiments that have a plan in the records, in alphabetical order."""
    return sorted(path.parent.name for path in (records / "experiments").glob(f"*/{PLAN}"))


def write_plan(
    records: Path, experiment: str, planned: Sequence[PlannedRun], costs: Mapping[str, Mapping[str, float]]
) -> Path:
    """Write the plan of an experiment, atomically replacing an earlier one.

    Args:
        records: The folder of the records.
        experiment: The name of the experiment.
        planned: The runs of the experiment, in the order of the entries.
        costs: The cost metrics of each run, by the run's key. A run may be missing.

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


def read_plan(records: Path, experiment: str) -> list[PlanEntry]:
    """Read the plan of an experiment.

    Raises:
        SpecError: The records hold no plan of the experiment.
    """
    try:
        content = (experiment_folder(records, experiment) / PLAN).read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(experiments(records)) or "no experiment"
        raise SpecError(f"experiment: {experiment!r} has no records in {records}, which holds {known}") from None
    return [PlanEntry(**entry) for entry in json.loads(content)]
