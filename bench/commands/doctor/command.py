"""Adds `deeper doctor` to the command line, runs all its checks and prints their findings."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.console.checks import Check
from bench.console.exit_codes import DONE, FAILED
from bench.console.extension import Extension
from bench.console.options import Subparsers, add_command, add_json
from bench.console.output import plain_console, print_result, show

EXAMPLES = """examples:
  deeper doctor
  deeper doctor --records /project/me/records --data /scratch/me
  deeper doctor --profile gpu-nodes      # on the login node of a SLURM cluster

The exit code is 1 if a check fails.
"""

STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser, extensions: Sequence[Extension]) -> None:
    """Add `deeper doctor`, including the options of the extensions' checks, to the command line."""
    help = "Check this machine: what it has, what is missing, and what to do about it."
    call = functools.partial(_doctor, extensions)
    parser = add_command(subparsers, places, "doctor", call, help, examples=EXAMPLES)
    for extension in extensions:
        extension.add_doctor_options(parser)
    add_json(parser)


def machine_checks(records: Path, data: Path) -> list[Check]:
    """Run all checks of this machine, without those of extensions, and return their findings.

    Args:
        records: The folder of the records, which need not exist yet.
        data: The folder of the prepared data sets, which need not exist yet.
    """
    from bench.commands.doctor import hardware, software, storage

    return [
        *software.checks(),
        *hardware.checks(),
        *storage.checks(records, data),
    ]


def _doctor(extensions: Sequence[Extension], arguments: argparse.Namespace) -> int:
    from_extensions = [check for extension in extensions for check in extension.checks(arguments)]
    checks = [*machine_checks(arguments.records, arguments.data), *from_extensions]
    print_result(arguments, [asdict(check) for check in checks], lambda: show_checks(checks))
    return FAILED if any(check.status == "fail" for check in checks) else DONE


def show_checks(checks: Sequence[Check]) -> None:
    """Print findings as a table on standard output, each with its hint below it."""
    from rich.text import Text

    from bench.console.tables import Column, FittedTable

    columns = (Column(""), Column("check"), Column("found", prose=True))
    rows = [
        (
            Text(check.status, style=STYLES[check.status]),
            check.name,
            f"{check.detail}\nhint: {check.hint}" if check.hint else check.detail,
        )
        for check in checks
    ]
    show(plain_console(), FittedTable(columns, rows))
