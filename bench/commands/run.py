"""Implements `deeper run`, which runs an experiment on this machine or on a Ray cluster that is already running."""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.console.exit_codes import DONE, FAILED, INTERRUPTED
from bench.console.options import (
    Subparsers,
    add_choice,
    add_command,
    add_experiment,
    add_retry,
    cluster_address,
    file,
    not_negative_number,
    number,
    positive_number,
    require_writable_records,
    whole_number,
)
from bench.console.output import plain_console, show
from reproduce.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from bench.commands.experiments.interim import InterimReports
    from bench.orchestration.cluster import Cluster
    from bench.orchestration.display import GridWatch, ProgressLines, Row
    from bench.orchestration.executor import ExecutionOptions
    from bench.orchestration.interruption import Interruption
    from bench.orchestration.orchestrator import Orchestrator
    from bench.records.plan import PlanEntry
    from reproduce.spec import DataConfig, PlannedRun, ResourcesConfig

EXAMPLES = """examples:
  deeper run quickstart --prepare
  deeper run my-ablation.yaml --data /scratch/me --records /project/me/records
  deeper run ablation-imagenette --arm reduced-none --arm reduced-both --seed 0
  deeper run ablation-imagenet --address auto       # on a running Ray cluster

On Ctrl-C, every run writes a checkpoint and stops; the same command resumes. A second Ctrl-C ends the command at once.
The command may be started several times at once, on one host or on several: no run is done twice. One that ends while
others still train says so and ends with code 75.
"""

CLUSTER_GRACE_S = 20.0
"""Seconds that workers have for their checkpoints after the cluster was lost. Ray kills the driver after a minute."""


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser) -> None:
    """Add `deeper run` to the command line."""
    help = "Run an experiment; finished runs are not repeated."
    run = add_command(subparsers, places, "run", _run, help, examples=EXAMPLES)
    add_experiment(run)
    add_choice(run)
    add_retry(run)
    run.add_argument(
        "--allow-other-machine",
        action="store_true",
        help="Resume also runs that another kind of machine, other code or another decoder began.",
    )
    run.add_argument("--prepare", action="store_true", help="Prepare the data set first if it is not there.")
    run.add_argument(
        "--address",
        type=cluster_address,
        help="Use a running Ray cluster ('auto' or HOST:PORT) rather than one on this machine.",
    )
    run.add_argument(
        "--concurrent", type=whole_number(1), metavar="N", help="The most runs at once. Default: as many as fit."
    )
    run.add_argument(
        "--report",
        action="store_true",
        help="Make the report as well: a first one once a run has finished, the last one at the end.",
    )
    run.add_argument(
        "--telemetry-hz",
        type=number(0.001, 100),
        default=1.0,
        metavar="HZ",
        help="Samples of host and GPUs a second. Default: 1.",
    )
    batch = run.add_argument_group("options for batch jobs")
    batch.add_argument("--part", metavar="I/N", help="Start with this part of the runs, then help with the others.")
    batch.add_argument(
        "--stop-file",
        type=file,
        metavar="FILE",
        help="Stop as on Ctrl-C once this file exists; its first line is the reason.",
    )
    batch.add_argument(
        "--keep-newer-plan",
        action="store_true",
        help="Where the experiment was edited since it was submitted, leave the newer plan the present one.",
    )
    batch.add_argument("--no-publish", action="store_true", help="Only write records; MLflow gets them later.")
    batch.add_argument(
        "--heartbeat-s",
        type=number(0.01, 3600),
        default=1.0,
        metavar="SECONDS",
        help="The time between heartbeats in a run's folder. Default: 1.",
    )
    batch.add_argument(
        "--node-patience-s",
        type=not_negative_number,
        default=600,
        metavar="SECONDS",
        help="How long to wait for lost nodes that are needed. Default: 600.",
    )
    batch.add_argument(
        "--step-patience-s",
        type=positive_number,
        default=600,
        metavar="SECONDS",
        help="How long a run may make no step before its workers are killed and it is tried again; ten times its "
        "slowest step so far if that is longer, and three times as long before the first step. Default: 600.",
    )


