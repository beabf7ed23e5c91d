"""Implements `deeper experiments`, which lists the experiments that are shipped with this project."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bench.console.exit_codes import DONE
from bench.console.options import Subparsers, add_command, add_json
from bench.console.output import plain_console, print_result, show

if TYPE_CHECKING:
    from reproduce.spec import ExperimentConfig

EXAMPLES = """examples:
  deeper experiments
  deeper experiments --json
  deeper plan quickstart     # then: what one of them needs
"""


@dataclass(frozen=True)
class ShippedExperiment:
    """An entry of the list that `deeper experiments` prints."""

    name: str
    arms: int
    """The number of arms."""
    seeds: int
    """The number of seeds."""
    data: str
    """The folder of the experiment's data set, below the folder of all prepared data sets."""
    description: str
    """The first sentence of the experiment's description."""


def add_to(subparsers: Subparsers) -> None:
    """Add `deeper experiments` to the command line."""
    help = "List the experiments that are shipped, one a line."
    add_json(add_command(subparsers, None, "experiments", _experiments, help, examples=EXAMPLES))


def _experiments(arguments: argparse.Namespace) -> int:
    from reproduce.spec import load_experiment, shipped_experiments

    shipped = [_described(load_experiment(name)) for name in shipped_experiments()]
    print_result(arguments, [asdict(entry) for entry in shipped], lambda: _show(shipped))
    return DONE


def _described(experiment: ExperimentConfig) -> ShippedExperiment:
    return ShippedExperiment(
        name=experiment.name,
        arms=len(experiment.arms),
        seeds=len(experiment.seeds),
        data=experiment.data.path,
        description=re.split(r"(?<=\.)\s", experiment.description, maxsplit=1)[0],
    )


def _show(shipped: list[ShippedExperiment]) -> None:
    from bench.console.tables import Column, FittedTable

    columns = (
        Column("name"),
        Column("arms x seeds", priority=2),
        Column("data set", priority=1),
        Column("description", prose=True),
    )
    rows = [(entry.name, f"{entry.arms} x {entry.seeds}", entry.data, entry.description) for entry in shipped]
    show(plain_console(), FittedTable(columns, rows))
