"""Measures implementations of a step in turn, each maker's in a worker process of their own.

Our process is set up like that of a run. Several processes are needed because in a single one, the kernels that cuDNN
has chosen for one network would also be used for the other, and engines change what torch does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from rich.console import Console

from bench.suites.harness.comparison import Measure, interleave
from bench.suites.harness.errors import MeasurementError, NotInstalledError
from bench.suites.harness.meter import Meter
from bench.suites.harness.worker_process import WorkerProcess, received_requests, worker_process
from bench.suites.step.implementations import STEPS, Makers
from bench.suites.step.inputs import StepFunction, step_inputs
from reproduce.execution.process import prepare_process
from reproduce.spec import NetworkConfig, PrecisionName


@dataclass(frozen=True, kw_only=True)
class StepWorkload:
    """The network, batch and mode that are measured, and the implementations that take part."""

    network: NetworkConfig
    """The network. Its `resolution` is the side of the images."""
    batch: int
    """Images in a step."""
    training: bool
    """Whether to train the network instead of evaluating it."""
    names: tuple[str, ...]
    """Names in `STEPS` of the implementations. Those that do not support the network are left out."""
    precision: PrecisionName = "auto"
    """The precision of ours."""
    repetition_s: float = 0.0
    """Shortest duration of a repetition in seconds, from which the number of steps is computed. 0 means one step."""


@dataclass(frozen=True)
class StepMeasurements:
    """The measurements of one workload, by the name of the implementation. Ours comes first."""

    repetitions: Mapping[str, Sequence[dict[str, float]]]
    """The measurements of all repetitions, as `Meter.measure` returns them."""
    first_s: Mapping[str, float]
    """Seconds of the first step or forward pass, in which kernels are chosen or compiled."""
    absent: Mapping[str, str]
    """For each implementation that could not be measured, the reason."""


@dataclass(frozen=True, kw_only=True)
class StepProcessOptions:
    """Options of a worker process: whose implementations it measures, its device, threads and choice of kernels."""

    device: torch.device
    threads: int
    """CPU threads of torch."""
    makers: Makers = "deeper"
    """Whose implementations the process measures."""
    cudnn_benchmark: bool = False
    """Whether cuDNN times its algorithms for each new shape, as in a long training. This takes about 15 s for each
    batch size."""
    deterministic: bool = False
    """Whether to use deterministic kernels only. It applies to a process with our implementations."""


class StepWorkers:
    """Measures workloads in worker processes, one for each maker of implementations.

    Args:
        processes: Worker processes that run `serve`, by maker, with ours first. The caller ends them.
    """

    def __init__(self, processes: Mapping[Makers, WorkerProcess]) -> None:
        self._processes = processes

    def measure(self, workload: StepWorkload, *, repetitions: int, console: Console) -> StepMeasurements:
        """Build all implementations of a workload, then measure them in interleaved repetitions.

        Args:
            workload: The workload.
            repetitions: Number of repetitions that are kept.
            console: Where progress is printed.

        Raises:
            WorkerProcessError: A worker process ended before it replied.
        """
        first_s: dict[str, float] = {}
        absent: dict[str, str] = {}
        implementations: dict[str, Measure] = {}
        for process in self._processes.values():
            built, failed = process.request(workload)
            absent.update(failed)
            first_s.update(built)
            implementations.update({name: process.measure(name) for name in built})
        measured = interleave(implementations, repetitions=repetitions, console=console)
        return StepMeasurements(measured, first_s, absent)


@contextmanager
def step_workers(
    device: torch.device, threads: int, *, cudnn_benchmark: bool = False, with_engines: bool = False
) -> Iterator[StepWorkers]:
    """Start the worker processes, which end when the block is left.

    Args:
        device: The device that all use.
        threads: CPU threads of torch in each process.
        cudnn_benchmark: Whether cuDNN times its algorithms for each new shape.
        with_engines: Whether a process for inference engines is among them.

    Yields:
        The object that measures workloads in the processes.
    """
    all_makers: tuple[Makers, ...] = ("deeper", "torchvision", *(("engines",) if with_engines else ()))
    with ExitStack() as stack:
        processes = {
            makers: stack.enter_context(
                worker_process(
                    makers,
                    serve,
                    StepProcessOptions(device=device, threads=threads, makers=makers, cudnn_benchmark=cudnn_benchmark),
                )
            )
            for makers in all_makers
        }
        yield StepWorkers(processes)


# --- in a worker process ------------------------------------------------------------------------------


def serve(pipe: Connection, options: StepProcessOptions) -> None:
    """Reply to requests in a worker process until the pipe is closed. Sets up torch for the whole process.

    A `StepWorkload` builds its implementations and takes a first step with each. The reply is a pair of mappings by
    implementation: the seconds of the first step, and for those that cannot take part, the reason. The request `(name,
    index of the repetition)` measures an implementation of the latest workload; the reply is the measurement.

    Args:
        pipe: The connection to the benchmark.
        options: The set-up of the process.
    """
    if options.makers == "deeper":
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
        """Build the implementations of a workload, replacing those of the previous one, and take their first step.

        Returns:
            The seconds of the first step, and for each implementation that cannot take part the reason, both by name.
        """
        first_s: dict[str, float] = {}
        absent: dict[str, str] = {}
        self._steps.clear()
        self._batch = workload.batch
        inputs = step_inputs(
            workload.network,
            workload.batch,
            self._options.device,
            training=workload.training,
            precision=workload.precision,
        )
        for name in workload.names:
            implementation = STEPS[name]
            if implementation.makers != self._options.makers or not implementation.supports(inputs):
                continue
            try:
                step = self._steps[name] = implementation.build(inputs)
                seconds = self._meter.seconds(step)
                step_s = self._meter.seconds(step) if workload.repetition_s else math.inf
            except torch.OutOfMemoryError:
                absent[name] = "out of memory"
                continue
            except (NotInstalledError, MeasurementError) as error:
                absent[name] = str(error)
                continue
            first_s[name] = seconds
            self._steps_per_repetition[name] = max(1, math.ceil(workload.repetition_s / step_s))
        return first_s, absent

    def measure(self, name: str) -> dict[str, float]:
        """Measure one repetition of an implementation of the latest workload."""
        return self._meter.measure(self._steps[name], images=self._batch, times=self._steps_per_repetition[name])
