"""Implements `deeper status`, which shows the state of each run of an experiment and the causes of failures."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence

from bench.commands.experiments.names import recorded_name
from bench.console.exit_codes import DONE
from bench.console.extension import Extension
from bench.console.options import Subparsers, add_command, add_experiment, add_json, add_plan
from bench.console.output import plain_console, print_result, show

EXAMPLES = """examples:
  deeper status ablation-imagenette
  deeper status ablation-imagenette --json
  watch deeper status ablation-imagenette --records /project/me/records
"""


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser, extensions: Sequence[Extension]) -> None:
    """Add `deeper status`, including the sections of the extensions, to the command line."""
    help = "Show which runs wait, run, have finished or failed, and why."
    call = functools.partial(_status, extensions)
    parser = add_command(subparsers, places, "status", call, help, examples=EXAMPLES)
    add_experiment(parser)
    add_plan(parser)
    add_json(parser)


def _status(extensions: Sequence[Extension], arguments: argparse.Namespace) -> int:
    from bench.orchestration.display import read_rows, render_grid, rows_as_json
    from bench.records.finished_runs import other_runs
    from bench.records.plan import describe, plan_hash, read_plan, read_plans
    from bench.tracking.background import store_without_room

    name = recorded_name(arguments.experiment, arguments.records)
    entries = read_plan(arguments.records, name, arguments.plan)
    plan = plan_hash(entries)
    others = other_runs(arguments.records, name, entries)
    rows = read_rows(entries, arguments.records)
    sections = [extension.status_section(arguments.records, name) for extension in extensions]

    unpublished = store_without_room(arguments.records.resolve())

    def show_text() -> None:
        running = sum(row.state.status == "running" for row in rows)
        console = plain_console()
        show(console, *render_grid(rows, max(1, running)))
        if others:
            known = [other for other in read_plans(arguments.records, name) if other.hash != plan]
            listed = ", ".join(f"{other.hash} ({describe(other)})" for other in known)
            show(console, f"{len(others)} other recorded runs are not in plan {plan}; --plan HASH shows: {listed}")
        show(console, *(section.view for section in sections if section.view is not None))
        if unpublished:
            show(console, unpublished, style="yellow")

    content = {
        "plan": plan,
        "runs": rows_as_json(rows),
        "others": others,
        **{section.name: section.content for section in sections},
    }
    print_result(arguments, content, show_text)
    return DONE
