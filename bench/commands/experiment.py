"""`deeper plan`, `run`, `status` and `report`: what is done with an experiment."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RUN_EXAMPLES = """examples:
  deeper run quickstart --prepare
  deeper run my-ablation.yaml --data /scratch/me --records /project/me/records
  deeper run ablation-imagenette --arm reduced-none --arm reduced-both --seed 0
  deeper run ablation-imagenet --address auto       # on a running Ray cluster

Ctrl-C has every run write a checkpoint and ends; the same command goes on. A second Ctrl-C ends at once.
"""


def add_to(verbs: Any, places: argparse.ArgumentParser) -> None:
    def verb(name: str, call: Any, help: str, **more: Any) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = verbs.add_parser(name, parents=[places], help=help, description=help, **more)
        parser.add_argument("experiment", help="a file (*.yaml) or the name of a shipped experiment")
        parser.set_defaults(call=call)
        return parser

    plan = verb("plan", _plan, "the runs and what they need, before anything is spent")
    run = verb(
        "run",
        _run,
        "carry out an experiment; what is finished is not repeated",
        epilog=RUN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for parser in (plan, run):
        parser.add_argument("--arm", action="append", default=[], help="only this arm (may be repeated)")
        parser.add_argument("--seed", action="append", default=[], type=int, help="only this seed (may be repeated)")
    run.add_argument("--prepare", action="store_true", help="prepare the data set first where that is not done")
    run.add_argument("--retry-failed", action="store_true", help="try runs again that failed before")
    run.add_argument("--address", help="a running Ray cluster ('auto' or HOST:PORT) in place of one of this machine")
    run.add_argument("--concurrent", type=int, help="runs at once at most (as many as fit)")
    run.add_argument("--telemetry-hz", type=float, default=1.0, help="samples a second of host and GPUs (1)")
    status = verb("status", _status, "runs: waiting, running, finished, failed and why")
    report = verb("report", _report, "the ablation report from what MLflow holds: HTML, Markdown, CSV, LaTeX")
    report.add_argument("--out", type=Path, help="folder of the report (reports/EXPERIMENT)")
    for parser in (plan, status):
        parser.add_argument("--json", action="store_true", help="for programs")


def _plan(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from bench.planning import make_plan, select
    from reproduce import schema
    from reproduce.spec import load_experiment

    plan = make_plan(load_experiment(arguments.experiment), arguments.data)
    runs = select(plan.runs, arguments.arm, arguments.seed)
    if arguments.json:
        content = [
            {
                "run": run.name,
                "key": run.key,
                "costs": plan.costs[run.key],
                "config": run.config.model_dump(mode="json"),
            }
            for run in runs
        ]
        print(json.dumps(content, indent=1))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("run", "key", "parameters", "multiply-adds", "epochs", "training"):
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
        )
    console = Console()
    console.print(table)
    console.print(
        f"{len(runs)} runs, {total / 1e12:,.0f} T multiply-adds of training in all, "
        f"at most {plan.disk_bytes / 2**30:.1f} GiB of records"
    )
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from bench import orchestrator, tracking
    from bench.display import render, rows
    from bench.planning import check_disk, make_plan, select
    from bench.records import read_plan, write_plan
    from reproduce.spec import load_experiment

    console = Console()
    experiment = load_experiment(arguments.experiment)
    if arguments.prepare:
        _prepare_missing(experiment, arguments.data)
    plan = make_plan(experiment, arguments.data)
    runs = select(plan.runs, arguments.arm, arguments.seed)
    records = arguments.records.absolute()
    check_disk(records, plan.disk_bytes)
    write_plan(records, experiment.name, plan.runs, plan.costs)
    entries = [entry for entry in read_plan(records, experiment.name) if entry.key in {run.key for run in runs}]

    done = {"finished"} if arguments.retry_failed else {"finished", "failed"}
    settled = {row.planned.key for row in rows(entries, records) if row.state.status in done}
    left = [run for run in runs if run.key not in settled]
    options = orchestrator.Options(
        records=records,
        data=arguments.data.absolute(),
        address=arguments.address,
        concurrent=arguments.concurrent,
        telemetry_hz=arguments.telemetry_hz,
    )
    stopped = False
    publisher = tracking.start_publisher(records)
    try:
        if left:
            stopped = _carry_out(left, entries, experiment, options, console)
    finally:
        not_published = tracking.stop_publisher(publisher)
        if not_published:
            console.print(not_published, highlight=False, style="yellow")
    table = rows(entries, records)
    console.print(render(table, 1))
    if stopped:
        console.print(f"stopped; go on with: deeper run {arguments.experiment}")
        return 75
    failed = sum(row.state.status != "finished" for row in table)
    console.print(f"next: deeper report {arguments.experiment}, deeper dashboard")
    return 1 if failed else 0


def _carry_out(left: Any, entries: Any, experiment: Any, options: Any, console: Any) -> bool:
    """The grid under a live display; returns whether it was stopped by a signal."""
    from rich.live import Live

    from bench import orchestrator
    from bench.display import PlainProgress, render, rows

    console.print(f"{len(entries)} runs, {len(left)} to do; starting Ray ...", highlight=False)
    with _stop_signal() as stop, orchestrator.cluster(options):
        slots = orchestrator.capacity(experiment.resources)
        grid = orchestrator.Grid(left, experiment.resources, options)
        grid.start(slots)
        stopping = False

        def watch(show: Any) -> None:
            nonlocal stopping
            while grid.busy:
                if stop and not stopping:
                    stopping = True
                    grid.stop()
                    console.print("stopping: every run writes a checkpoint first", highlight=False)
                show(rows(entries, options.records))
                time.sleep(1)

        if console.is_terminal:
            with Live(console=console, transient=True, auto_refresh=False) as live:
                height = max(4, console.height - 6)
                watch(lambda table: live.update(render(table, grid.concurrency, height), refresh=True))
        else:
            plain = PlainProgress(console)
            watch(lambda table: plain.update(table, grid.concurrency))
            plain.update(rows(entries, options.records), 1)
    return stopping


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """A list that the first SIGINT or SIGTERM fills; the second one ends the process as usual."""
    received: list[int] = []

    def note(number: int, _frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _prepare_missing(experiment: Any, data_root: Path) -> None:
    from bench.commands.data import prepare_with_progress
    from reproduce.data import DataError, PrepareOptions, load_manifest
    from reproduce.data.sources import source_from
    from reproduce.spec import SpecError, arm_data

    for data in arm_data(experiment):
        folder = data_root / data.path
        try:
            load_manifest(folder)
        except DataError:
            if data.source is None:
                raise SpecError(
                    f"data.source: {data.path} is not prepared and the experiment names no source; "
                    f"type: deeper data prepare SOURCE --out {folder}"
                ) from None
            prepare_with_progress(source_from(data.source), folder, PrepareOptions())


def _status(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from bench.display import as_json, render, rows
    from bench.records import read_plan

    table = rows(read_plan(arguments.records, _experiment_name(arguments.experiment)), arguments.records)
    if arguments.json:
        print(json.dumps(as_json(table), indent=1))
    else:
        running = sum(row.state.status == "running" for row in table)
        Console().print(render(table, max(1, running)))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from analysis.report import report
    from bench.tracking import tracking_uri

    name = _experiment_name(arguments.experiment)
    page = report(name, tracking_uri=tracking_uri(arguments.records), out=arguments.out or Path("reports") / name)
    print(page)
    return 0


def _experiment_name(name_or_path: str) -> str:
    """The name under which an experiment is recorded; a file need not be there any more where the name is given."""
    from reproduce.spec import load_experiment

    if name_or_path.endswith((".yaml", ".yml")):
        return load_experiment(name_or_path).name
    return name_or_path
