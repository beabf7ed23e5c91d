"""`deeper bench`: ours and its peers in turn, on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_to(verbs: Any, places: argparse.ArgumentParser) -> None:
    bench = verbs.add_parser("bench", help="benchmarks beside their peers, interleaved in one run")
    suites = bench.add_subparsers(metavar="SUITE", required=True)
    _add_overhead(suites)
    _add_training(suites)


def _add_overhead(suites: Any) -> None:
    suite = suites.add_parser("overhead", help="images/s under the suite against the same step in a bare loop")
    _add_rounds(suite)
    suite.set_defaults(call=_overhead)


def _add_training(suites: Any) -> None:
    suite = suites.add_parser(
        "training", help="images/s against torchvision's googlenet fed by ImageFolder and DataLoader"
    )
    suite.add_argument("folder", type=Path, help="ImageNet-style folder of photographs (train/<class>/*)")
    suite.add_argument("--batch", type=int, default=32, help="images a step (32, that of Caffe's bvlc_googlenet)")
    _add_rounds(suite)
    suite.set_defaults(call=_training)


def _add_rounds(suite: argparse.ArgumentParser) -> None:
    suite.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    suite.add_argument("--json", type=Path, metavar="FILE", help="write the raw results here")


def _overhead(arguments: argparse.Namespace) -> int:
    from bench.suites.overhead import main

    return main(rounds=arguments.rounds, output=arguments.json)


def _training(arguments: argparse.Namespace) -> int:
    from bench.suites.training import main

    return main(arguments.folder, batch=arguments.batch, rounds=arguments.rounds, output=arguments.json)
