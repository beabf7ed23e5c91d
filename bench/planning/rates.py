"""Images/s that were measured, for `deeper plan`: on what device, of which network, and where the figure comes from.

Where no file is named, a run's rate is that of finished runs recorded on this device with the same network and
resolution; else of the latest `deeper bench` on it; else of its recorded runs of other networks. Between networks a
rate is scaled by multiply-adds, between numbers of workers by the model of communication. What was not measured has no
rate.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from bench.machine.environment import environment
from bench.planning.communication import Link, step_s
from bench.planning.plan import Plan
from bench.records.record import experiments, read_plan
from bench.records.states import read_events, run_folder
from bench.results.store import COMMITTED, latest_results_folder
from reproduce import schema
from reproduce.models.cost import Cost
from reproduce.spec import PlannedRun, SpecError


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Training images/s of a run on some device."""

    images_per_s: float
    """Of all workers."""
    workers: int
    cpus: int | None
    """CPU cores of a worker; None: a GPU, or not known."""
    macs: float
    """Multiply-adds of one image's forward pass in training."""
    parameters: float
    source: str
    share: float = 1.0
    """Of a GPU, which the run used with others."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take."""

    device_hours: float
    """A device is one worker: a GPU, of which a run may have a share, or a worker's CPU cores."""
    images_per_s: float
    source: str


class Rates:
    """What is known of one device. Raises `SpecError` where the user's device or file is not known or not readable.

    `device`: part of the name of one that has been measured, or None for this machine's. `file`: what
    `deeper bench step --output` or `scaling` wrote, to be used in place of all else.
    """

    def __init__(self, records: Path, *, gpu: bool, device: str | None = None, file: Path | None = None) -> None:
        self._records = records
        self._here = device is None and file is None
        if file is not None:
            self._results = [_read(file)]
            if "rates" not in self._results[0]["setting"]:
                raise SpecError(f"--rate: {file}: holds no rate; `deeper bench step --output` and `scaling` write one")
            self.device = device_of(self._results[0]["environment"])
            return
        known = [
            _read(path) for folder in (latest_results_folder(), COMMITTED) for path in sorted(folder.rglob("*.json"))
        ]
        known = [result for result in known if "rates" in result.get("setting", {})]
        self.device = _this_device(gpu) if device is None else _named(device, known)
        self._results = [result for result in known if device_of(result["environment"]) == self.device]

    def estimate(self, plan: Plan, run: PlannedRun) -> Estimate | None:
        """None where nothing was measured on the device."""
        costs, resources = plan.costs[run.key], plan.experiment.resources
        macs, parameters = costs[schema.COST_MACS_TRAINING], costs[schema.COST_PARAMETERS]
        share = resources.gpus_per_worker or 1.0
        rate = self._rate(macs, parameters, resources.workers, share)
        if rate is None:
            return None
        speed, source = rate.images_per_s / rate.workers, rate.source
        if rate.macs != macs:
            speed *= rate.macs / macs
            source = f"scaled by multiply-adds from {source}"
        if rate.cpus is not None and rate.cpus != resources.cpus_per_worker and not resources.gpus_per_worker:
            speed *= resources.cpus_per_worker / rate.cpus
            source += f", by {resources.cpus_per_worker} for {rate.cpus} cores"
        if rate.share != share:
            speed *= share / rate.share
            source += f", {share:g} of a GPU for {rate.share:g}"
        if rate.workers != resources.workers:
            alone_s = run.config.recipe.batch_size / resources.workers / speed
            speed, source = self._together(speed, alone_s, resources.workers, int(parameters), source)
        recipe, data = run.config.recipe, run.config.data
        passes = plan.train_images[data.path] * data.train_fraction
        forward = costs[schema.COST_MACS] / (3 * macs)  # an evaluation has no backward pass
        passes += plan.val_images[data.path] * forward
        seconds = recipe.epochs * passes / speed
        return Estimate(share * seconds / 3600, speed * resources.workers, source)

    def _rate(self, macs: float, parameters: float, workers: int, share: float) -> Rate | None:
        recorded = self._recorded if self._here else []
        wanted = (macs, parameters, workers, share)
        same = [rate for rate in recorded if (rate.macs, rate.parameters, rate.workers, rate.share) == wanted]
        measured = [rate for result in self._results for rate in _rates(result)]
        for found in (same, measured, recorded):
            if found:
                return min(
                    found, key=lambda rate: (rate.share != share, rate.workers != workers, abs(rate.macs - macs))
                )
        return None

    @cached_property
    def _recorded(self) -> list[Rate]:
        """Of finished runs on this device: one rate for each arm of each experiment, the median over its seeds."""
        arms: dict[tuple[str, str, int, float], list[tuple[float, float]]] = {}
        costs: dict[tuple[str, str, int, float], Mapping[str, float]] = {}
        for experiment in experiments(self._records):
            for entry in read_plan(self._records, experiment):
                events = read_events(run_folder(self._records, entry.key))
                if not events or events[-1].get("outcome") != schema.FINISHED or not entry.costs:
                    continue
                start, end = next(event for event in events if event["kind"] == schema.START), events[-1]
                if device_of(start["environment"], gpu=start["device"] != "cpu") != self.device:
                    continue
                share = start.get("resources", {}).get("gpus_per_worker") or 1.0
                arm = (experiment, entry.arm, int(start["world_size"]), float(share))
                arms.setdefault(arm, []).append((end["metrics"][schema.FINAL_IMAGES_PER_S], end["t"]))
                costs[arm] = entry.costs
        return [
            Rate(
                images_per_s=median(speed for speed, _ in runs),
                workers=arm[2],
                share=arm[3],
                cpus=None,
                macs=costs[arm][schema.COST_MACS_TRAINING],
                parameters=costs[arm][schema.COST_PARAMETERS],
                source=f"{len(runs)} run{'s' if len(runs) > 1 else ''} of {arm[0]}, {arm[1]}, recorded on this device "
                + time.strftime("%Y-%m-%d", time.localtime(max(ended for _, ended in runs))),
            )
            for arm, runs in arms.items()
        ]

    def _together(self, speed: float, alone_s: float, ranks: int, parameters: int, source: str) -> tuple[float, str]:
        """Images/s of each of `ranks` workers that tell each other their gradients."""
        for result in self._results:
            if links := result["setting"].get("links"):
                link = links[-1]
                found = Link(link["latency_s"], link["bytes_per_s"])
                overlap = result["setting"]["overlap"]
                together_s = step_s(found, alone_s=alone_s, ranks=ranks, parameters=parameters, overlap=overlap)
                return speed * alone_s / together_s, (
                    f"{source}; {ranks} workers by the model of communication, fitted on {link['ranks']} ranks of one "
                    f"machine and wrong by {100 * link['error']:+.1f} % there"
                )
        return speed, f"{source}; communication not counted, measure it with `deeper bench scaling`"


