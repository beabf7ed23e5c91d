"""`deeper plan`, `status` and `report`: what is known of an experiment before, during and after its runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console.options import add_choice, add_experiment, add_verb

if TYPE_CHECKING:
    from bench.planning.rates import TimeEstimate
    from reproduce.spec import PlannedRun


def add_to(verbs: Any, places: argparse.ArgumentParser) -> None:
    def verb(name: str, call: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        parser = add_verb(verbs, places, name, call, help)
        add_experiment(parser)
        return parser

    plan = verb("plan", _plan, "the runs and what they need, before anything is spent")
    add_choice(plan)
    plan.add_argument(
        "--device", metavar="NAME", help="device hours on one that was measured, e.g. h100 (this machine's)"
    )
    plan.add_argument(
        "--rate", metavar="FILE", type=Path, help="device hours from what `deeper bench step --output` wrote"
    )
    status = verb("status", _status, "runs: waiting, running, finished, failed and why")
    report = verb("report", _report, "the ablation report from what MLflow holds: HTML, Markdown, CSV, LaTeX")
    report.add_argument("--out", type=Path, help="folder of the report (reports/EXPERIMENT)")
    for parser in (plan, status):
        parser.add_argument("--json", action="store_true", help="for programs")


def _plan(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from bench.planning.plan import make_plan, proposed_gpu_share, select
    from bench.planning.rates import Rates
    from reproduce import schema
    from reproduce.spec import load_experiment

    plan = make_plan(load_experiment(arguments.experiment), arguments.data)
    runs = select(plan.runs, arguments.arm, arguments.seed)
    gpu = plan.experiment.resources.gpus_per_worker > 0
    rates = Rates(arguments.records, gpu=gpu, device=arguments.device, file=arguments.rate)
    estimates = {run.key: rates.estimate(plan, run) for run in runs}
    if arguments.json:
        content = [
            {
                "run": run.name,
                "key": run.key,
                "costs": plan.costs[run.key],
                "estimate": asdict(estimate) if (estimate := estimates[run.key]) else None,
                "config": run.config.model_dump(mode="json"),
            }
            for run in runs
        ]
        print(json.dumps(content, indent=1))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("run", "key", "parameters", "MACs", "epochs", "training", "hours"):
        table.add_column(title, justify="left" if title in ("run", "key") else "right", no_wrap=True)
    total = 0.0
    for run in runs:
        costs, macs = plan.costs[run.key], plan.training_macs(run)
        total += macs
        table.add_row(
            run.name,
            run.key,
            f"{costs[schema.COST_PARAMETERS] / 1e6:.2f} M",
            f"{costs[schema.COST_MACS] / 1e6:,.0f} M",
            str(run.config.recipe.epochs),
            f"{macs / 1e12:,.1f} T",
            f"{estimate.device_hours:,.3g}" if (estimate := estimates[run.key]) else "",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{len(runs)} runs, {total / 1e12:,.0f} T multiply-adds of training in all, "
        f"at most {plan.disk_bytes / 2**30:.1f} GiB of records"
    )
    for line in _device_hours(runs, estimates, rates.device):
        console.print(line, highlight=False, soft_wrap=True)
    if share := proposed_gpu_share(plan.experiment):
        recipe = plan.experiment.recipe
        console.print(
            f"Steps of {recipe.batch_size} images of {recipe.resolution} px leave a large GPU idle most of the time: "
            f"resources.gpus_per_worker: {share:g} runs {round(1 / share)} at once on each, every one with that share "
            "of its memory.",
            highlight=False,
            soft_wrap=True,
        )
    return 0


def _device_hours(
    runs: Sequence[PlannedRun], estimates: Mapping[str, TimeEstimate | None], device: str
) -> Iterator[str]:
    """How many there are in all, and for each arm where the figure comes from."""
    known = {run.arm: estimate for run in runs if (estimate := estimates[run.key]) is not None}
    if not known:
        yield f"device hours: no measured rate for {device}: run `deeper bench step`, or name a device or a file"
        return
    total = sum(estimate.device_hours for estimate in estimates.values() if estimate is not None)
    yield f"{total:,.3g} device hours, of workers on {device}"
    for arm, estimate in known.items():
        yield f"  {arm}: {estimate.images_per_s:,.4g} images/s, {estimate.source}"


def _status(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from bench.orchestration.display import as_json, render, rows
    from bench.records.plan import read_plan
    from slurm import status

    name = _experiment_name(arguments.experiment)
    table = rows(read_plan(arguments.records, name), arguments.records)
    submitted = status.view(arguments.records, name)
    if arguments.json:
        print(json.dumps({"runs": as_json(table), "jobs": status.as_json(submitted)}, indent=1))
    else:
        running = sum(row.state.status == "running" for row in table)
        console = Console()
        console.print(render(table, max(1, running)))
        if submitted.jobs:
            console.print(status.render(submitted))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from analysis.report.writing import write_report
    from bench.tracking.location import tracking_uri

    name = _experiment_name(arguments.experiment)
    out = arguments.out or Path("reports") / name
    page = write_report(name, tracking_uri=tracking_uri(arguments.records), out=out)
    print(page)
    return 0


def _experiment_name(name_or_path: str) -> str:
    """The name under which an experiment is recorded; a file need not be there any more where the name is given."""
    from reproduce.spec import load_experiment

    if name_or_path.endswith((".yaml", ".yml")):
        return load_experiment(name_or_path).name
    return name_or_path
