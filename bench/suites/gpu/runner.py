"""`deeper bench gpu`: finds out in a few minutes whether a new machine works and how fast it is.

Measured: the values that the probes of `bench.suites.gpu.registry` measure and check, from the correctness of gradients
to images per joule. On a machine without a GPU, the probes that need one are left out and named.

Against: bounds for the checked values, and torchvision's network for the speed of a step.

Interleaved: implementations within each probe that compares several. Probes run one after the other, the most valuable
ones first, each in a process that is ended at its time limit. If time runs out, the last ones do not start.

Not shown: the speed of a long training, for which minutes are too short; and anything that needs several GPUs.

A result is written whenever a probe reports something. At the end, or on Ctrl-C, all results are printed as Markdown.
The same command continues with what is missing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import Field
from rich.console import Console
from rich.text import Text

from bench.console.exit_codes import DONE, FAILED, INTERRUPTED
from bench.console.output import plain_console
from bench.machine.environment import environment
from bench.orchestration.interruption import Interruption
from bench.results.store import COMMITTED, this_machine_kind, to_json, with_provenance
from bench.suites.gpu.markdown import render
from bench.suites.gpu.probe import Activity, Probe, ProbeContext, ProbeResult
from bench.suites.gpu.store import SUITE, ProbeStore, to_record
from bench.suites.gpu.worker import LOG, serve
from bench.suites.harness.errors import WorkerProcessError
from bench.suites.harness.worker_process import WorkerProcess
from reproduce.errors import UserError
from reproduce.limits import usable_cores
from reproduce.spec import Config

MINUTES = 8.0  # the total time for which `Probe.seconds` are chosen
MIN_LIMIT_S = 30.0  # of a probe; importing torch alone may take ten seconds
MIN_LEFT_S = 10.0  # with less time left, no probe starts
EXIT_GRACE_S = 5.0  # how long a process may take to end by itself
POLL_S = 0.25


class GpuOptions(Config):
    """Options of `deeper bench gpu`: which probes run, for how long, and where their results go."""

    minutes: float = Field(MINUTES, gt=0)
    """Time limit of all probes together, in minutes."""
    output: Path | None = None
    """Folder whose subfolder `gpu` receives the results. None means the folder of this kind of machine in
    `results/bench`."""
    probes: tuple[str, ...] = ()
    """Names of the probes to run. An empty tuple runs all."""
    force: bool = False
    """Whether to repeat probes that this commit has already completed."""
    json_output: bool = False
    """Whether to print the results as JSON instead of Markdown."""


def main(options: GpuOptions, probes: Sequence[Probe]) -> int:
    """Run probes, write a result for each, and print all results to standard output.

    Probes that the same commit has completed are not repeated unless `options.force` is set. SIGINT and SIGTERM stop
    the suite early: it then keeps and prints the results so far.

    Args:
        options: Which probes run, for how long, and where their results go.
        probes: All probes in the order in which they run.

    Returns:
        The exit code: 1 if a probe or a check failed (`FAILED`); otherwise 75 if a probe was cut or did not start
        (`INTERRUPTED`), in which case the same command continues with it; otherwise 0 (`DONE`).

    Raises:
        UserError: `options.probes` has a name that no probe has, or the folder holds results of another kind of
            machine or files that are no results.
    """
    chosen = _chosen(options, probes)
    kind, name = this_machine_kind(), _device_name()
    store = ProbeStore(options.output or COMMITTED / kind, kind, name)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    console = plain_console(stderr=True)
    console.print(f"{name}; results go to {store.folder}", highlight=False, soft_wrap=True)
    with Interruption() as interruption:
        runner = ProbeRunner(store, device, console, stop_reason=lambda: interruption.reason)
        results = runner.run(chosen, minutes=options.minutes, force=options.force)
    if options.json_output:
        print(to_json(with_provenance(SUITE, {"results": [to_record(result) for result in results]})))
    else:
        print(render(results, f"deeper bench gpu on {name}"))
    if not all(result.passed for result in results):
        return FAILED
    return DONE if all(result.outcome in ("done", "absent") for result in results) else INTERRUPTED


def _chosen(options: GpuOptions, probes: Sequence[Probe]) -> list[Probe]:
    names = [probe.name for probe in probes]
    for name in options.probes:
        if name not in names:
            raise UserError(f"--probe: {name!r} is none of {', '.join(names)}")
    return [probe for probe in probes if not options.probes or probe.name in options.probes]


def _device_name() -> str:
    """Return the name of the GPU if torch can use one, and otherwise the name, flags and cores of the CPU."""
    found = environment()
    if torch.cuda.is_available():
        return str(found["gpus"][0]["name"]) if found["gpus"] else torch.cuda.get_device_name(0)
    machine = found["machine"]
    return f"{machine['cpu']} ({', '.join(machine['cpu_flags'])}), {machine['cores_physical']} cores, no GPU"


class ProbeRunner:
    """Runs probes on one device, one after the other, each in a worker process.

    Args:
        store: Where results are read and written.
        device: The device that the probes measure.
        console: Where progress is shown.
        stop_reason: Called repeatedly. It returns the reason why the user wants to stop, or None to continue.
    """

    def __init__(
        self,
        store: ProbeStore,
        device: torch.device,
        console: Console,
        stop_reason: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._store, self._device, self._console, self._stop_reason = store, device, console, stop_reason

    def run(self, probes: Sequence[Probe], *, minutes: float, force: bool = False) -> list[ProbeResult]:
        """Run probes until all have ended, the time is over or the user stops, and write the result of each.

        Args:
            probes: The probes in the order in which they run, the most valuable ones first.
            minutes: Time limit of all probes together, in minutes. It also scales the time limit of each.
            force: Whether to repeat probes that the same commit has already completed.

        Returns:
            A result for each probe, in the order of `probes`. Completed results are read from the store. A probe that
            did not start has the outcome "cut" here, which is not written to the store.
        """
        results: dict[str, ProbeResult] = {}
        waiting: list[Probe] = []
        for probe in probes:
            before = None if force else self._store.read(probe.name)
            if before is not None and before.outcome == "done":
                results[probe.name] = before
            elif missing := probe.missing_requirements(self._device):
                results[probe.name] = ProbeResult(probe=probe.name, outcome="absent", why=missing)
                self._store.write(results[probe.name])
            else:
                waiting.append(probe)
        self._print_plan(results, waiting)
        end = time.monotonic() + 60 * minutes
        for index, probe in enumerate(waiting):
            left_s = end - time.monotonic()
            limit_s = min(left_s, max(MIN_LIMIT_S, probe.seconds * minutes / MINUTES))
            reason = self._stop_reason() or (f"the {minutes:g} minutes were over" if left_s < MIN_LEFT_S else None)
            if reason is not None:
                results[probe.name] = ProbeResult(probe=probe.name, outcome="cut", why=f"not started: {reason}")
                continue
            title = f"[{index + 1} of {len(waiting)}] {probe.name}: {probe.help}"
            with self._progress(title, end) as show_activity:
                results[probe.name] = self._run_probe(probe, limit_s, show_activity)
        return [results[probe.name] for probe in probes]

    def _print_plan(self, results: dict[str, ProbeResult], waiting: Sequence[Probe]) -> None:
        for outcome, text in (("done", "done before (--force repeats)"), ("absent", "left out on this machine")):
            if names := [name for name, result in results.items() if result.outcome == outcome]:
                self._print(f"{text}: {', '.join(names)}")
        if waiting:
            self._print(f"to do: {', '.join(probe.name for probe in waiting)}")

    @contextmanager
    def _progress(self, title: str, end: float) -> Iterator[Callable[[str], None]]:
        """Show the progress of a probe while the block runs, and yield a function that shows a new activity.

        A terminal shows one line that changes. Any other console shows one line for each probe and no activities.
        """
        if not self._console.is_terminal:
            self._print(title)
            yield lambda text: None
            return
        with self._console.status(Text(title)) as status:  # not a string, which would be markup

            def show_activity(text: str) -> None:
                left_s = max(0.0, end - time.monotonic())
                status.update(Text(f"{title}; {text}; {left_s:.0f} s left for all probes"), spinner_style="")

            yield show_activity

    def _run_probe(self, probe: Probe, limit_s: float, show_activity: Callable[[str], None]) -> ProbeResult:
        """Run a probe until it ends, reaches its time limit or is stopped by the user, and write its result."""
        start = time.monotonic()
        result = ProbeResult(probe=probe.name, outcome="cut", limit_s=round(limit_s, 1))
        with tempfile.TemporaryDirectory(prefix="deeper-gpu-", ignore_cleanup_errors=True) as scratch:
            context = ProbeContext(
                device_name=str(self._device),
                threads=usable_cores(),
                deadline=start + limit_s,
                scratch=Path(scratch),
            )
            process = WorkerProcess(probe.name, serve, probe.run, context)
            try:
                result = self._collect(process, context, result, show_activity)
            finally:
                process.kill()
                process.close()
                process.join()
            self._keep_log(result, Path(scratch) / LOG)
        result = result.model_copy(update={"seconds": round(time.monotonic() - start, 1)})
        self._store.write(result)
        reason = f"; {result.why}" if result.why else ""
        self._print(f"{probe.name}: {result.outcome} in {result.seconds:.0f} s{reason}")
        return result

    def _collect(
        self,
        process: WorkerProcess,
        context: ProbeContext,
        result: ProbeResult,
        show_activity: Callable[[str], None],
    ) -> ProbeResult:
        """Receive the messages of a probe until it ends, and return its result, which is written after each message."""
        while (left_s := context.left_s) > 0:
            if reason := self._stop_reason():
                return result.with_outcome("cut", reason)
            try:
                message = process.receive(min(POLL_S, left_s))
            except TimeoutError:
                continue
            except WorkerProcessError as error:
                return result.with_outcome("failed", str(error))
            if isinstance(message, tuple):
                process.join(EXIT_GRACE_S)
                return result.with_outcome(*message)
            if isinstance(message, Activity):
                show_activity(message.text)
                continue
            result = result.with_message(message)
            self._store.write(result)
        return result.with_outcome("cut", f"ended at its limit of {result.limit_s:.0f} s")

    def _keep_log(self, result: ProbeResult, log: Path) -> None:
        """Keep the output of a probe if it failed or was cut, and otherwise delete the output of an earlier try."""
        kept = self._store.log(result.probe)
        if result.outcome in ("done", "absent") or not log.is_file() or not log.stat().st_size:
            kept.unlink(missing_ok=True)
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(log.read_bytes())
        self._print(f"what it printed: {kept}")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
