"""`deeper bench report`: measures what publishing and reporting cost at the size of large studies.

Measured: seconds, CPU-seconds and peak memory of publishing all runs and of making their report, each in a process of
its own, imports included, and the size of the page. The CPU-seconds of a server are not among them.

Against: the same for a tenth of the runs, so that a growth beyond the number of runs shows.

Not shown: anything about training. The records are generated, see `bench.suites.report.generation`.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from pydantic import Field
from rich.console import Console

from bench.suites.harness.comparison import Comparison, Goal, Measurement
from bench.suites.harness.memory import own_peak_gib
from bench.suites.harness.reporting import ResultOutput, progress_console, report_comparisons
from bench.suites.harness.worker_process import worker_process
from bench.suites.report.generation import GENERATED, generated_experiment, write_generated_records
from bench.tracking.location import embedded_uri
from bench.tracking.mlflow_setup import QUIET, without_credentials
from reproduce.errors import UserError
from reproduce.spec import Config
from reproduce.text.redaction import redacted

GOAL_SIZE = (1000, 90)
"""Runs and epochs for which the goals hold."""
EMBEDDED, SERVER = "embedded", "server"
GOALS = {
    EMBEDDED: {"publish, s": 60.0, "report, s": 20.0, "report, peak GiB": 1.0, "page, MB": 2.0},
    SERVER: {"publish, s": 300.0, "report, s": 60.0, "page, MB": 2.0},
}
"""The largest values that reach the goals, by the kind of the store."""
GROWTH = 1.2
"""Largest growth of the seconds of publishing and of the report, as a multiple of that of the number of runs."""
PROGRESS_EVERY_S = 10.0


class ReportOptions(Config):
    """Options of `deeper bench report`: the size of the generated records, and a server."""

    runs: int = Field(1000, ge=40)
    """Number of runs of the larger experiment. The smaller one has a tenth of them."""
    epochs: int = Field(90, ge=1)
    """Epochs of each run, with 21 metrics an epoch."""
    server: str | None = None
    """URI of a tracking server that is also filled and read. It has to be empty."""


def main(options: ReportOptions, *, output: ResultOutput) -> int:
    """Publish and report generated records of two sizes, and print and write the result.

    Ctrl-C ends it. The records and the embedded stores are in a temporary folder, which is removed; what was published
    to a server stays there.

    Args:
        options: The size of the records, and a server.
        output: Where the result goes beside the terminal.

    Returns:
        The exit code: 0 if all goals are reached or the size is not that of the goals, 1 otherwise.

    Raises:
        UserError: The server holds one of the generated experiments already, or does not answer.
        WorkerProcessError: Publishing or reporting failed. Its process has printed why.
    """
    console = progress_console()
    small, large = options.runs // 10, options.runs
    if options.server:
        _check_server(options.server, [generated_experiment(runs, options.epochs).name for runs in (small, large)])
    measured: dict[str, dict[str, list[Measurement]]] = {EMBEDDED: {}, **({SERVER: {}} if options.server else {})}
    with tempfile.TemporaryDirectory(prefix="deeper-report-") as scratch:
        for runs in (small, large):
            records = Path(scratch).resolve() / str(runs)
            _generate(records, runs, options.epochs, console)
            for kind, found in measured.items():
                uri = embedded_uri(records) if kind == EMBEDDED else str(options.server)
                found[_label(runs)] = [_measure_store(kind, records, uri, runs, options.epochs, console)]
    comparisons = [
        Comparison(
            name=kind,
            title=f"Publishing and reporting {GENERATED} records of {options.epochs} epochs, {kind} store",
            repetitions={name: found[name] for name in (_label(large), _label(small))},
            goals=_goals(kind, large, small) if (options.runs, options.epochs) == GOAL_SIZE else (),
        )
        for kind, found in measured.items()
    ]
    setting = {**options.model_dump(exclude={"server"}), "records": f"{GENERATED}: nothing was trained"}
    return report_comparisons("report", comparisons, setting=setting, output=output)


def _check_server(uri: str, names: Sequence[str]) -> None:
    """Check that a server holds no experiment of these names: it would take their runs for published."""
    from bench.tracking.sending import RejectedError, Sender

    os.environ.update(QUIET)  # before MLflow is imported
    from mlflow.exceptions import MlflowException

    try:
        sender = Sender(without_credentials(uri))
        held = [name for name in names if sender.find_experiment(name) is not None]
    except RejectedError as error:
        raise UserError(f"--server: {error}") from error
    except MlflowException as error:
        raise UserError(f"--server: {redacted(uri)} does not answer: {str(error).splitlines()[0]}") from error
    if held:
        raise UserError(
            f"--server: {redacted(uri)} holds {held[0]} already, so that nothing would be published; "
            "name a server whose store is empty"
        )


def _label(runs: int) -> str:
    return f"{runs} runs"


def _goals(kind: str, large: int, small: int) -> tuple[Goal, ...]:
    absolute = (Goal(metric=metric, ours=_label(large), at_most=most) for metric, most in GOALS[kind].items())
    growth = (
        Goal(metric=metric, ours=_label(large), baseline=_label(small), at_most=GROWTH * large / small)
        for metric in ("publish, s", "report, s")
    )
    return (*absolute, *growth)


def _generate(records: Path, runs: int, epochs: int, console: Console) -> None:
    start = shown = time.monotonic()
    for count in write_generated_records(records, runs, epochs):
        now = time.monotonic()
        if now - shown > PROGRESS_EVERY_S:
            left_s = (now - start) / count * (runs - count)
            console.print(f"{count} of {runs} runs are generated; about {left_s:.0f} s left", highlight=False)
            shown = now
    console.print(f"{runs} runs of {epochs} epochs are generated", highlight=False)


def _measure_store(kind: str, records: Path, uri: str, runs: int, epochs: int, console: Console) -> Measurement:
    measurement: dict[str, float] = {}
    seconds = {name.removesuffix(", s"): most for name, most in GOALS[kind].items()}
    for task in ("publish", "report"):
        expected = seconds[task] * runs * epochs / (GOAL_SIZE[0] * GOAL_SIZE[1])
        console.print(f"{task}, {runs} runs, {kind} store; the goal is {expected:.0f} s ...", highlight=False)
        with worker_process(task, _serve, task, records, uri, generated_experiment(runs, epochs).name) as worker:
            measurement |= worker.receive()
    return measurement


# --- in the worker process ----------------------------------------------------------------------------


def _serve(pipe: Connection, task: str, records: Path, uri: str, experiment: str) -> None:
    """Publish or report an experiment, and send what that cost."""
    start = time.perf_counter()
    found = _publish(records, uri) if task == "publish" else _report(records, uri, experiment)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send(
        {
            f"{task}, s": time.perf_counter() - start,
            f"{task}, CPU-s": usage.ru_utime + usage.ru_stime,
            f"{task}, peak GiB": own_peak_gib(),
            **found,
        }
    )


def _publish(records: Path, uri: str) -> dict[str, float]:
    from bench.tracking.publishing import Publisher
    from bench.tracking.reader import pending

    (records / "publisher").mkdir(exist_ok=True)
    os.chdir(records / "publisher")  # MLflow leaves an empty folder in the current one
    Publisher(records, uri).publish(final=True)
    assert pending(records, uri) == 0, "the store rejected something"
    return {}


def _report(records: Path, uri: str, experiment: str) -> dict[str, float]:
    from analysis.report.writing import write_report

    page = write_report(experiment, tracking_uri=uri, out=records / "report")
    return {"page, MB": page.stat().st_size / 1e6}
