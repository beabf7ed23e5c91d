"""Estimates how long runs will take, for `deeper plan`, from training rates that were measured on the same device.

The rate of a run is taken from the first of these sources that has one:

1. finished runs recorded on this device with the same cost of the network, number of workers and share of a GPU;
2. results of `deeper bench` on the device;
3. other finished runs recorded on this device.

If the user names a device, only source 2 is used; if the user names a result file, only that file. A rate is scaled
by multiply-adds to another network, by the number of cores or the share of a GPU, and by the model of communication to
another number of workers. There is no estimate for a device on which nothing was measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.machine.environment import machine_and_devices
from bench.planning.communication import Link, step_seconds
from bench.planning.plan import Plan
from bench.records.plan import experiments, read_plan
from bench.records.states import read_events, run_folder
from bench.results.store import COMMITTED, latest_results
from reproduce import schema
from reproduce.grid import used_images
from reproduce.spec import PlannedRun, ResourcesConfig, SpecError

if TYPE_CHECKING:
    from reproduce.models.cost import Cost

ACROSS_NODES = "scaling-nodes"
"""The suite of a result of `deeper slurm check`; all others are named like the command of `deeper bench`."""
_Group = tuple[str, str, int, float, int | None]
"""Runs with one rate: experiment, arm, workers, share of a GPU, and CPU cores of each worker."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A measured training speed of one network on one device."""

    images_per_s: float
    """Training images/s of all workers together."""
    workers: int
    """Number of workers that trained together."""
    cpus: int | None
    """CPU cores of each worker; None if the worker trained on a GPU or if an old record lacks the number."""
    macs: float
    """Multiply-adds of the forward pass of one image in training."""
    parameters: float
    """Number of parameters of the network in training."""
    source: str
    """Where the rate was measured, as text for people."""
    share: float = 1.0
    """The share of a GPU that each worker had; 1 for a whole GPU, and on CPUs."""


@dataclass(frozen=True)
class TimeEstimate:
    """The estimated training speed and device time of a run."""

    device_hours: float
    """Hours of all devices of the run together. A device is a GPU or the CPU cores of one worker. A worker with a share
    of a GPU adds only that share of its hours."""
    images_per_s: float
    """Estimated training images/s of all workers together."""
    source: str
    """Where the rate was measured and how it was scaled, as text for people."""


