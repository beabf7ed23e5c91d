"""What deterministic kernels cost a step: the same step in a process with them and in one without, in turn."""

from __future__ import annotations

from rich.console import Console

from bench.suites.gpu.part import Report, Task
from bench.suites.gpu.parts.step import REPETITIONS, medians
from bench.suites.harness.child import child
from bench.suites.harness.comparison import interleave
from bench.suites.harness.meter import SPEED
from bench.suites.step.implementations import OURS, port
from bench.suites.step.process import Job, Setup, serve

FREE, DETERMINISTIC = "free", "deterministic"
MOST = 1.25


def deterministic(task: Task, report: Report) -> None:
    """Both without timing of cuDNN's algorithms, which deterministic kernels never have."""
    free, fixed = (
        Setup(device=task.device, threads=task.threads, deterministic=is_fixed) for is_fixed in (False, True)
    )
    network, batch = port(task.size.side), task.size.batch
    job = Job(network=network, batch=batch, training=True, names=(OURS,), repetition_s=task.size.repetition_s)
    with child(FREE, serve, free) as one, child(DETERMINISTIC, serve, fixed) as other:
        report.progress("first passes")
        for process in (one, other):
            process.ask(job)
        both = {process.name: process.contestant(OURS) for process in (one, other)}
        rounds = interleave(both, rounds=REPETITIONS, console=Console())
    rows = {name: medians(of_form) for name, of_form in rounds.items()}
    report.table(f"our training step, {network.resolution} px, batch {batch}", rows)
    speeds = [rows[name][SPEED] for name in (FREE, DETERMINISTIC)]
    if task.device.type == "cuda":  # on CPUs every run is deterministic
        report.check("seconds of a step, deterministic / free", speeds[0] / speeds[1], at_most=MOST)
