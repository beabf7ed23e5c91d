"""`deeper doctor` and `deeper dashboard`: this machine."""

from __future__ import annotations

import argparse
import os
from typing import Any


def add_to(verbs: Any, places: argparse.ArgumentParser) -> None:
    doctor = verbs.add_parser("doctor", parents=[places], help="what this machine has, what is missing and the cure")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.add_argument(
        "--profile",
        default=os.environ.get("DEEPER_PROFILE"),
        help="on a SLURM cluster: hold this profile against it ($DEEPER_PROFILE)",
    )
    doctor.set_defaults(call=_doctor)

    dashboard = verbs.add_parser("dashboard", parents=[places], help="MLflow's pages over the records; Ctrl-C ends it")
    dashboard.add_argument("experiment", nargs="?", help="open at this experiment")
    dashboard.add_argument("--host", default="127.0.0.1")
    dashboard.add_argument("--port", type=int, default=5000)
    dashboard.set_defaults(call=_dashboard)


def _doctor(arguments: argparse.Namespace) -> int:
    from bench.commands.doctor import run_doctor
    from slurm.doctor import cluster_checks

    cluster = cluster_checks(arguments.profile, records=arguments.records, data=arguments.data)
    return run_doctor(records=arguments.records, data=arguments.data, as_json=arguments.json, cluster=cluster)


def _dashboard(arguments: argparse.Namespace) -> int:
    from bench.tracking.dashboard import run_dashboard

    return run_dashboard(arguments.records, host=arguments.host, port=arguments.port, experiment=arguments.experiment)
