"""Measures the cost of deterministic kernels: the same training step with and without them, in two processes."""

from __future__ import annotations

from rich.console import Console

from bench.suites.gpu.probe import ProbeContext, Reporter
from bench.suites.gpu.probes.step import REPETITIONS, medians
from bench.suites.harness.comparison import interleave
from bench.suites.harness.meter import SPEED
from bench.suites.harness.worker_process import worker_process
from bench.suites.step.implementations import OURS
from bench.suites.step.inputs import port_network
from bench.suites.step.worker import StepProcessOptions, StepWorkload, serve

FREE, DETERMINISTIC = "free", "deterministic"
MAX_SLOWDOWN = 1.25


def deterministic(context: ProbeContext, reporter: Reporter) -> None:
    """Measure our training step with free and with deterministic kernels, in two processes that take turns.

    In neither process does cuDNN time its algorithms, because deterministic kernels exclude it. On GPUs the
    deterministic step may take at most 1.25 times (`MAX_SLOWDOWN`) as long as the free one. On CPUs nothing is checked.
    """
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