class Rates:
    """Estimates the duration of runs from the training rates that are known of one device."""

    def __init__(self, records: Path, *, gpu: bool, device: str | None = None, file: Path | None = None) -> None:
        """
        Args:
            records: The folder of the records.
            gpu: Whether to estimate for this machine's GPU rather than its CPU. Ignored if `device` or `file` is given.
            device: Part of the name of a device with benchmark results, in any case. None selects this machine.
            file: A result of `deeper bench step` or `scaling`, or of `deeper slurm check`. If given, it is the only
                source of rates, and `device` is ignored.

        Raises:
            SpecError: No device or several devices match `device`, or a file is not a result of a benchmark.
        """
        self._records = records
        self._is_this_machine = device is None and file is None
        if file is not None:
            self._results = [_read_result(file)]
            if "rates" not in self._results[0]["setting"]:
                raise SpecError(f"--rate: {file}: holds no rate; `deeper bench step --output` and `scaling` write one")
            self.device = device_name(self._results[0]["environment"])
            return
        paths = (path for folder in (latest_results(), COMMITTED) for path in sorted(folder.rglob("*.json")))
        results = [result for path in paths if "rates" in (result := _read_result(path)).get("setting", {})]
        self.device = _this_device(gpu) if device is None else _find_device(device, results)
        self._results = [result for result in results if device_name(result["environment"]) == self.device]

    def estimate(self, plan: Plan, run: PlannedRun) -> TimeEstimate | None:
        """Estimate how long a run of a plan will take, including the validation after each epoch.

        Args:
            plan: The plan, with costs and sizes of data sets.
            run: One of its runs.

        Returns:
            The estimate; None if nothing was measured on the device.
        """
        costs, resources = plan.costs[run.key], run.resources
        macs, parameters = costs[schema.COST_MACS_TRAINING], costs[schema.COST_PARAMETERS]
        share = resources.gpus_per_worker or 1.0
        rate = self._closest(macs, parameters, resources, share)
        if rate is None:
            return None
        speed, source = rate.images_per_s / rate.workers, rate.source  # images/s of one worker
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
            speed, source = self._with_communication(speed, alone_s, resources.workers, int(parameters), source)
        seconds = run.config.recipe.epochs * _images_per_epoch(plan, run) / speed
        return TimeEstimate(share * seconds / 3600, speed * resources.workers, source)

    def _closest(self, macs: float, parameters: float, resources: ResourcesConfig, share: float) -> Rate | None:
        """The rate to scale from: the one that differs least from the run, of the first source that has any."""
        recorded = self._recorded if self._is_this_machine else []
        wanted = (macs, parameters, resources.workers, share)
        same = [rate for rate in recorded if (rate.macs, rate.parameters, rate.workers, rate.share) == wanted]
        measured = [rate for result in self._results for rate in _rates_of(result)]

        def distance(rate: Rate) -> tuple[bool, bool, bool, float]:
            other_cpus = rate.cpus is not None and rate.cpus != resources.cpus_per_worker
            return rate.share != share, rate.workers != resources.workers, other_cpus, abs(rate.macs - macs)

        for found in (same, measured, recorded):
            if found:
                return min(found, key=distance)
        return None

    @cached_property
    def _recorded(self) -> list[Rate]:
        """The rates of finished runs on this device.

        There is one for each experiment, arm, number of workers, and cores or share of a GPU: the median over the runs.
        """
        speeds: dict[_Group, list[tuple[float, float]]] = {}  # images/s and time of each run's end
        costs: dict[_Group, Mapping[str, float]] = {}
        for experiment in experiments(self._records):
            for entry in read_plan(self._records, experiment):
                events = read_events(run_folder(self._records, entry.key))
                if not events or events[-1].get("outcome") != schema.FINISHED or not entry.costs:
                    continue
                start, end = next((event for event in events if event["kind"] == schema.START), None), events[-1]
                if start is None:  # its line was damaged
                    continue
                if device_name(start["environment"], gpu=start["device"] != "cpu") != self.device:
                    continue
                resources = start.get("resources", {})
                share = resources.get("gpus_per_worker") or 1.0
                cpus = resources.get("cpus_per_worker") if start["device"] == "cpu" else None
                group = (experiment, entry.arm, int(start["world_size"]), float(share), cpus)
                speeds.setdefault(group, []).append((end["metrics"][schema.FINAL_IMAGES_PER_S], end["t"]))
                costs[group] = entry.costs
        rates = []
        for group, runs in speeds.items():
            experiment, arm, workers, share, cpus = group
            latest = time.strftime("%Y-%m-%d", time.localtime(max(ended for _, ended in runs)))
            count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
            rates.append(
                Rate(
                    images_per_s=median(speed for speed, _ in runs),
                    workers=workers,
                    share=share,
                    cpus=cpus,
                    macs=costs[group][schema.COST_MACS_TRAINING],
                    parameters=costs[group][schema.COST_PARAMETERS],
                    source=f"{count} of {experiment}, {arm}, recorded on this device {latest}",
                )
            )
        return rates

    def _with_communication(
        self, speed: float, alone_s: float, ranks: int, parameters: int, source: str
    ) -> tuple[float, str]:
        """Reduce the images/s of one worker to its speed when `ranks` workers exchange gradients in each step.

        `alone_s` is the duration of a worker's step without communication, in seconds.

        Returns:
            The images/s of one worker, and `source` with a remark on the communication.
        """
        if found := self._closest_link(ranks):
            link, overlap = found
            together_s = step_seconds(
                Link(link["latency_s"], link["bytes_per_s"]),
                alone_s=alone_s,
                ranks=ranks,
                parameters=parameters,
                overlap=overlap,
            )
            machines = link.get("machines", 1)
            where = "one machine" if machines == 1 else f"{machines} machines"
            return speed * alone_s / together_s, (
                f"{source}; {ranks} workers by the model of communication, fitted on {link['ranks']} ranks of {where} "
                f"and wrong by {100 * link['error']:+.1f} % there"
            )
        measure = "measure it with `deeper bench scaling`, or between nodes with `deeper slurm check`"
        return speed, f"{source}; communication not counted, {measure}"

    def _closest_link(self, ranks: int) -> tuple[Mapping[str, Any], float] | None:
        """Return the measured link that ranks are most likely to have, and how far it overlaps with computing.

        It is that of one machine for no more ranks than were measured there. For more ranks it is one between machines
        if there is any, since the run may span several, and that of the most ranks.
        """
        links = [
            (link, result["setting"]["overlap"])
            for result in self._results
            for link in result["setting"].get("links", ())
        ]
        within = [found for found in links if found[0].get("machines", 1) == 1 and found[0]["ranks"] >= ranks]
        if within:
            return min(within, key=lambda found: found[0]["ranks"])
        return max(links, key=lambda found: (found[0].get("machines", 1) > 1, found[0]["ranks"]), default=None)


