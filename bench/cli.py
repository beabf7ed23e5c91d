"""The `deeper` command: parsing, exit codes, and one clear error for a user's mistake.

Exit codes: 0 done; 1 some runs failed or a check did; 2 the input is wrong, nothing was started; 75 interrupted, type
the same again to go on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.console.exit_codes import DONE, INTERRUPTED, WRONG_INPUT
from reproduce.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends a command as Ctrl-C does
    try:
        return _call(arguments)
    except UserError as error:
        if os.environ.get("DEEPER_TRACEBACK"):
            raise
        for line in str(error).splitlines():
            print(f"deeper: {line}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("deeper: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE


def _call(arguments: Sequence[str] | None) -> int:
    from reproduce.native import LIBRARIES

    parsed = _parser().parse_args(arguments)
    for library in LIBRARIES:
        library.requested()
    return int(parsed.call(parsed))


def _parser() -> argparse.ArgumentParser:
    # Here and not above: some of these take seconds to import, in which a command can be interrupted as well.
    from bench.commands import benchmarks, claims, data, evaluate, experiment, machine, run, study
    from slurm import commands as slurm

    parser = argparse.ArgumentParser(
        prog="deeper",
        description="Benchmark and reproduce GoogLeNet: ablations as data, DDP runs on Ray, MLflow records, reports.",
        epilog="Start with: deeper doctor, deeper run quickstart --prepare, deeper report quickstart. "
        "DEEPER_TRACEBACK=1 shows where an error came from.",
    )
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument(
        "--records",
        type=Path,
        default=Path(os.environ.get("DEEPER_RECORDS", "records")),
        help="folder of the records and the tracking store ($DEEPER_RECORDS, ./records)",
    )
    places.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("DEEPER_DATA", "data")),
        help="folder of the prepared data sets ($DEEPER_DATA, ./data)",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for theme in (machine, data, study, run, experiment, evaluate, claims, benchmarks, slurm):
        theme.add_to(verbs, places)
    return parser


if __name__ == "__main__":
    sys.exit(main())
