"""Implements `deeper verify`, which repeats a committed result on this machine and says what is reproduced."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console.exit_codes import DONE, FAILED, INTERRUPTED
from bench.console.options import (
    Subparsers,
    add_choice,
    add_command,
    add_json,
    any_path,
    name,
    require_writable_records,
    whole_number,
)
from bench.console.output import plain_console, print_result, show
from reproduce.errors import UserError

if TYPE_CHECKING:
    from analysis.comparisons.reproduction import Comparison
    from bench.commands.verify.reference import Recorded, Reference
    from bench.commands.verify.static import StaticRow
    from bench.orchestration.executor import ExecutionOptions

EXAMPLES = """examples:
  deeper verify results/ablation-imagenette --arm reduced-both --seed 0 --prepare
  deeper verify results/claims --experiment claim-heads --seed 0
  deeper verify results/claims --static            # the ledger's rows that the network alone decides

exit codes: 0 everything is reproduced; 1 something is not, or cannot be decided; 75 interrupted, and the same command
resumes. What is trained is kept under RECORDS/verification, apart from other records, and is not trained again.
"""
FOLDER = "verification"
"""The folder within the records that holds the repeated runs, a folder of records for each experiment."""


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser) -> None:
    """Add `deeper verify` to the command line."""
    help = "Repeat a recorded result on this machine, and say per metric whether it is reproduced."
    parser = add_command(subparsers, places, "verify", _verify, help, examples=EXAMPLES)
    parser.add_argument(
        "results", type=any_path, help="A folder of results or of records, such as results/ablation-imagenette."
    )
    parser.add_argument("--experiment", type=name, help="The experiment, where the folder holds several.")
    add_choice(parser)
    parser.add_argument("--static", action="store_true", help="Repeat the static rows of the ledger in place of runs.")
    parser.add_argument("--prepare", action="store_true", help="Prepare the data set first if it is not there.")
    parser.add_argument(
        "--concurrent", type=whole_number(1), metavar="N", help="The most runs at once. Default: as many as fit."
    )
    add_json(parser)


def _verify(arguments: argparse.Namespace) -> int:
    if not arguments.static:
        return _verify_runs(arguments)
    for option in ("experiment", "arm", "seed", "prepare"):
        if getattr(arguments, option):
            raise UserError(f"--{option}: chooses among runs, and --static repeats none; leave one of the two out")
    return _verify_static(arguments)


# --- runs ----------------------------------------------------------------------------------------------


def _verify_runs(arguments: argparse.Namespace) -> int:
    from bench.commands.verify.reference import read_reference

    reference = read_reference(arguments.results, arguments.experiment)
    chosen = reference.chosen(arguments.arm, arguments.seed)

    from analysis.comparisons.reproduction import REPRODUCED, compare_run
    from bench.commands.run import prepare_missing
    from bench.machine.environment import environment
    from bench.orchestration.executor import ExecutionOptions
    from bench.records.states import read_state, run_folder
    from reproduce import schema

    require_writable_records(arguments)
    if arguments.prepare:
        prepare_missing(
            {run.planned.config.data.path: run.planned.config.data for run in chosen}.values(), arguments.data
        )
    _check_data(chosen, arguments.data)
    place = arguments.records.absolute() / FOLDER / reference.experiment
    options = ExecutionOptions(
        records=place, data=arguments.data.absolute(), concurrent=arguments.concurrent, retry_failed=True
    )
    stopped = _train(reference, chosen, options, arguments)
    states = {run.entry.key: read_state(run_folder(place, run.entry.key)) for run in chosen}
    unfinished = [run for run in chosen if states[run.entry.key].status != schema.FINISHED]
    console = plain_console(stderr=arguments.json)
    if stopped is not None and unfinished:
        show(console, f"stopped ({stopped}); to resume: {arguments.command_line}")
        return INTERRUPTED
    compared = {
        run.entry.name: compare_run(
            states[run.entry.key].metrics, run.metrics, [other.metrics for other in reference.of_arm(run.entry.arm)]
        )
        for run in chosen
        if run not in unfinished
    }
    reproduced = not unfinished and all(one.verdict in REPRODUCED for rows in compared.values() for one in rows)
    content = {
        "results": str(arguments.results),
        "experiment": reference.experiment,
        "environment": environment(),
        "reproduced": reproduced,
        "runs": [
            {
                "run": run.entry.name,
                "key": run.entry.key,
                "state": states[run.entry.key].status,
                "recorded_by": _machine(run.folder),
                "repeated_by": _machine(run_folder(place, run.entry.key)),
                "predictions": _predictions(run.folder, run_folder(place, run.entry.key)),
                "metrics": [asdict(one) for one in compared.get(run.entry.name, ())],
            }
            for run in chosen
        ],
    }
    print_result(arguments, content, lambda: _show_runs(content, compared))
    return DONE if reproduced else FAILED


def _check_data(chosen: Sequence[Recorded], data_root: Path) -> None:
    """Raise `UserError` unless the prepared data are those of the recorded runs."""
    from reproduce.data import load_manifest

    for data, wanted in {(run.planned.config.data, run.planned.config.data_hash): None for run in chosen}:
        folder = data_root / data.path
        found = load_manifest(folder)
        if found.hash != wanted:
            raise UserError(
                f"--data: {folder} has the hash {found.hash[:12]}, and the recorded runs have {wanted[:12]}; the same "
                "images, prepared with the same options, have the same hash"
            )


def _train(
    reference: Reference, chosen: Sequence[Recorded], options: ExecutionOptions, arguments: argparse.Namespace
) -> str | None:
    """Train the runs that are not finished yet. Return the reason if they were stopped, otherwise None."""
    from bench.commands.run import run_grid, verify_data
    from bench.orchestration.interruption import Interruption
    from bench.records.plan import write_plan
    from bench.records.states import read_state, run_folder
    from reproduce import schema
    from reproduce.native import DECODER

    write_plan(
        options.records,
        reference.experiment,
        [run.planned for run in reference.runs],
        {run.entry.key: run.entry.costs for run in reference.runs},
    )
    left = [run for run in chosen if read_state(run_folder(options.records, run.entry.key)).status != schema.FINISHED]
    if not left:
        return None
    DECODER.implementation()  # raises an error that says what is missing
    console = plain_console(stderr=arguments.json)
    verify_data([run.planned for run in left], arguments.data, console)
    planned = [run.planned.model_copy(update={"resources": run.resources}) for run in left]
    with Interruption(None) as interruption:
        return run_grid(planned, [run.entry for run in left], options, interruption, console)


def _machine(folder: Path) -> str:
    """Return one line on the machine, the precision and the code of the last attempt of a run."""
    from bench.records.states import read_events
    from reproduce import schema

    starts = [event for event in read_events(folder) if event["kind"] == schema.START]
    if not starts:
        return "not started"
    environment, resources = starts[-1].get("environment") or {}, starts[-1].get("resources") or {}
    machine = environment.get("gpus") or [environment.get("machine", {}).get("cpu", "an unknown machine")]
    first = machine[0].get("name", "a GPU") if isinstance(machine[0], dict) else machine[0]
    torch = environment.get("packages", {}).get("torch", "unknown")
    commit = str(environment.get("commit") or "unknown")[:7]
    changed = " with changes" if environment.get("dirty") else ""
    precision = f", {resources['precision']}" if "precision" in resources else ""
    return f"{first}{precision}, torch {torch}, commit {commit}{changed}"


def _predictions(recorded: Path, repeated: Path) -> dict[str, int] | None:
    """Count the validation images of which both runs predict the same class; None if a run kept no predictions."""
    import pandas as pd

    from bench.records.reading import read_frame
    from reproduce import schema

    files = [folder / schema.ARTIFACT_PREDICTIONS for folder in (recorded, repeated)]
    if not all(file.is_file() for file in files):
        return None
    first, second = (read_frame(file, ["index", "top5"]).set_index("index")["top5"] for file in files)
    both = pd.concat([first.str[0], second.str[0]], axis=1, join="inner").to_numpy()
    return {"images": len(both), "same": int((both[:, 0] == both[:, 1]).sum())}


def _show_runs(content: Mapping[str, Any], compared: Mapping[str, Sequence[Comparison]]) -> None:
    console = plain_console()
    for run in content["runs"]:
        show(console, f"{run['run']}: recorded by {run['recorded_by']}; repeated by {run['repeated_by']}")
        if run["run"] not in compared:
            show(console, f"{run['run']}: {run['state']}, so nothing is compared", style="red")
            continue
        _show_comparisons(compared[run["run"]])
        if counts := run["predictions"]:
            show(console, f"the same prediction for {counts['same']} of {counts['images']} validation images")
    judged = sum(map(len, compared.values()))
    verdict = "reproduced" if content["reproduced"] else "not everything is reproduced"
    show(
        console,
        f"{content['experiment']}: {verdict}. The interval is the 95 % prediction interval of the n recorded runs of "
        f"the arm; of {judged} numbers, about {0.05 * judged:.2g} would lie outside it by chance.",
    )


def _show_comparisons(comparisons: Sequence[Comparison]) -> None:
    from analysis.comparisons.reproduction import WITHIN
    from analysis.tables import interval, number
    from bench.console.tables import Column, FittedTable

    columns = (
        Column("metric"),
        Column("here", "right"),
        Column("recorded", "right", priority=2),
        Column("interval", "right"),
        Column("n", "right", priority=1),
        Column("verdict", prose=True),
    )
    rows = [
        (
            one.metric,
            number(one.measured, 4),
            number(one.recorded, 4),
            interval(one.low, one.high, number, 4),
            str(one.n),
            "within the interval" if one.verdict == WITHIN else ": ".join(filter(None, (one.verdict, one.reason))),
        )
        for one in comparisons
    ]
    show(plain_console(), FittedTable(columns, rows))


# --- static rows ---------------------------------------------------------------------------------------


def _verify_static(arguments: argparse.Namespace) -> int:
    from bench.commands.verify.static import NOT_REPRODUCED, verify_static
    from bench.machine.environment import environment

    console = plain_console(stderr=True)
    with console.status("") as status:
        rows = verify_static(arguments.results, lambda claim: status.update(claim))
    failed = [row for row in rows if row.verdict == NOT_REPRODUCED]
    content = {
        "results": str(arguments.results),
        "environment": environment(),
        "reproduced": not failed,
        "static": [asdict(row) for row in rows],
    }
    print_result(arguments, content, lambda: _show_static(rows))
    return FAILED if failed else DONE


def _show_static(rows: Sequence[StaticRow]) -> None:
    from bench.commands.verify.static import EQUAL
    from bench.console.tables import Column, FittedTable

    console = plain_console()
    columns = (*map(Column, ("claim", "part", "here", "recorded")), Column("verdict", prose=True))
    cells = [
        (row.claim, row.part, str(row.measured), str(row.recorded), row.verdict) for row in rows if row.verdict != EQUAL
    ]
    if cells:
        show(console, FittedTable(columns, cells))
    claims = {row.claim for row in rows}
    found = ", ".join(f"{count} {verdict}" for verdict, count in Counter(row.verdict for row in rows).most_common())
    show(console, f"{len(claims)} static claims with {len(rows)} values: {found}")