def _images_per_epoch(plan: Plan, run: PlannedRun) -> float:
    """Training images of an epoch, plus its validation images weighted by their lower cost without backward pass.

    The latter are the mean over the epochs: a recipe may limit those of the last epoch and those of all others.
    """
    costs, data, recipe = plan.costs[run.key], run.config.data, run.config.recipe
    validation_cost = costs[schema.COST_MACS] / (3 * costs[schema.COST_MACS_TRAINING])
    every = plan.val_images[data.path]
    early, final = (min(limit or every, every) for limit in (recipe.early_val_images, recipe.final_val_images))
    validated = (early * (recipe.epochs - 1) + final) / recipe.epochs
    return used_images(run.config, plan.train_images[data.path]) + validated * validation_cost


def device_name(environment: Mapping[str, Any], *, gpu: bool | None = None) -> str:
    """The name of a machine's first GPU, or the name and the number of physical cores of its CPU.

    Args:
        environment: The machine as `bench.machine.environment` describes it.
        gpu: False names the CPU. True or None names the GPU if there is one, and otherwise the CPU.
    """
    if environment["gpus"] and gpu is not False:
        return str(environment["gpus"][0]["name"])
    machine = environment["machine"]
    return f"{machine['cpu']}, {machine['cores_physical']} cores"


def _this_device(gpu: bool) -> str:
    here = machine_and_devices()
    return "a GPU, and this machine has none" if gpu and not here["gpus"] else device_name(here, gpu=gpu)


def _find_device(device: str, results: Sequence[Mapping[str, Any]]) -> str:
    known = sorted({device_name(result["environment"]) for result in results})
    found = [name for name in known if device.lower() in name.lower()]
    if len(found) != 1:
        which = f"is {'several' if found else 'none'} of those measured: {'; '.join(known)}"
        raise SpecError(
            f"--device: {device!r} {which if known else 'has no measured rate, nor has any other'}; run "
            "`deeper bench step --output FILE` on one and give FILE to --rate"
        )
    return found[0]


def rate_entry(costs: Cost, *, images_per_s: float, cpus: int | None) -> dict[str, float | None]:
    """Build an entry of `setting.rates` in a benchmark's result, from which `Rates` reads it.

    Args:
        costs: Costs of the network in training.
        images_per_s: Training images/s of one rank.
        cpus: CPU cores of the rank; None on a GPU.

    Returns:
        A dictionary with the keys images_per_s, cpus, macs and parameters.
    """
    return {"images_per_s": images_per_s, "cpus": cpus, "macs": costs.macs, "parameters": costs.parameters}


def _rates_of(result: Mapping[str, Any]) -> Iterable[Rate]:
    name = device_name(result["environment"])
    command = "deeper slurm check" if result["suite"] == ACROSS_NODES else f"deeper bench {result['suite']}"
    for rate in result["setting"]["rates"]:
        source = f"`{command}` on {name}, {result['date']}, without the loader"
        yield Rate(**rate, workers=1, source=source)


def _read_result(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = content["environment"]["gpus"], content["setting"]
        if "rates" in content["setting"]:
            _check_rates(content)
    except OSError as error:
        raise SpecError(
            f"{path}: cannot be read: {error.strerror}; name a file that `deeper bench ... --output` wrote"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SpecError(
            f"{path}: not what `deeper bench ... --output` or `deeper slurm check` writes: {error!r}; move it away, or "
            "measure again"
        ) from None
    return content


def _check_rates(result: Mapping[str, Any]) -> None:
    """Read everything that an estimate takes from a result with rates, so that what is damaged is named by its file."""
    device_name(result["environment"])
    for rate in _rates_of(result):
        _ = rate.images_per_s / rate.workers, rate.macs / rate.images_per_s, float(rate.parameters)
    for link in result["setting"].get("links", ()):
        _ = [float(link[name]) for name in ("ranks", "latency_s", "bytes_per_s", "error")]
        _ = float(result["setting"]["overlap"])
