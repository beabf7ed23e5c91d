"""Implements `deeper plan`, which shows the runs of an experiment and their costs before anything is spent."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench.console.exit_codes import DONE
from bench.console.formats import format_bytes, format_duration
from bench.console.options import Subparsers, add_choice, add_command, add_experiment, add_json, any_path, whole_number
from bench.console.output import plain_console, print_result, show
from reproduce.errors import UserError

if TYPE_CHECKING:
    from bench.planning.plan import Plan
    from bench.planning.rates import TimeEstimate
    from reproduce.spec import PlannedRun

EXAMPLES = """examples:
  deeper plan quickstart
  deeper plan ablation-imagenette --device "AMD EPYC"      # device hours on a machine that was measured
  deeper plan my-ablation.yaml --arm reduced-both --seed 0
  deeper plan ablation-imagenet --json --output plan.json
  deeper plan ablation-imagenet --source imagenet:/datasets/ilsvrc2012 --max-resolution 512     # before preparing
"""


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser) -> None:
    """Add `deeper plan` to the command line."""
    help = "Show the runs of an experiment and what they need, before anything is spent."
    parser = add_command(subparsers, places, "plan", _plan, help, examples=EXAMPLES)
    add_experiment(parser)
    add_choice(parser)
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="Estimate the hours on this device, which was measured before. Default: this machine.",
    )
    parser.add_argument(
        "--rate",
        metavar="FILE",
        type=any_path,
        help="Estimate the hours from a file that `deeper bench step` or `scaling`, or `deeper slurm check` wrote.",
    )
    parser.add_argument(
        "--source",
        help="Estimate what preparing this source takes, as `deeper data prepare` takes it, in place of the runs.",
    )
    parser.add_argument(
        "--max-resolution", type=whole_number(16), metavar="PIXELS", help="The option of `deeper data prepare`."
    )
    add_json(parser)


def _plan(arguments: argparse.Namespace) -> int:
    from reproduce.experiments import experiment_path

    experiment_path(arguments.experiment)  # before what is slow to import: a typing error is frequent

    from reproduce.spec import load_experiment

    experiment = load_experiment(arguments.experiment)
    if arguments.source is not None:
        return _estimate_preparation(arguments)
    if arguments.max_resolution is not None:
        raise UserError("--max-resolution: applies only to the preparation that --source names; leave it out")

    from bench.planning.plan import make_plan, select
    from bench.planning.rates import Rates
    from reproduce.grid import plan_without_data

    select(plan_without_data(experiment), arguments.arm, arguments.seed)  # a typing error is named before anything slow
    plan = make_plan(experiment, arguments.data, announce=lambda text: print(text, file=sys.stderr))
    runs = select(plan.runs, arguments.arm, arguments.seed)
    gpu = any(run.resources.gpus_per_worker > 0 for run in runs)
    rates = Rates(arguments.records, gpu=gpu, device=arguments.device, file=arguments.rate)
    estimates = {run.key: rates.estimate(plan, run) for run in runs}
    print_result(arguments, _as_json(plan, runs, estimates), lambda: _show(plan, runs, estimates, rates.device))
    return DONE


def _estimate_preparation(arguments: argparse.Namespace) -> int:
    from reproduce.data import PrepareOptions
    from reproduce.data.estimating import estimate_preparation

    options = PrepareOptions(max_resolution=arguments.max_resolution)
    found = estimate_preparation(arguments.source, options)

    def show_text() -> None:
        images = " and ".join(f"{count:,} {split}" for split, count in found.images.items())
        checking = found.checking_seconds
        before = f", after {format_duration(checking)} in which the archives are checked" if checking else ""
        show(
            plain_console(),
            f"{arguments.source}: {found.classes} classes, {images} images",
            f"preparing it takes about {format_bytes(found.bytes)} and {format_duration(found.seconds)}{before}",
            f"This is an estimate from {found.sampled} of the images, on all cores of this machine. A disk that is "
            "slower than the cores makes it longer.",
        )

    print_result(arguments, asdict(found), show_text)
    return DONE


def _as_json(
    plan: Plan, runs: Sequence[PlannedRun], estimates: Mapping[str, TimeEstimate | None]
) -> list[dict[str, Any]]:
    return [
        {
            "run": run.name,
            "key": run.key,
            "costs": plan.costs[run.key],
            "estimate": asdict(estimate) if (estimate := estimates[run.key]) else None,
            "config": run.config.model_dump(mode="json"),
        }
        for run in runs
    ]


def _show(plan: Plan, runs: Sequence[PlannedRun], estimates: Mapping[str, TimeEstimate | None], device: str) -> None:
    from bench.console.tables import Column, FittedTable
    from bench.planning.plan import proposed_gpu_share
    from reproduce import schema

    columns = (
        Column("run"),
        Column("key", priority=3),
        Column("parameters", "right", priority=4),
        Column("MACs", "right", priority=5),
        Column("epochs", "right", priority=2),
        Column("training", "right", priority=6),
        *([Column("hours", "right", priority=1)] if any(estimates.values()) else []),
    )
    rows, total_macs = [], 0.0
    for run in runs:
        costs, macs = plan.costs[run.key], plan.training_macs(run)
        total_macs += macs
        rows.append(
            (
                run.name,
                run.key,
                f"{costs[schema.COST_PARAMETERS] / 1e6:.2f} M",
                f"{costs[schema.COST_MACS] / 1e6:,.0f} M",
                str(run.config.recipe.epochs),
                f"{macs / 1e12:,.1f} T",
                f"{estimate.device_hours:,.3g}" if (estimate := estimates[run.key]) else "",
            )[: len(columns)]
        )
    console = plain_console()
    show(console, FittedTable(columns, rows))
    show(
        console,
        f"{len(runs)} runs, {total_macs / 1e12:,.0f} T multiply-adds of training in all",
        *_disk(plan, runs, estimates),
        *_device_hours(runs, estimates, device),
    )
    if share := proposed_gpu_share(plan):
        show(
            console,
            "Steps of so few pixels leave a large GPU idle most of the time. "
            f"With resources.gpus_per_worker: {share:g}, each GPU trains {round(1 / share)} runs at once, and every "
            "run has that share of its memory.",
        )


def _disk(plan: Plan, runs: Sequence[PlannedRun], estimates: Mapping[str, TimeEstimate | None]) -> Iterator[str]:
    """Yield two lines with the predicted size of the records, afterwards and while runs train."""
    from bench.planning.disk import predict_disk

    at_once = {run.key: run.resources.workers * (run.resources.gpus_per_worker or 1.0) for run in runs}
    seconds = {key: 3600 * found.device_hours / at_once[key] for key, found in estimates.items() if found}
    disk = predict_disk(plan, runs, seconds)
    without = "" if disk.with_telemetry else ", telemetry not counted"
    yield f"records: about {format_bytes(disk.after_bytes)} in {disk.after_files} files when all have finished{without}"
    most_bytes, most_files = disk.while_training(1)
    yield (
        f"records while one run trains: up to {format_bytes(most_bytes)} in {most_files} files; each further run at "
        f"the same time takes up to {format_bytes(disk.training_bytes)} more"
    )


def _device_hours(
    runs: Sequence[PlannedRun], estimates: Mapping[str, TimeEstimate | None], device: str
) -> Iterator[str]:
    """Yield a line with the device hours of all runs, then one line for each arm with the source of its rate."""
    known = {run.arm: estimate for run in runs if (estimate := estimates[run.key]) is not None}
    if not known:
        yield f"device hours: no rate was measured on {device}; run `deeper bench step`, or name a device or a file"
        return
    total = sum(estimate.device_hours for estimate in estimates.values() if estimate is not None)
    yield f"{total:,.3g} device hours, of workers on {device}"
    for arm, estimate in known.items():
        yield f"  {arm}: {estimate.images_per_s:,.4g} images/s, {estimate.source}"
