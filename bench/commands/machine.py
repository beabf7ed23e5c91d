"""`deeper doctor`, `deeper dashboard` and `deeper bench`: this machine."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
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
    _add_bench(verbs, places)


def _add_bench(verbs: Any, places: argparse.ArgumentParser) -> None:
    bench = verbs.add_parser("bench", help="benchmarks beside their peers, interleaved in one run")
    suites = bench.add_subparsers(metavar="SUITE", required=True)
    overhead = suites.add_parser("overhead", help="images/s under the suite against the same step in a bare loop")
    training = suites.add_parser(
        "training", help="images/s against torchvision's googlenet fed by ImageFolder and DataLoader"
    )
    training.add_argument("folder", type=Path, help="ImageNet-style folder of photographs (train/<class>/*)")
    training.add_argument("--batch", type=int, default=32, help="images a step (32, that of Caffe's bvlc_googlenet)")
    for parser in (overhead, training):
        parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw results here")
    overhead.set_defaults(call=_overhead)
    training.set_defaults(call=_training)


def _doctor(arguments: argparse.Namespace) -> int:
    from bench.doctor import run_doctor
    from slurm.doctor import cluster_checks

    cluster = cluster_checks(arguments.profile, records=arguments.records, data=arguments.data)
    return run_doctor(records=arguments.records, data=arguments.data, as_json=arguments.json, cluster=cluster)


def _dashboard(arguments: argparse.Namespace) -> int:
    from bench.tracking import dashboard

    return dashboard(arguments.records, host=arguments.host, port=arguments.port, experiment=arguments.experiment)


def _overhead(arguments: argparse.Namespace) -> int:
    from bench.suites.overhead import main

    return main(rounds=arguments.rounds, output=arguments.json)


def _training(arguments: argparse.Namespace) -> int:
    from bench.suites.training import main

    return main(arguments.folder, batch=arguments.batch, rounds=arguments.rounds, output=arguments.json)
