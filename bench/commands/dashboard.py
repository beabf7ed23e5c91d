"""Implements `deeper dashboard`, which serves MLflow's pages over the records."""

from __future__ import annotations

import argparse

from bench.commands.experiments.names import recorded_name
from bench.console.options import Subparsers, add_command, port, require_writable_records

EXAMPLES = """examples:
  deeper dashboard                          # opens accuracy by arm of the experiment that was planned last
  deeper dashboard ablation-imagenette      # of this experiment
  deeper dashboard --host 0.0.0.0 --port 8080 --without-password
"""


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser) -> None:
    """Add `deeper dashboard` to the command line."""
    help = "Serve MLflow's pages over the records until Ctrl-C."
    parser = add_command(subparsers, places, "dashboard", _dashboard, help, examples=EXAMPLES)
    parser.add_argument("experiment", nargs="?", help="Open the pages at this experiment.")
    parser.add_argument("--host", default="127.0.0.1", help="The address to listen at. Default: 127.0.0.1.")
    parser.add_argument(
        "--without-password",
        action="store_true",
        help="Allow a --host that others reach: everyone there can read, change and delete what MLflow holds.",
    )
    parser.add_argument("--no-browser", action="store_true", help="Print the link only. So it is without a display.")
    parser.add_argument("--port", type=port, default=5000, help="The port to listen at. Default: 5000.")


def _dashboard(arguments: argparse.Namespace) -> int:
    from bench.tracking.dashboard import run_dashboard
    from bench.tracking.location import tracking_uri

    experiment = arguments.experiment
    if experiment is not None and tracking_uri(arguments.records).startswith("sqlite:"):
        experiment = recorded_name(experiment, arguments.records)
    require_writable_records(arguments)
    return run_dashboard(
        arguments.records,
        host=arguments.host,
        port=arguments.port,
        experiment=experiment,
        without_password=arguments.without_password,
        browser=not arguments.no_browser,
    )
