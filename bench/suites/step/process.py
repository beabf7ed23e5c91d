"""Forms of a step measured in turn, ours in one process, prepared as a run's is, torchvision's in another.

In one process the kernels that cuDNN has chosen for ours would serve torchvision's, too, or the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from rich.console import Console

from bench.suites.harness.child import Child, child, requests
from bench.suites.harness.comparison import Contestant, interleave
from bench.suites.harness.meter import Meter
from bench.suites.step.implementations import FORMS, OURS, PEER, Work, case
from reproduce.execution.process import prepare_process
from reproduce.spec import NetworkConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is measured."""

    network: NetworkConfig
    batch: int
    training: bool
    names: tuple[str, ...]
    """Of `FORMS`; those that there are of this network."""
    repetition_s: float = 0.0
    """Least length of a repetition, which has one step at least."""


@dataclass(frozen=True)
class Measured:
    """By name of the form, ours first."""

    rounds: Mapping[str, Sequence[dict[str, float]]]
    first_s: Mapping[str, float]
    """Seconds of the first pass, in which kernels are chosen or compiled."""
    absent: Mapping[str, str]
    """Why a form could not be measured."""


class Benches:
    """The two processes."""

    def __init__(self, processes: Sequence[Child]) -> None:
        self._processes = processes

    def measure(self, job: Job, *, rounds: int, console: Console) -> Measured:
        first_s: dict[str, float] = {}
        absent: dict[str, str] = {}
        contestants: dict[str, Contestant] = {}
        for process in self._processes:
            first, failed = process.ask(job)
            absent.update(failed)
            first_s.update(first)
            contestants.update({name: process.contestant(name) for name in first})
        return Measured(interleave(contestants, rounds=rounds, console=console), first_s, absent)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Of a process."""

    device: torch.device
    threads: int
    ours: bool = True
    timed: bool = False
    """Whether cuDNN times its algorithms for each new shape, as in a long training; takes some 15 s for each batch."""
    deterministic: bool = False


@contextmanager
def benches(device: torch.device, threads: int, *, timed: bool = False) -> Iterator[Benches]:
    ours, peers = (Setup(device=device, threads=threads, ours=whose, timed=timed) for whose in (True, False))
    with child(OURS, serve, ours) as one, child(PEER, serve, peers) as other:
        yield Benches((one, other))


# --- in a process ---------------------------------------------------------------------------------------


def serve(pipe: Connection, setup: Setup) -> None:
    """Answers a job with the first passes of its forms and why others failed, a name and round with its figures."""
    device = setup.device
    if setup.ours:
        prepare_process(device, setup.threads, deterministic=setup.deterministic)
    else:
        torch.set_num_threads(setup.threads)
    torch.backends.cudnn.benchmark = setup.timed
    meter = Meter(device)
    work: dict[str, Work] = {}
    times: dict[str, int] = {}
    job: Job
    for request in requests(pipe):
        match request:
            case Job():
                job, absent, first = request, {}, {}
                work.clear()
                one = case(job.network, job.batch, device, training=job.training)
                for name in job.names:
                    if FORMS[name].ours != setup.ours or not FORMS[name].takes(one):
                        continue
                    try:
                        work[name] = FORMS[name].build(one)
                        seconds = meter.seconds(work[name])
                        step_s = meter.seconds(work[name]) if job.repetition_s else math.inf
                    except torch.OutOfMemoryError:
                        absent[name] = "out of memory"
                        continue
                    first[name], times[name] = seconds, max(1, math.ceil(job.repetition_s / step_s))
                pipe.send((first, absent))
            case (name, _):
                pipe.send(meter.figures(work[name], images=job.batch, times=times[name]))
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the other process wants it, too
