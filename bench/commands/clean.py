"""Implements `deeper clean`, which shows what in the records could go, and removes it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.experiments.names import recorded_name
from bench.console.exit_codes import DONE
from bench.console.options import Subparsers, add_command, add_json, require_writable_records
from bench.console.output import plain_console, print_result, show
from bench.records.cleaning.kinds import BY_DEFAULT, KINDS

if TYPE_CHECKING:
    from bench.records.cleaning.leftovers import Leftover

EXAMPLES = f"""examples:
  deeper clean                                             # what could go, by experiment; nothing is removed
  deeper clean ablation-imagenette --yes
  deeper clean ablation-imagenette --kind evaluations --yes

kinds:
{chr(10).join(f"  {kind:<12} {what}" for kind, what in KINDS.items())}

Without --kind: {", ".join(BY_DEFAULT)}. Events, metrics, telemetry, predictions, plans, environments, the final weights
and reports stay. Runs that a driver has in hand are left alone. If the command is interrupted, repeat it.
"""


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser) -> None:
    """Add `deeper clean` to the command line."""
    help = "Show what in the records nothing needs any more, and remove it with --yes."
    parser = add_command(subparsers, places, "clean", _clean, help, examples=EXAMPLES)
    parser.add_argument("experiment", nargs="?", help="Look at this experiment alone. Default: all records.")
    parser.add_argument(
        "--kind", action="append", choices=tuple(KINDS), help="Take only files of this kind. May be repeated."
    )
    parser.add_argument("--yes", action="store_true", help="Remove the files.")
    add_json(parser)


def _clean(arguments: argparse.Namespace) -> int:
    records: Path = arguments.records
    name = recorded_name(arguments.experiment, records) if arguments.experiment else None
    if arguments.yes:
        require_writable_records(arguments)

    from bench.records.cleaning.leftovers import find_leftovers
    from bench.records.cleaning.removing import remove

    kinds = arguments.kind or BY_DEFAULT
    found = find_leftovers(records, name, kinds)
    leftovers, in_hand = found.leftovers, found.in_hand
    if arguments.yes:
        removed = remove(found, kinds)
        leftovers, in_hand = removed.leftovers, removed.in_hand
    rows = _by_experiment(leftovers)
    content = {
        "removed": arguments.yes,
        "leftovers": rows,
        "bytes": sum(row["bytes"] for row in rows),
        "files": sum(row["files"] for row in rows),
        "in_hand": [folder.name for folder in in_hand],
    }
    print_result(arguments, content, lambda: _show(content, records))
    return DONE


def _by_experiment(leftovers: Sequence[Leftover]) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for leftover in leftovers:
        row = rows.setdefault(
            (leftover.experiment, leftover.kind),
            {"experiment": leftover.experiment, "kind": leftover.kind, "files": 0, "shortened": 0, "bytes": 0},
        )
        row["files"] += len(leftover.paths)
        row["shortened"] += leftover.surplus
        row["bytes"] += leftover.bytes
    return [rows[place] for place in sorted(rows)]


def _show(content: dict[str, Any], records: Path) -> None:
    from bench.console.tables import Column, FittedTable

    console, removed = plain_console(), content["removed"]
    if content["leftovers"]:
        columns = (
            Column("experiment"),
            Column("kind"),
            Column("files", "right"),
            Column("shortened", "right"),
            Column("MiB", "right"),
        )
        rows = [
            (
                row["experiment"] or "-",
                row["kind"],
                str(row["files"]),
                str(row["shortened"]),
                f"{row['bytes'] / 2**20:.1f}",
            )
            for row in content["leftovers"]
        ]
        show(console, FittedTable(columns, rows))
    size = f"{content['files']} files and {content['bytes'] / 2**20:.1f} MiB"
    if not content["leftovers"]:
        show(console, f"{records}: nothing could go")
    elif removed:
        show(console, f"{size} were removed")
    else:
        show(console, f"{size} could go; nothing was removed. To remove them, add --yes")
    if content["in_hand"]:
        show(console, f"in hand, and left alone: {', '.join(content['in_hand'])}", style="yellow")
