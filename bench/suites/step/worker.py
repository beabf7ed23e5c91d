"""Measures implementations of a step in turn, ours in one worker process and torchvision's in another.

Ours is prepared as the process of a run is. In a single process, the kernels that cuDNN has chosen for one network
would also serve the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from rich.console import Console

from bench.suites.harness.comparison import Measure, interleave
from bench.suites.harness.meter import Meter
from bench.suites.harness.worker_process import WorkerProcess, received_requests, worker_process
from bench.suites.step.implementations import BASELINE, OURS, STEPS, StepFunction, step_inputs
from reproduce.execution.process import prepare_process
from reproduce.spec import NetworkConfig


@dataclass(frozen=True, kw_only=True)
class StepWorkload:
    """What the implementations have to do."""

    network: NetworkConfig
    batch: int
    """Images in a step."""
    training: bool
    """Whether to train the network, and not to evaluate it."""
    names: tuple[str, ...]
    """Names in `STEPS`. Those that do not support the network are left out."""
    repetition_s: float = 0.0
    """How many seconds a repetition takes at least. It has one step at least."""


@dataclass(frozen=True)
class StepMeasurements:
    """What was measured, by implementation. Ours comes first."""

    repetitions: Mapping[str, Sequence[dict[str, float]]]
    first_s: Mapping[str, float]
    """Seconds of the first step or forward pass, in which kernels are chosen or compiled."""
    absent: Mapping[str, str]
    """Implementations that could not be measured, and why."""


@dataclass(frozen=True, kw_only=True)
class StepProcessOptions:
    """How a worker process is set up."""

    device: torch.device
    threads: int
    """CPU threads of torch."""
    ours: bool = True
    """Whether it measures our implementations, and not torchvision's."""
    cudnn_benchmark: bool = False
    """Whether cuDNN times its algorithms for each new shape, as in a long training. Takes 15 s for each batch size."""
    deterministic: bool = False
    """Whether to use deterministic kernels only."""


class StepWorkers:
    """The two worker processes."""

    def __init__(self, processes: Sequence[WorkerProcess]) -> None:
        self._processes = processes

    def measure(self, workload: StepWorkload, *, repetitions: int, console: Console) -> StepMeasurements:
        """Builds all implementations, then measures them in interleaved repetitions."""
        first_s: dict[str, float] = {}
        absent: dict[str, str] = {}
        implementations: dict[str, Measure] = {}
        for process in self._processes:
            built, failed = process.request(workload)
            absent.update(failed)
            first_s.update(built)
            implementations.update({name: process.measure(name) for name in built})
        measured = interleave(implementations, repetitions=repetitions, console=console)
        return StepMeasurements(measured, first_s, absent)


@contextmanager
def step_workers(device: torch.device, threads: int, *, cudnn_benchmark: bool = False) -> Iterator[StepWorkers]:
    """Starts the two worker processes, which end with the block."""
    ours, baselines = (
        StepProcessOptions(device=device, threads=threads, ours=is_ours, cudnn_benchmark=cudnn_benchmark)
        for is_ours in (True, False)
    )
    with worker_process(OURS, serve, ours) as one, worker_process(BASELINE, serve, baselines) as other:
        yield StepWorkers((one, other))


# --- in a worker process ------------------------------------------------------------------------------


def serve(pipe: Connection, options: StepProcessOptions) -> None:
    """Replies to requests until the pipe is closed.

    The reply to a `StepWorkload` is the seconds of the first step by implementation, and by implementation why others
    could not be built. The reply to `(name, index)` is a measurement of the latest workload.
    """
    if options.ours:
        prepare_process(options.device, options.threads, deterministic=options.deterministic)
    else:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    served = _ServedSteps(options)
    for request in received_requests(pipe):
        match request:
            case StepWorkload():
                pipe.send(served.build(request))
            case (name, _):
                pipe.send(served.measure(name))
        if options.device.type == "cuda":
            torch.cuda.empty_cache()  # the other process needs the memory as well


class _ServedSteps:
    """The implementations of the latest workload in this process."""

    def __init__(self, options: StepProcessOptions) -> None:
        self._options = options
        self._meter = Meter(options.device)
        self._steps: dict[str, StepFunction] = {}
        self._steps_per_repetition: dict[str, int] = {}
        self._batch = 0

    def build(self, workload: StepWorkload) -> tuple[dict[str, float], dict[str, str]]:
        """Builds the implementations of a workload and takes their first step."""
        first_s: dict[str, float] = {}
        absent: dict[str, str] = {}
        self._steps.clear()
        self._batch = workload.batch
        inputs = step_inputs(workload.network, workload.batch, self._options.device, training=workload.training)
        for name in workload.names:
            implementation = STEPS[name]
            if implementation.ours != self._options.ours or not implementation.supports(inputs):
                continue
            try:
                step = self._steps[name] = implementation.build(inputs)
                seconds = self._meter.seconds(step)
                step_s = self._meter.seconds(step) if workload.repetition_s else math.inf
            except torch.OutOfMemoryError:
                absent[name] = "out of memory"
                continue
            first_s[name] = seconds
            self._steps_per_repetition[name] = max(1, math.ceil(workload.repetition_s / step_s))
        return first_s, absent

    def measure(self, name: str) -> dict[str, float]:
        """Measures one repetition."""
        return self._meter.measure(self._steps[name], images=self._batch, times=self._steps_per_repetition[name])
