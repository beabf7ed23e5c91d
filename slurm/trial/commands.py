"""The command `deeper slurm check`."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from bench.console.options import add_command, add_json, positive_number

if TYPE_CHECKING:
    from pathlib import Path

    from reproduce.spec import PlannedRun, RunConfig
    from slurm.trial.verdicts import Verdict

EXAMPLES = """examples:
  deeper slurm check --profile gpu-nodes
  deeper slurm check ablation-imagenet --profile gpu-nodes    # loads images of its data set as well
"""
CHECKS = "checks"
"""Folder of the trials within that of the records."""
RUN = "run.json"
"""File in a trial's folder: the run that its nodes train, where an experiment is named."""
POLL_S = 2.0


def add_to(actions: Any, places: argparse.ArgumentParser) -> None:
    """Add the command to the subparsers of `deeper slurm`.

    Args:
        actions: The subparsers of `deeper slurm`.
        places: Parent parser with --records and --data.
    """
    help = "Measure the nodes of a profile for some minutes: network, disks, locks, clocks, loading, training."
    parser = add_command(actions, places, "check", _check, help, examples=EXAMPLES)
    parser.add_argument("experiment", nargs="?", help="Name or file of an experiment, to load images of its data set.")
    parser.add_argument(
        "--profile",
        default=os.environ.get("DEEPER_PROFILE"),
        help="What to ask the cluster for: a name (deeper slurm profiles) or a file. Default: $DEEPER_PROFILE.",
    )
    parser.add_argument(
        "--seconds", type=positive_number, default=10.0, help="How long a measurement takes. Default: 10."
    )
    add_json(parser)


def _check(arguments: argparse.Namespace) -> int:
    import json
    import sys
    from dataclasses import asdict

    from bench.console.exit_codes import DONE, FAILED
    from bench.console.options import require_writable_records
    from bench.console.output import print_result
    from bench.planning.plan import make_plan
    from reproduce.errors import UserError
    from reproduce.spec import load_experiment
    from slurm.checks import check_readable, check_submission
    from slurm.profile import chosen_profile
    from slurm.rendering import Job, render_check
    from slurm.submission import create_stamped_folder, submit_script
    from slurm.trial.measures import versions
    from slurm.trial.verdicts import RESULTS, SCALING, judge

    profile = chosen_profile(arguments.profile)
    require_writable_records(arguments)
    records, planned = arguments.records.absolute(), None
    if arguments.experiment:
        experiment = load_experiment(arguments.experiment)
        planned = make_plan(experiment, arguments.data, announce=lambda text: print(text, file=sys.stderr)).runs[0]
        check_readable(experiment, arguments.data)
    check_submission(profile, {}, records=records, data=arguments.data.absolute())
    folder = create_stamped_folder(records / CHECKS)
    job = Job("deeper-check", folder, records=records, data=arguments.data.absolute())
    data = run = None
    if planned:
        data, run = job.data / planned.config.data.path, folder / RUN
        run.write_text(_of_one_worker(planned).model_dump_json(), encoding="utf-8")
    script = folder / "check.sh"
    script.write_text(render_check(job, profile, data, run, arguments.seconds), encoding="utf-8")
    number = submit_script(script)
    log = folder / f"check-{number}.log"
    print(f"job {number} measures {profile.nodes} node{'s' * (profile.nodes > 1)}; its log: {log}", file=sys.stderr)
    _wait(number, folder / RESULTS)
    if not (folder / RESULTS).exists():
        raise UserError(f"the job {number} has ended without a result; see {log}")
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    verdicts = judge(results, versions())
    content = [{**asdict(verdict), "verdict": verdict.word} for verdict in verdicts]
    print_result(arguments, content, lambda: _show(verdicts, planned))
    if (folder / SCALING).exists():
        print(keep_result(folder / SCALING), file=sys.stderr)
    return FAILED if any(verdict.word == "unfit" for verdict in verdicts) else DONE


