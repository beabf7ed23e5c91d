"""Declares what this package adds to `deeper`: its subcommands, a section of `status` and checks of `doctor`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from bench.console.checks import Check
from bench.console.extension import Extension, StatusSection
from slurm import commands


def _status_section(records: Path, experiment: str) -> StatusSection:
    from slurm import status

    found = status.view(records, experiment)
    return StatusSection("jobs", status.as_json(found), status.render(found) if found.jobs else None)


def _add_doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile",
        default=os.environ.get("DEEPER_PROFILE"),
        help="On a SLURM cluster: check that it offers what this profile asks for. Default: $DEEPER_PROFILE.",
    )


def _checks(arguments: argparse.Namespace) -> list[Check]:
    from slurm.doctor import cluster_checks, slurm_check

    return [
        slurm_check(),
        *cluster_checks(arguments.profile, records=arguments.records, data=arguments.data),
    ]


EXTENSION = Extension(
    add_commands=commands.add_to,
    status_section=_status_section,
    add_doctor_options=_add_doctor_options,
    checks=_checks,
)
