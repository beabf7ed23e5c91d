"""Measures what deterministic kernels cost a step: the same step with and without them, in two processes in turn."""

from __future__ import annotations

from rich.console import Console

from bench.suites.gpu.probe import ProbeContext, Reporter
from bench.suites.gpu.probes.step import REPETITIONS, medians
from bench.suites.harness.comparison import interleave
from bench.suites.harness.meter import SPEED
from bench.suites.harness.worker_process import worker_process
from bench.suites.step.implementations import OURS, port_network
from bench.suites.step.worker import StepProcessOptions, StepWorkload, serve

FREE, DETERMINISTIC = "free", "deterministic"
MAX_SLOWDOWN = 1.25


def deterministic(context: ProbeContext, reporter: Reporter) -> None:
    """Measures both without cuDNN's timing of its algorithms, which deterministic kernels rule out."""
    free, fixed = (
        StepProcessOptions(device=context.device, threads=context.threads, deterministic=is_deterministic)
        for is_deterministic in (False, True)
    )
    network, batch = port_network(context.size.side), context.size.batch
    workload = StepWorkload(
        network=network, batch=batch, training=True, names=(OURS,), repetition_s=context.size.repetition_s
    )
    with worker_process(FREE, serve, free) as one, worker_process(DETERMINISTIC, serve, fixed) as other:
        reporter.progress("first passes")
        for process in (one, other):
            process.request(workload)
        both = {process.name: process.measure(OURS) for process in (one, other)}
        measured = interleave(both, repetitions=REPETITIONS, console=Console())
    rows = {name: medians(repetitions) for name, repetitions in measured.items()}
    reporter.table(f"our training step, {network.resolution} px, batch {batch}", rows)
    speeds = [rows[name][SPEED] for name in (FREE, DETERMINISTIC)]
    if context.device.type == "cuda":  # on CPUs every run is deterministic
        reporter.check("seconds of a step, deterministic / free", speeds[0] / speeds[1], at_most=MAX_SLOWDOWN)