def _run(arguments: argparse.Namespace) -> int:
    from reproduce.experiments import experiment_path

    experiment_path(arguments.experiment)  # before what is slow to import: a typing error is frequent

    from reproduce.spec import load_experiment

    experiment = load_experiment(arguments.experiment)

    from bench.planning.plan import check_cores, check_disk, make_plan, select, start_with_part
    from reproduce.grid import arm_data, plan_without_data

    chosen = select(plan_without_data(experiment), arguments.arm, arguments.seed)
    require_writable_records(arguments)
    part_asked = _parse_part(arguments.part) if arguments.part is not None else None

    from bench.commands.experiments.interim import InterimReports, report_command
    from bench.orchestration.cluster import check_address
    from bench.orchestration.display import read_rows, render_grid
    from bench.orchestration.executor import ExecutionOptions
    from bench.orchestration.interruption import Interruption
    from bench.records.plan import plan_hash, read_plan, was_replaced, write_experiment, write_plan
    from bench.records.record import Recording
    from bench.tracking.background import start_publisher, stop_publisher
    from bench.tracking.mlflow_setup import require_mlflow
    from reproduce.limits import usable_cpus
    from reproduce.native import DECODER

    check_address(arguments.address)
    if arguments.address is None:
        for resources in by_resources(chosen):
            check_cores(resources, usable_cpus())
    if not arguments.no_publish:
        require_mlflow()
    elif arguments.report:
        raise UserError("--report: is made from what is published; leave out --no-publish, or make it later")
    console = plain_console()
    if arguments.prepare:
        prepare_missing(arm_data(experiment), arguments.data)
    plan = make_plan(experiment, arguments.data, announce=lambda text: show(console, text))
    runs = select(plan.runs, arguments.arm, arguments.seed)
    records = arguments.records.absolute()
    check_disk(records, plan.disk_bytes)
    if not (arguments.keep_newer_plan and was_replaced(records, experiment.name, plan.runs)):
        write_experiment(records, experiment)
        write_plan(records, experiment.name, plan.runs, plan.costs)
    planned = read_plan(records, experiment.name, plan_hash(plan.runs))
    entries = [entry for entry in planned if entry.key in {run.key for run in runs}]

    options = ExecutionOptions(
        records=records,
        data=arguments.data.absolute(),
        address=arguments.address,
        concurrent=arguments.concurrent,
        recording=Recording(telemetry_hz=arguments.telemetry_hz, heartbeat_s=arguments.heartbeat_s),
        retry_failed=arguments.retry_failed,
        allow_other_machine=arguments.allow_other_machine,
        node_patience_s=arguments.node_patience_s,
        step_patience_s=arguments.step_patience_s,
    )
    settled = {row.planned.key for row in read_rows(entries, records) if row.state.status in options.settled}
    left = [run for run in (start_with_part(runs, *part_asked) if part_asked else runs) if run.key not in settled]
    if left and arguments.address is None:  # elsewhere, the nodes of the cluster decode
        DECODER.implementation()  # raises an error that says what is missing
    verify_data(left, arguments.data, console)
    stopped = None
    making = report_command(arguments.experiment, records)
    reports = InterimReports(making, records / "logs" / "report.log") if arguments.report else None
    with Interruption(arguments.stop_file) as interruption:
        publisher = None if arguments.no_publish else start_publisher(records)
        try:
            if left:
                stopped = run_grid(left, entries, options, interruption, console, reports)
        finally:
            if reports is not None:
                reports.close()
            not_published = publisher and stop_publisher(publisher, hurry=lambda: interruption.signalled)
            if not_published:
                show(console, not_published, style="yellow")
    rows = read_rows(entries, records)
    show(console, *render_grid(rows, 1))
    if stopped is not None and any(row.state.status not in options.settled for row in rows):
        show(console, f"stopped ({stopped}); to resume: {arguments.command_line}")
        return INTERRUPTED
    if unfinished := [row for row in rows if row.state.status in ("running", "waiting")]:
        count = f"{len(unfinished)} run{'s are' if len(unfinished) > 1 else ' is'}"
        show(console, f"{count} left to other drivers; once they have ended: {arguments.command_line}")
        if not arguments.part and not arguments.stop_file:  # the jobs of a batch end as soon as others do the rest
            return INTERRUPTED
    elif arguments.report:
        show(console, f"next: deeper dashboard{_places_given(arguments)}; the report:")
        if (code := subprocess.run(making, check=False).returncode) != DONE:
            return code
    else:
        places = _places_given(arguments)
        show(console, f"next: deeper report {experiment.name}{places}, deeper dashboard{places}")
    return FAILED if any(row.state.status in ("failed", "interrupted") for row in rows) else DONE


