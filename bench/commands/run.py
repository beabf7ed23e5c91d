"""`deeper run`: an experiment carried out, on this machine or on a Ray cluster that is there."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.console.exit_codes import DONE, FAILED, INTERRUPTED
from bench.console.options import add_choice, add_experiment, add_retry, add_verb

EXAMPLES = """examples:
  deeper run quickstart --prepare
  deeper run my-ablation.yaml --data /scratch/me --records /project/me/records
  deeper run ablation-imagenette --arm reduced-none --arm reduced-both --seed 0
  deeper run ablation-imagenet --address auto       # on a running Ray cluster

Ctrl-C has every run write a checkpoint and ends; the same command goes on. A second Ctrl-C ends at once. The command
may be typed twice at once, on one host or on several: no run is done by both.
"""


def add_to(verbs: Any, places: argparse.ArgumentParser) -> None:
    help = "carry out an experiment; what is finished is not repeated"
    run = add_verb(verbs, places, "run", _run, help, examples=EXAMPLES)
    add_experiment(run)
    add_choice(run)
    add_retry(run)
    run.add_argument("--prepare", action="store_true", help="prepare the data set first where that is not done")
    run.add_argument("--address", help="a running Ray cluster ('auto' or HOST:PORT) in place of one of this machine")
    run.add_argument("--concurrent", type=int, help="runs at once at most (as many as fit)")
    run.add_argument("--telemetry-hz", type=float, default=1.0, help="samples a second of host and GPUs (1)")
    batch = run.add_argument_group("in batch jobs")
    batch.add_argument("--part", metavar="I/N", help="begin with this part of the runs, then help with the others")
    batch.add_argument("--stop-file", type=Path, help="stop as on Ctrl-C once this file is there; it tells the reason")
    batch.add_argument("--no-publish", action="store_true", help="only write records; MLflow gets them later")
    batch.add_argument(
        "--heartbeat-s", type=float, default=1.0, help="seconds between signs of life in a run's folder (1)"
    )
    batch.add_argument(
        "--node-patience-s", type=float, default=600, help="how long to wait for lost nodes that are needed (600)"
    )


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from bench.orchestration.display import render, rows
    from bench.orchestration.executor import ExecutionOptions
    from bench.orchestration.interruption import Interruption
    from bench.planning.plan import check_disk, make_plan, select, start_with_part
    from bench.records.plan import read_plan, write_plan
    from bench.records.record import Recording
    from bench.tracking.background import start_publisher, stop_publisher
    from bench.tracking.mlflow_setup import require_mlflow
    from reproduce.spec import load_experiment

    if not arguments.no_publish:
        require_mlflow()
    console = Console()
    experiment = load_experiment(arguments.experiment)
    which = _part(arguments.part) if arguments.part else None
    if arguments.prepare:
        _prepare_missing(experiment, arguments.data)
    plan = make_plan(experiment, arguments.data)
    runs = select(plan.runs, arguments.arm, arguments.seed)
    records = arguments.records.absolute()
    check_disk(records, plan.disk_bytes)
    write_plan(records, experiment.name, plan.runs, plan.costs)
    entries = [entry for entry in read_plan(records, experiment.name) if entry.key in {run.key for run in runs}]

    options = ExecutionOptions(
        records=records,
        data=arguments.data.absolute(),
        address=arguments.address,
        concurrent=arguments.concurrent,
        recording=Recording(telemetry_hz=arguments.telemetry_hz, heartbeat_s=arguments.heartbeat_s),
        retry_failed=arguments.retry_failed,
        node_patience_s=arguments.node_patience_s,
    )
    settled = {row.planned.key for row in rows(entries, records) if row.state.status in options.settled}
    left = [run for run in (start_with_part(runs, *which) if which else runs) if run.key not in settled]
    stopped = None
    with Interruption(arguments.stop_file) as interruption:
        publisher = None if arguments.no_publish else start_publisher(records)
        try:
            if left:
                stopped = _carry_out(left, entries, experiment.resources, options, interruption, console)
        finally:
            not_published = publisher and stop_publisher(publisher, hurry=lambda: interruption.signalled)
            if not_published:
                console.print(not_published, highlight=False, style="yellow")
    table = rows(entries, records)
    console.print(render(table, 1))
    if stopped is not None:
        console.print(f"stopped ({stopped}); go on with: deeper run {arguments.experiment}", highlight=False)
        return INTERRUPTED
    console.print(f"next: deeper report {experiment.name}, deeper dashboard", highlight=False)
    return FAILED if any(row.state.status in ("failed", "interrupted") for row in table) else DONE


def _carry_out(
    left: Sequence[Any], entries: Sequence[Any], resources: Any, options: Any, interruption: Any, console: Any
) -> str | None:
    """The grid under a live display; returns why it was stopped, if it was."""
    from rich.live import Live

    from bench.orchestration.cluster import cluster
    from bench.orchestration.display import PlainProgress, Watch, render
    from bench.orchestration.leases import holder
    from bench.orchestration.orchestrator import Orchestrator
    from bench.records.states import run_folder

    console.print(f"{len(entries)} runs, {len(left)} to do; starting Ray ...", highlight=False)
    ray_log = options.records / "logs" / "ray.log"
    with cluster(options.address, ray_log), Orchestrator(left, resources, options) as orchestrator:
        look = Watch(entries, options.records, every_s=options.recording.heartbeat_s)

        def watch(show: Any) -> None:
            while orchestrator.busy:
                if orchestrator.stop_reason is None and interruption.reason:
                    orchestrator.stop(interruption.reason)
                    reason = orchestrator.stop_reason
                    console.print(f"stopping ({reason}): every run writes a checkpoint first", highlight=False)
                show(look.rows())
                interruption.wait(1)

        if console.is_terminal:
            with Live(console=console, transient=True, auto_refresh=False) as live:
                height = max(4, console.height - 6)
                watch(lambda table: live.update(render(table, orchestrator.concurrency, height), refresh=True))
        else:
            plain = PlainProgress(console)
            watch(lambda table: plain.update(table, orchestrator.concurrency))
            plain.update(look.rows(now=True), 1)
    if orchestrator.stop_reason is None:
        for run in orchestrator.held_elsewhere:
            who = holder(run_folder(options.records, run.key))
            console.print(f"{run.name}: left to the driver on {who}", highlight=False)
    return orchestrator.stop_reason


def _part(text: str) -> tuple[int, int]:
    from reproduce.spec import SpecError

    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise SpecError(f"--part: {text!r} is no part; give I/N with I from 1 to N, e.g. 1/4")
    return int(match[1]), int(match[2])


def _prepare_missing(experiment: Any, data_root: Path) -> None:
    from bench.commands.data import prepare_with_progress
    from reproduce.data import DataError, PrepareOptions, load_manifest
    from reproduce.data.sources import source_from
    from reproduce.grid import arm_data
    from reproduce.spec import SpecError

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
