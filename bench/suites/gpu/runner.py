"""Runs the parts one after the other, each in a process of its own that is ended at the part's limit of time.

The parts come in order of worth, and the limits leave room: where the time is short, the last ones are not begun. A
result is written with everything that a part tells. Whatever happens, what there is is printed at the end; the same
command goes on with what is missing.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from pydantic import Field
from rich.console import Console

from bench.console.exit_codes import DONE, FAILED, INTERRUPTED
from bench.machine.environment import environment
from bench.orchestration.interruption import Interruption
from bench.results.store import COMMITTED, here
from bench.suites.gpu.markdown import report
from bench.suites.gpu.part import Part, Progress, Result, Task
from bench.suites.gpu.process import LOG, serve
from bench.suites.gpu.store import Store
from bench.suites.harness.child import Child
from reproduce.spec import Config, SpecError

MINUTES = 8.0  # for which the limits of the parts are stated
LEAST_LIMIT_S = 30.0  # of a part; torch alone may take ten seconds to import
LEAST_LEFT_S = 10.0  # for a part to be begun
GRACE_S = 5.0  # for a process to end by itself
POLL_S = 0.25


class GpuOptions(Config):
    """How the suite is run."""

    minutes: float = Field(MINUTES, gt=0)
    """Of all parts together."""
    out: Path | None = None
    """None: the folder of this kind of machine in results/bench."""
    parts: tuple[str, ...] = ()
    """By name; none: all."""
    force: bool = False
    """Whether parts are repeated whose results are there."""


def main(options: GpuOptions, parts: Sequence[Part]) -> int:
    """Run the suite and print its table. Raises `SpecError`.

    0 where all is done that the machine has the means for, 1 where a part failed or a check did, 75 where time or the
    user ended it before: the same command goes on.
    """
    chosen = _chosen(options, parts)
    kind, name = here(), _device_name()
    store = Store(options.out or COMMITTED / kind, kind, name)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    console = Console(stderr=True)
    console.print(f"{name}; results go to {store.folder}", highlight=False, soft_wrap=True)
    with Interruption() as interruption:
        suite = Suite(store, device, console, stopped=lambda: interruption.reason)
        results = suite.run(chosen, minutes=options.minutes, force=options.force)
    print(report(results, f"deeper bench gpu on {name}"))
    if not all(result.passed for result in results):
        return FAILED
    return DONE if all(result.outcome in ("done", "absent") for result in results) else INTERRUPTED


def _chosen(options: GpuOptions, parts: Sequence[Part]) -> list[Part]:
    names = [part.name for part in parts]
    for name in options.parts:
        if name not in names:
            raise SpecError(f"--part: {name!r} is none of {', '.join(names)}")
    return [part for part in parts if not options.parts or part.name in options.parts]


def _device_name() -> str:
    """What the figures are of: the GPU where torch can use one, else the CPU with its flags."""
    found = environment()
    if torch.cuda.is_available():
        return str(found["gpus"][0]["name"]) if found["gpus"] else torch.cuda.get_device_name(0)
    machine = found["machine"]
    return f"{machine['cpu']} ({', '.join(machine['cpu_flags'])}), {machine['cores_physical']} cores, no GPU"


class Suite:
    """Runs parts on one device."""

    def __init__(
        self, store: Store, device: torch.device, console: Console, stopped: Callable[[], str | None] = lambda: None
    ) -> None:
        self._store, self._device, self._console, self._stopped = store, device, console, stopped

    def run(self, parts: Sequence[Part], *, minutes: float, force: bool = False) -> list[Result]:
        """Results of all of them, in their order."""
        results: dict[str, Result] = {}
        waiting: list[Part] = []
        for part in parts:
            before = None if force else self._store.read(part.name)
            if before is not None and before.outcome == "done":
                results[part.name] = before
            elif lacking := part.lacks(self._device):
                results[part.name] = Result(part=part.name, outcome="absent", why=lacking)
                self._store.write(results[part.name])
            else:
                waiting.append(part)
        self._begin(results, waiting)
        end = time.monotonic() + 60 * minutes
        for index, part in enumerate(waiting):
            left = end - time.monotonic()
            limit = min(left, max(LEAST_LIMIT_S, part.seconds * minutes / MINUTES))
            reason = self._stopped() or (f"the {minutes:g} minutes were over" if left < LEAST_LEFT_S else None)
            if reason is not None:
                results[part.name] = Result(part=part.name, outcome="cut", why=f"not begun: {reason}")
                continue
            with self._telling(f"[{index + 1} of {len(waiting)}] {part.name}: {part.help}", end) as tell:
                results[part.name] = self._one(part, limit, tell)
        return [results[part.name] for part in parts]

    def _begin(self, results: dict[str, Result], waiting: Sequence[Part]) -> None:
        for outcome, text in (("done", "there already (--force repeats)"), ("absent", "left out here")):
            if names := [name for name, result in results.items() if result.outcome == outcome]:
                self._console.print(f"{text}: {', '.join(names)}", highlight=False, soft_wrap=True)
        if waiting:
            todo = ", ".join(part.name for part in waiting)
            self._console.print(f"to do: {todo}", highlight=False, soft_wrap=True)

    @contextmanager
    def _telling(self, title: str, end: float) -> Iterator[Callable[[str], None]]:
        """Progress in one line on a terminal; a line for a part elsewhere."""
        if not self._console.is_terminal:
            self._console.print(title, highlight=False, soft_wrap=True)
            yield lambda text: None
            return
        with self._console.status(title) as status:

            def tell(text: str) -> None:
                left = max(0.0, end - time.monotonic())
                status.update(f"{title}; {text}; {left:.0f} s left of all", spinner_style="")

            yield tell

    def _one(self, part: Part, limit_s: float, tell: Callable[[str], None]) -> Result:
        """A part in its process, to its end, its limit or an interruption."""
        start = time.monotonic()
        result = Result(part=part.name, outcome="cut", limit_s=round(limit_s, 1))
        with tempfile.TemporaryDirectory(prefix="deeper-gpu-", ignore_cleanup_errors=True) as scratch:
            task = Task(
                device_name=str(self._device),
                threads=min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0))),
                deadline=start + limit_s,
                scratch=Path(scratch),
            )
            process = Child(part.name, serve, part.work, task)
            try:
                result = self._listen(process, task, result, tell)
            finally:
                process.kill()
                process.close()
                process.join()
            self._keep_log(result, Path(scratch) / LOG)
        result = result.model_copy(update={"seconds": round(time.monotonic() - start, 1)})
        self._store.write(result)
        ending = f"; {result.why}" if result.why else ""
        self._console.print(
            f"{part.name}: {result.outcome} in {result.seconds:.0f} s{ending}", highlight=False, soft_wrap=True
        )
        return result

    def _listen(self, process: Child, task: Task, result: Result, tell: Callable[[str], None]) -> Result:
        """What a part tells until it is done; written each time."""
        while (left := task.left_s) > 0:
            if reason := self._stopped():
                return result.ended("cut", reason)
            try:
                message = process.answer(min(POLL_S, left))
            except TimeoutError:
                continue
            except RuntimeError as error:
                return result.ended("failed", str(error))
            if isinstance(message, tuple):
                process.join(GRACE_S)
                return result.ended(*message)
            if isinstance(message, Progress):
                tell(message.text)
                continue
            result = result.told(message)
            self._store.write(result)
        return result.ended("cut", f"ended at its limit of {result.limit_s:.0f} s")

    def _keep_log(self, result: Result, log: Path) -> None:
        """What a part printed that came to no good end."""
        kept = self._store.log(result.part)
        if result.outcome in ("done", "absent") or not log.is_file() or not log.stat().st_size:
            kept.unlink(missing_ok=True)
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(log.read_bytes())
        self._console.print(f"what it printed: {kept}", highlight=False, soft_wrap=True)
