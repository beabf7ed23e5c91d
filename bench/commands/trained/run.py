"""Finds the one run that a command line names, with its weights and its classes."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.experiments.names import recorded_name
from bench.console.options import add_plan, any_path
from reproduce import schema
from reproduce.errors import UserError

if TYPE_CHECKING:
    from bench.records.finished_runs import RecordedRun
    from reproduce.data import Manifest
    from reproduce.evaluation.models import TrainedWeights
    from reproduce.export.description import Description, Origin


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument `run`, and --plan, --on and --unfinished."""
    parser.add_argument("run", metavar="RUN", help="The key of a run, or EXPERIMENT:ARM:SEED.")
    add_plan(parser)
    parser.add_argument(
        "--on",
        type=any_path,
        metavar="FOLDER",
        help="The prepared data set of the run, of which its manifest.json is read. Default: below --data.",
    )
    parser.add_argument(
        "--unfinished", action="store_true", help="Take a run that is not finished at its newest checkpoint."
    )


@dataclass(frozen=True)
class TrainedRun:
    """A run, its network with the weights that were validated, and what is known of it."""

    weights: TrainedWeights
    description: Description
    manifest: Manifest
    label: str
    """EXPERIMENT:ARM:SEED, or the run's key if no experiment plans it."""

    @property
    def summary(self) -> str:
        """One line on the run: its name, its epochs, and its recorded accuracy."""
        done, epochs = self.weights.epochs, self.description.run.recipe.epochs
        state = f"{epochs} epochs" if self.weights.finished else f"unfinished, {done} of {epochs} epochs"
        top1 = self.description.origin.accuracy.get("top1")
        recorded = "no validation yet" if top1 is None else f"recorded top-1 {100 * top1:.1f} %"
        averaged = f", weights averaged ({self.description.run.recipe.averaging})" if self.weights.averaged else ""
        return f"{self.label} ({self.description.origin.key}), {state}, {recorded}{averaged}"


def find_run(arguments: argparse.Namespace) -> RecordedRun:
    """Find the run that the arguments of `add_run` name. Does not import torch.

    Raises:
        UserError: The name is malformed, unknown or that of several runs, or the run is not finished and --unfinished
            is not given.
    """
    if ":" in arguments.run:
        recorded_name(arguments.run.partition(":")[0], arguments.records)

    from bench.records.finished_runs import find_runs
    from bench.records.states import read_state

    runs = find_runs(arguments.records, [arguments.run], arguments.plan, unfinished=True)
    if len(runs) > 1:
        seeds = ", ".join(run.label for run in runs)
        raise UserError(f"run: {arguments.run!r} names {len(runs)} runs; name one of {seeds}")
    (run,) = runs
    status = read_state(run.folder).status
    if status != schema.FINISHED and not arguments.unfinished:
        raise UserError(
            f"run: {run.label} ({run.config.key}) is {status}; finish it with `deeper run`, or add --unfinished to "
            "take its newest checkpoint"
        )
    return run


def load_run(arguments: argparse.Namespace, run: RecordedRun) -> TrainedRun:
    """Load a run that `find_run` has found.

    Raises:
        UserError: The run has no undamaged checkpoint. The manifest of its data is missing or that of other data.
    """
    from reproduce.evaluation.models import RunModel
    from reproduce.export.class_names import class_names
    from reproduce.export.description import Description

    manifest = _manifest(arguments, run)
    weights = RunModel(run.config, run.folder).trained(unfinished=arguments.unfinished)
    description = Description(
        origin=_origin(run),
        run=run.config,
        classes=manifest.classes,
        class_names=class_names(manifest),
        epochs=weights.epochs,
        finished=weights.finished,
        averaged=weights.averaged,
    )
    return TrainedRun(weights, description, manifest, run.label)


def _manifest(arguments: argparse.Namespace, run: RecordedRun) -> Manifest:
    from reproduce.data import DataError
    from reproduce.data.manifest import MANIFEST, read_manifest

    folder: Path = arguments.on or arguments.data / run.config.data.path
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"--on: {folder / MANIFEST}: no such file; it names the classes: give the folder of the run's prepared "
            f"data with --on or --data, or copy this one file from the machine that trained {run.label}"
        )
    manifest = read_manifest(folder)
    if manifest.hash != run.config.data_hash:
        raise DataError(
            f"{folder}: hash {manifest.hash[:12]}, but {run.label} was trained on {run.config.data_hash[:12]}; "
            "name the same data set with --data or --on"
        )
    return manifest


def _origin(run: RecordedRun) -> Origin:
    from bench.records.states import read_state
    from reproduce.export.description import Origin

    metrics = read_state(run.folder).metrics
    names = {"top1": (schema.FINAL_TOP1, schema.VAL_TOP1), "top5": (schema.FINAL_TOP5, schema.VAL_TOP5)}
    accuracy = {
        name: next(metrics[metric] for metric in known if metric in metrics)
        for name, known in names.items()
        if any(metric in metrics for metric in known)
    }
    try:
        environment = json.loads((run.folder / schema.ARTIFACT_ENVIRONMENT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # of a record that was copied without it
        environment = {}
    return Origin(
        key=run.config.key,
        experiment=run.experiment,
        arm=run.arm,
        seed=run.seed if run.experiment else None,
        commit=environment.get("commit"),
        dirty=environment.get("dirty"),
        accuracy=accuracy,
    )