def by_resources(runs: Sequence[PlannedRun]) -> dict[ResourcesConfig, list[PlannedRun]]:
    """Group runs by their resources, in the order in which these first occur."""
    groups: dict[ResourcesConfig, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(run.resources, []).append(run)
    return groups


def run_grid(
    left: Sequence[PlannedRun],
    entries: Sequence[PlanEntry],
    options: ExecutionOptions,
    interruption: Interruption,
    console: Console,
    reports: InterimReports | None = None,
) -> str | None:
    """Train runs with a display of the grid's progress. Runs with other resources follow those that came first.

    Args:
        left: The runs to train.
        entries: All runs of the grid, in the order in which they are shown.
        options: Where and how they are trained.
        interruption: Says when to stop.
        console: Shows the progress.
        reports: Makes reports meanwhile.

    Returns:
        Why the runs were stopped; None if they were not.

    Raises:
        SpecError: The cluster has no room for one of the runs. None is trained then.
    """
    from bench.orchestration.cluster import capacity, cluster
    from bench.orchestration.display import GridWatch, ProgressLines
    from bench.orchestration.orchestrator import Orchestrator
    from bench.records.leases import holder
    from bench.records.states import run_folder

    show(console, f"{len(entries)} runs, {len(left)} to do; starting Ray ...")
    groups = by_resources(left)
    with cluster(options.address, options.records / "logs" / "ray.log") as ray_cluster:
        for resources in groups:
            capacity(resources)
        watch = GridWatch(entries, options.records, interval_s=options.recording.heartbeat_s)
        lines = ProgressLines(console)
        for resources, runs in groups.items():
            with Orchestrator(runs, resources, options) as orchestrator:
                _follow(orchestrator, ray_cluster, interruption, watch, lines, console, reports)
            if orchestrator.cannot_continue is not None:  # the launcher of a SLURM job reads it, and requeues nothing
                print(f"deeper: {orchestrator.cannot_continue}", file=sys.stderr)
            if orchestrator.stop_reason is not None:
                return orchestrator.stop_reason
            for run in orchestrator.held_elsewhere:
                show(console, f"{run.name}: left to the driver on {holder(run_folder(options.records, run.key))}")
    return None


def _follow(
    orchestrator: Orchestrator,
    ray_cluster: Cluster,
    interruption: Interruption,
    watch: GridWatch,
    lines: ProgressLines,
    console: Console,
    reports: InterimReports | None,
) -> None:
    """Show the progress of an orchestrator's runs until they have ended, and stop them on an interruption or a loss."""
    from rich.console import Group
    from rich.live import Live

    from bench.orchestration.display import render_grid

    def follow(update: Callable[[Sequence[Row]], None]) -> None:
        give_up_at = math.inf
        while orchestrator.busy and time.monotonic() < give_up_at:
            lost = ray_cluster.lost() if give_up_at == math.inf else None
            if lost:
                give_up_at = time.monotonic() + CLUSTER_GRACE_S
            if orchestrator.stop_reason is None and (reason := lost or interruption.reason):
                orchestrator.stop(reason)
                show(console, f"stopping ({reason}): every run {'that can ' if lost else ''}writes a checkpoint first")
            rows = watch.rows()
            update(rows)
            if reports is not None:
                made = reports.update(sum(row.state.status == "finished" for row in rows))
                if made is not None:
                    show(console, made)
            interruption.wait(1)

    if console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            height = max(4, console.height - 6)
            follow(lambda rows: live.update(Group(*render_grid(rows, orchestrator.concurrency, height)), refresh=True))
    else:
        follow(lambda rows: lines.update(rows, orchestrator.concurrency))
        lines.update(watch.rows(now=True), orchestrator.concurrency)


def _places_given(arguments: argparse.Namespace) -> str:
    """The option that names the folder of the records in the commands that follow, unless it is the default."""
    default = Path(os.environ.get("DEEPER_RECORDS") or "records")
    return "" if arguments.records == default else f" --records {shlex.quote(str(arguments.records))}"


def _parse_part(text: str) -> tuple[int, int]:
    from reproduce.spec import SpecError

    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise SpecError(f"--part: {text!r} is not a part; use I/N with I from 1 to N, e.g. 1/4")
    return int(match[1]), int(match[2])


def verify_data(runs: Sequence[PlannedRun], data_root: Path, console: Console) -> None:
    """Compare the data sets of these runs with their manifests, before any run is started. Raises `DataError`."""
    from reproduce.data import verify_changed

    def announce(file: Path) -> None:
        show(console, f"{file}: new or changed; comparing {file.stat().st_size / 2**30:.2f} GiB with the manifest ...")

    for path in dict.fromkeys(run.config.data.path for run in runs):
        verify_changed(data_root / path, announce)


def prepare_missing(wanted: Iterable[DataConfig], data_root: Path) -> None:
    """Prepare those data sets that are not prepared yet."""
    from bench.commands.data import prepare_with_progress
    from reproduce.data import DataError, PrepareOptions, load_manifest
    from reproduce.data.sources import source_from
    from reproduce.spec import SpecError, prepare_command

    for data in wanted:
        folder = data_root / data.path
        try:
            load_manifest(folder)
        except DataError:
            if data.source is None:
                raise SpecError(
                    f"data.source: {data.path} is not prepared and the experiment names no source; "
                    f"type: {prepare_command('SOURCE', str(folder), data.preparing)}"
                ) from None
            prepare_with_progress(source_from(data.source), folder, PrepareOptions(**data.preparing))
