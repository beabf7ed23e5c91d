"""Reads the recorded runs that are to be repeated, without changing their folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.planning.plan import select
from bench.records.finished_runs import read_config
from bench.records.plan import PlanEntry, experiments, read_plan
from bench.records.states import read_events, read_state, run_folder
from reproduce import schema
from reproduce.errors import UserError
from reproduce.spec import PlannedRun, ResourcesConfig

RECORDS = "records"


@dataclass(frozen=True)
class Recorded:
    """A finished run of the reference."""

    entry: PlanEntry
    planned: PlannedRun
    metrics: Mapping[str, float]
    """Its final metrics and those of its last epoch."""
    folder: Path
    start: Mapping[str, Any]
    """The start event of its last attempt, with its environment and, in newer records, its computation."""

    @property
    def resources(self) -> ResourcesConfig:
        """The resources of the run. Older records lack them, but name the threads and the device."""
        given = self.start.get("resources") or {}
        threads = (self.start.get("environment") or {}).get("threads") or {}
        on_gpu = str(self.start.get("device", "")).startswith("cuda")
        return ResourcesConfig(
            workers=self.planned.config.workers,
            cpus_per_worker=int(given.get("cpus_per_worker") or threads.get("OMP_NUM_THREADS") or 1),
            gpus_per_worker=float(given.get("gpus_per_worker", 1 if on_gpu else 0)),
            deterministic=self.planned.config.deterministic,
            compile=bool(given.get("compile", False)),
        )


@dataclass(frozen=True)
class Reference:
    """The finished runs of an experiment in a folder of results."""

    experiment: str
    records: Path
    runs: Sequence[Recorded]

    def of_arm(self, arm: str) -> list[Recorded]:
        return [run for run in self.runs if run.entry.arm == arm]

    def chosen(self, arms: Sequence[str], seeds: Sequence[int]) -> list[Recorded]:
        """Choose the runs of some arms and seeds; empty sequences take all.

        Raises:
            SpecError: No finished run has such an arm or seed.
            UserError: No finished run has such an arm together with such a seed.
        """
        keys = {entry.key for entry in select([run.entry for run in self.runs], arms, seeds)}
        if not keys:
            raise UserError(f"--seed: no finished run of {', '.join(arms)} has seed {', '.join(map(str, seeds))}")
        return [run for run in self.runs if run.entry.key in keys]


def read_reference(results: Path, experiment: str | None) -> Reference:
    """Read the finished runs of an experiment.

    Args:
        results: A folder of records, or a folder that has one called `records`, such as results/ablation-imagenette.
        experiment: The name of the experiment; None if the records hold only one.

    Raises:
        UserError: The folder holds no records, or several experiments of which none is named, or no finished run of it,
            or a configuration that is not that of its run.
    """
    records = results / RECORDS if (results / RECORDS).is_dir() else results
    known = experiments(records)
    if not known:
        raise UserError(f"results: {results} holds no records; name a folder such as results/ablation-imagenette")
    if experiment is None and len(known) > 1:
        raise UserError(f"--experiment: {results} holds {len(known)} experiments; name one of {', '.join(known)}")
    name = experiment or known[0]
    if name not in known:
        raise UserError(f"--experiment: {results} holds no {name!r}; it holds {', '.join(known)}")
    runs = [run for entry in read_plan(records, name) if (run := _recorded(records, name, entry)) is not None]
    if not runs:
        raise UserError(f"results: {results} holds no finished run of {name}, so there is nothing to compare with")
    return Reference(name, records, runs)


def _recorded(records: Path, experiment: str, entry: PlanEntry) -> Recorded | None:
    folder = run_folder(records, entry.key)
    state = read_state(folder)
    path = folder / schema.ARTIFACT_CONFIG
    if state.status != schema.FINISHED or not path.is_file():
        return None
    config = read_config(folder)
    planned = PlannedRun(experiment=experiment, arm=entry.arm, seed=entry.seed, config=config)
    starts = [event for event in read_events(folder) if event["kind"] == schema.START]
    return Recorded(entry, planned, state.metrics, folder, starts[-1] if starts else {})