def _of_one_worker(planned: PlannedRun) -> RunConfig:
    """Return a run with the batch of one of its workers, which is what each node trains."""
    recipe = planned.config.recipe
    batch = recipe.batch_size // planned.resources.workers
    return planned.config.model_copy(update={"recipe": recipe.model_copy(update={"batch_size": batch})})


def keep_result(file: Path) -> str:
    """Copy a result to the user's cache, where `deeper plan` finds it by the kind of the nodes.

    A cache that cannot be written changes no verdict.

    Args:
        file: The result of training over the nodes.

    Returns:
        A sentence that names the copy or, if there is none, the reason and what to do.
    """
    import json

    from bench.results.store import latest_results, machine_kind, write_result
    from reproduce.errors import UserError

    result = json.loads(file.read_text(encoding="utf-8"))
    on_gpus = any(link["backend"] == "nccl" for link in result["setting"]["links"])
    try:
        path = latest_results() / machine_kind(result["environment"], gpu=on_gpus) / file.name
        write_result(path, result)
    except (OSError, UserError) as error:
        return f"not kept for `deeper plan`: {error}; give it the result by --rate {file}"
    return f"kept for `deeper plan --device ...`: {path}"


def _wait(number: str, result: Path) -> None:
    """Wait until a job has written its result or has ended, and say what it waits for itself."""
    import os
    import sys
    import time

    from slurm import queries
    from slurm.status import ENDED

    said = ""
    while not result.exists():
        [job] = queries.jobs([number])
        state = job.state + (f" ({job.reason})" if job.reason else "")
        if state != said:
            print(f"job {number}: {state}", file=sys.stderr)
            said = state
        if job.state in ENDED:
            time.sleep(POLL_S)  # a network file system may show the result late
            os.listdir(result.parent)
            return
        time.sleep(POLL_S)


def _show(verdicts: list[Verdict], planned: PlannedRun | None) -> None:
    from rich.text import Text

    from bench.console.output import plain_console, show
    from bench.console.tables import Cell, Column, FittedTable

    def rate(verdict: Verdict, name: str) -> str:
        return f"{verdict.found[name]:.0f}" if name in verdict.found else "-"

    styles = {"ok": "green", "slow": "yellow", "unfit": "red"}
    columns = [
        Column("node"),
        Column("verdict"),
        Column("clock s", "right", priority=2),
        Column("link MiB/s", "right", priority=1),
        Column("records MiB/s", "right", priority=3),
        Column("scratch MiB/s", "right", priority=4),
        Column("images/s", "right", priority=1),
        Column("TFLOP/s", "right", priority=2),
    ]
    rows: list[list[Cell]] = [
        [
            verdict.host,
            Text(verdict.word, style=styles[verdict.word]),
            f"{verdict.found['clock_s']:+.3f}" if "clock_s" in verdict.found else "-",
            *(
                rate(verdict, name)
                for name in ("link_mib_s", "records_mib_s", "scratch_mib_s", "images_s", "gpu_tflop_s")
            ),
        ]
        for verdict in verdicts
    ]
    sentences = [f"{verdict.host}: {said}" for verdict in verdicts for said in (*verdict.problems, *verdict.remarks)]
    reduced = [verdict.found["all_reduce_mib_s"] for verdict in verdicts if "all_reduce_mib_s" in verdict.found]
    if reduced:
        sentences.append(f"all-reduce of 7 million float32 over {len(reduced)} nodes: {min(reduced):.0f} MiB/s")
    trained = next((verdict.found for verdict in verdicts if "training_images_s" in verdict.found), None)
    if trained:
        what = f"{planned.arm} of {planned.experiment}" if planned else "GoogLeNet at 224 px"
        measured, predicted = trained["training_images_s"], trained["predicted_images_s"]
        sentences.append(
            f"training of {what}, one worker on each node: {measured:.1f} images/s, predicted {predicted:.1f} "
            f"({predicted / measured - 1:+.1%})"
        )
    show(plain_console(), FittedTable(columns, rows), *sentences)
