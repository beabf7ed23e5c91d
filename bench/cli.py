"""Runs the `deeper` command: collects its subcommands, parses the command line, and turns errors into exit codes.

Exit codes:
    0: The command has done its work.
    1: At least one run or check failed.
    2: The input is wrong, or the machine lacks what the command needs.
    70: The command met a bug. A log file holds the traceback.
    75: The command was interrupted. The same command resumes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.commands import archive, claims, clean, dashboard, data, merge, publish, run
from bench.commands.benchmarks import command as benchmarks
from bench.commands.doctor import command as doctor
from bench.commands.evaluate import command as evaluate
from bench.commands.experiments import authoring, listing, plan, report, status
from bench.commands.trained import export, predict
from bench.commands.verify import command as verify
from bench.console.bugs import TRACEBACK_VARIABLE, describe_bug, log_bug, traceback_wanted
from bench.console.exit_codes import BUG, DONE, INTERRUPTED, WRONG_INPUT
from bench.console.options import folder
from bench.console.output import printable
from bench.console.parser import Parser
from reproduce.errors import UserError
from reproduce.files.disk import FULL, REFUSED, describe_full_disk
from reproduce.files.private_folders import provide_home
from reproduce.text.redaction import redacted
from slurm.extension import EXTENSION as SLURM

EXTENSIONS = (SLURM,)
"""The extensions of the command line by packages outside `bench`."""

EXAMPLES = f"""examples:
  deeper doctor                      # is everything here?
  deeper experiments                 # what can be run?
  deeper run quickstart --prepare    # minutes on two cores
  deeper report quickstart

exit codes: 0 done; 1 some runs failed, or a check did; 2 the input is wrong, and nothing was started;
70 a bug, with its traceback in a log file; 75 interrupted, and the same command resumes.

{TRACEBACK_VARIABLE}=1 shows on the screen where an error comes from.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and turn its errors into messages on standard error and exit codes.

    Unless SIGTERM has a handler already, the function sets one for this process, so that SIGTERM ends a command as
    Ctrl-C does. Call it in the main thread.

    Args:
        arguments: The words of the command line without the name of the program. None means those of this process.

    Returns:
        The exit code, as the description of this module lists it. It is 0 if the reader of a pipe closes the pipe,
        and 2 if the disk of standard output is full.

    Raises:
        SystemExit: argparse ends the program, with code 0 after --help and --version and with code 2 for a wrong
            option.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without UTF-8 shows "?" for what it cannot encode
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends a command as Ctrl-C does
    words = sys.argv[1:] if arguments is None else arguments
    parsed = argparse.Namespace(command_line=shlex.join(["deeper", *words]))
    try:
        _check_folders()
        build_parser().parse_args(arguments, parsed)
        _check_environment()
        provide_home()
        code = int(parsed.call(parsed))
        if sys.stdout is not None:
            sys.stdout.flush()  # what cannot be written is noticed while it can still be said
        return code
    except UserError as error:
        if traceback_wanted():
            print(redacted(traceback.format_exc()), end="", file=sys.stderr)
        _print_error(str(error))
        return WRONG_INPUT
    except KeyboardInterrupt as error:
        _print_error(str(error) or "interrupted")  # a command may say what is kept
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return DONE
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None and _is_output_full():
            _discard_output()
            _print_error(f"standard output cannot be written: {error.strerror}; write it to another place")
            return WRONG_INPUT
        if isinstance(error, OSError) and error.errno in FULL:
            _print_error(describe_full_disk(error, Path(error.filename or _records_of(parsed) or Path.cwd())))
            return WRONG_INPUT
        if isinstance(error, OSError) and error.errno in REFUSED and error.filename is not None:
            _print_error(f"{os.fsdecode(error.filename)}: {error.strerror}; mend that, or move it away")
            return WRONG_INPUT
        log = log_bug(error, sys.argv if arguments is None else ["deeper", *arguments], _records_of(parsed))
        if traceback_wanted():
            print(redacted(traceback.format_exc()), end="", file=sys.stderr)
        _print_error(describe_bug(error, log))
        return BUG


def build_parser() -> Parser:
    """Return the parser of `deeper` with all subcommands, including those of the extensions.

    The defaults of --records and --data are read from the environment when the function is called. The parsed command
    line has the function that runs the subcommand as `call`; `main` adds the whole line as `command_line`.
    """
    parser = Parser(
        prog="deeper",
        description="Benchmark and reproduce GoogLeNet: ablations as data, DDP runs on Ray, MLflow records, reports.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="Print the version and exit.")
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument(
        "--records",
        type=folder,
        metavar="FOLDER",
        default=os.environ.get("DEEPER_RECORDS") or "records",
        help="The folder of the records and of the tracking store. Default: $DEEPER_RECORDS, else ./records.",
    )
    places.add_argument(
        "--data",
        type=folder,
        metavar="FOLDER",
        default=os.environ.get("DEEPER_DATA") or "data",
        help="The folder of the prepared data sets. Default: $DEEPER_DATA, else ./data.",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    doctor.add_to(subparsers, places, EXTENSIONS)
    listing.add_to(subparsers)
    authoring.add_to(subparsers)
    for command in (data, plan, run, publish):
        command.add_to(subparsers, places)
    status.add_to(subparsers, places, EXTENSIONS)
    for command in (dashboard, report, evaluate, verify, export, predict, merge, archive, clean, claims, benchmarks):
        command.add_to(subparsers, places)
    for extension in EXTENSIONS:
        extension.add_commands(subparsers, places)
    return parser


class _PrintVersion(argparse.Action):
    """Prints the version and exits; the version is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"deeper {version('deeper')}")
        except PackageNotFoundError:
            print("deeper, run from its source folder without being installed")
        parser.exit()


def _check_folders() -> None:
    """Raise `UserError` if the current folder is gone or not known, or if there is none for temporary files."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError("the current folder was removed or replaced; change to one that exists (cd)") from None
    except PermissionError:  # its path is looked for in folders above, such as from within a container
        raise UserError(
            "the path of the current folder cannot be found out by this user; change to another (cd)"
        ) from None
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise UserError(
            f"TMPDIR: {os.environ.get('TMPDIR', 'not set')}: neither this nor the system's folders for temporary files "
            "can be written; name a folder of yours"
        ) from None


def _check_environment() -> None:
    """Raise `UserError` if an environment variable has an unknown value: an implementation, or the use of graphs."""
    from reproduce.native import LIBRARIES
    from reproduce.training.graphs.switch import graph_wanted

    for library in LIBRARIES:
        library.requested()
    graph_wanted()


def _records_of(parsed: argparse.Namespace) -> Path | None:
    records: Path | None = getattr(parsed, "records", None)
    return records


def _is_output_full() -> bool:
    """Return whether standard output leads to a full disk. An error of it names no file, and its text is gone."""
    try:
        os.write(1, b"\n")
    except OSError as error:
        return error.errno in FULL
    return False


def _discard_output() -> None:
    """Let standard output lead nowhere, so that Python does not try again to write to it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _print_error(message: str) -> None:
    with contextlib.suppress(OSError):  # where nobody can be told, the exit code still says it
        for line in redacted(message).splitlines():
            print(f"deeper: {printable(line)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