def device_of(environment: Mapping[str, Any], *, gpu: bool | None = None) -> str:
    """A GPU by its name, a CPU by its name and cores; `gpu` None: the GPU where there is one."""
    if environment["gpus"] and gpu is not False:
        return str(environment["gpus"][0]["name"])
    machine = environment["machine"]
    return f"{machine['cpu']}, {machine['cores_physical']} cores"


def _this_device(gpu: bool) -> str:
    here = environment()
    return "a GPU, and this machine has none" if gpu and not here["gpus"] else device_of(here, gpu=gpu)


def _named(device: str, results: Sequence[Mapping[str, Any]]) -> str:
    known = sorted({device_of(result["environment"]) for result in results})
    found = [name for name in known if device.lower() in name.lower()]
    if len(found) != 1:
        which = f"is {'several' if found else 'none'} of those measured: {'; '.join(known)}"
        raise SpecError(
            f"--device: {device!r} {which if known else 'has no measured rate, nor has any other'}; run "
            "`deeper bench step --output FILE` on one and give FILE to --rate"
        )
    return found[0]


def rate_entry(costs: Cost, *, images_per_s: float, cpus: int | None) -> dict[str, float | None]:
    """What a result keeps in `setting.rates`: the speed of one rank, and its network's costs in training."""
    return {"images_per_s": images_per_s, "cpus": cpus, "macs": costs.macs, "parameters": costs.parameters}


def _rates(result: Mapping[str, Any]) -> Iterable[Rate]:
    name = device_of(result["environment"])
    for rate in result["setting"]["rates"]:
        source = f"`deeper bench {result['suite']}` on {name}, {result['date']}, without the loader"
        yield Rate(**rate, workers=1, source=source)


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = content["environment"]["gpus"], content["setting"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{path}: not what `deeper bench ... --output` writes: {error!r}") from None
    return content
