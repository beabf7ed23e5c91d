"""Implements `deeper publish`, which publishes records to MLflow from a machine on which MLflow is installed."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from bench.console.exit_codes import DONE, FAILED
from bench.console.options import add_command, require_writable_records

EXAMPLES = """examples:
  deeper publish --once
  deeper publish ablation-imagenet --records /project/me/records --tracking-uri http://server:5000

Without --once it publishes what is new every two seconds until Ctrl-C. What is published is not published again.
"""


def add_to(subparsers: Any, places: argparse.ArgumentParser) -> None:
    """Add `deeper publish` to the command line."""
    help = "Publish records to MLflow, such as those of runs with --no-publish."
    publish = add_command(subparsers, places, "publish", _publish, help, examples=EXAMPLES)
    publish.add_argument("experiment", nargs="*", help="The name of an experiment in the records. Default: all.")
    publish.add_argument("--once", action="store_true", help="Publish what there is, then end.")
    publish.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow's store. Default: $MLFLOW_TRACKING_URI, else beside the records. A password belongs in the "
        "environment, since every user can read command lines.",
    )


def _publish(arguments: argparse.Namespace) -> int:
    from bench.records.plan import experiments
    from bench.tracking.background import unpublished_message
    from bench.tracking.location import log_file, tracking_uri
    from bench.tracking.mlflow_setup import require_mlflow
    from bench.tracking.publisher import PublisherOptions, run_publisher
    from bench.tracking.reader import pending
    from reproduce.errors import UserError
    from reproduce.text.redaction import redacted

    require_mlflow()
    require_writable_records(arguments)
    records = arguments.records.resolve()
    if not experiments(records):
        raise UserError(f"records: {records} holds no experiment; run one first: deeper run quickstart")
    uri = tracking_uri(records, arguments.tracking_uri)
    print(f"publishing {records} to {redacted(uri)}" + ("" if arguments.once else "; Ctrl-C ends it"), flush=True)
    names = tuple(arguments.experiment)
    code = run_publisher(PublisherOptions(records=records, uri=uri, experiments=names, once=arguments.once))
    if missing := pending(records, uri, names):
        print(unpublished_message(records, uri, missing), file=sys.stderr)
        return FAILED
    if code:
        print(f"the store rejected something; see {log_file(records, 'publisher')}", file=sys.stderr)
        return FAILED
    print("everything is published")
    return DONE
