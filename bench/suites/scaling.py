"""`deeper bench scaling`: measures how training scales over ranks of this machine, and whether the planner predicts it.

Measured: images/s of the real training step with the same batch on every rank (weak scaling) and, on CPUs, one thread
in every rank; and seconds of an all-reduce by size, to which the model of communication is fitted
(`bench.planning.communication`).

Against: the same ranks without any communication; one rank while the others are idle; on CPUs also one rank with one
thread for each of the ranks; and the images/s that the model predicts. The prediction starts from ranks that work at
the same time without communication, rather than from one rank on an idle machine, because the ranks of a machine share
its memory bandwidth and its clock rate.

Interleaved: the ranks stay alive. Each repetition measures all arrangements, one after the other. The first repetition
is dropped.

Not shown: anything about a network between machines, because all ranks are on this one; and data loading. On a machine
with two or more GPUs the ranks use them, which has not been tried yet.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from pydantic import Field
from rich.console import Console

from bench.planning.communication import OVERLAP, AllReduceTiming, fit_link, step_seconds
from bench.planning.rates import rate_entry
from bench.suites.harness.ceilings import synchronise
from bench.suites.harness.comparison import Comparison, Measurement, interleave
from bench.suites.harness.inputs import random_batch, run_without_data
from bench.suites.harness.reporting import ResultOutput, progress_console, report_comparisons
from bench.suites.harness.worker_process import WorkerProcess, receive_all, received_requests
from reproduce.errors import UserError
from reproduce.execution.process import prepare_process
from reproduce.execution.ranks import leave_process_group
from reproduce.limits import usable_cores
from reproduce.models.cost import cost
from reproduce.spec import Config, NetworkConfig, RunConfig
from reproduce.training.step import build_step

SPEED = "images/s"
PREDICTED, ERROR = "predicted images/s", "error of it, %"
SIZES = tuple(4096 * 8**power for power in range(5))  # bytes; DDP's buckets hold up to 25 MiB
ALL_REDUCES = 10  # of each size
STEPS, ALL_REDUCE = "steps", "all-reduce"
AskRanks = Callable[..., list[Any]]
"""Sends a request, `STEPS` or `ALL_REDUCE` with its arguments, to every rank, and waits for all replies.

The result lists the replies in the order of the ranks. Raises `WorkerProcessError` if the process of a rank has ended.
"""


class ScalingOptions(Config):
    """Options of `deeper bench scaling`: the numbers of ranks, the training step and the repetitions."""

    ranks: int | None = Field(None, ge=2)
    """The largest number of ranks. None means one for each GPU, or one for each physical core if the machine has fewer
    than two GPUs."""
    side: int = Field(224, ge=32)
    """Side of the images, in pixels. It replaces `network.resolution`."""
    batch: int = Field(16, ge=2)
    """Images in a step of one rank."""
    steps: int = Field(4, ge=1)
    """Steps in a repetition."""
    repetitions: int = Field(5, ge=1)
    """Repetitions that are kept, beside the first one, which is dropped."""
    network: NetworkConfig = NetworkConfig()
    """The network that is trained."""


def main(options: ScalingOptions, *, output: ResultOutput) -> int:
    """Measure training with 2, 4, 8, ... ranks on this machine, and print and write the result.

    The result is also kept in the user's cache, from which `deeper plan` takes rates and the cost of communication.

    Args:
        options: The numbers of ranks, the training step and the repetitions.
        output: Where the result goes beside the terminal.

    Returns:
        The exit code. It is always 0, because the benchmark has no goals.

    Raises:
        UserError: `options.ranks` exceeds the number of GPUs, or of physical cores if there are fewer than two GPUs; or
            the machine has one core and fewer than two GPUs.
        WorkerProcessError: The process of a rank ended before it replied.
    """
    console = progress_console()
    gpus, cores = torch.cuda.device_count(), usable_cores()
    backend, devices = ("nccl", gpus) if gpus > 1 else ("gloo", cores)
    max_ranks = options.ranks or devices
    if not 2 <= max_ranks <= devices:
        raise UserError(
            f"ranks: {max_ranks} of {devices} {'GPUs' if gpus > 1 else 'cores'}; scaling needs 2 or more that fit"
        )
    network = options.network.model_copy(update={"resolution": options.side})
    costs = cost(network, training=True)
    samples: list[AllReduceTiming] = []
    comparisons, links = [], []
    for ranks in world_sizes(max_ranks):
        comparison, measured = _compare(ranks, backend, network, costs.parameters, options, console)
        comparisons.append(comparison)
        samples += measured
        error = comparison.once[f"{ranks} ranks"][ERROR] / 100
        links.append({"ranks": ranks, "backend": backend, **asdict(fit_link(measured)), "error": error})
    rate = rate_entry(
        costs,
        images_per_s=_images_per_s_of_busy_rank(comparisons[-1]),
        cpus=1 if backend == "gloo" else None,
    )
    setting = {
        **options.model_dump(exclude={"ranks", "repetitions", "network"}),
        "network": network.model_dump(),
        "threads a rank": 1,
        "overlap": OVERLAP[backend],
        "links": links,
        "rates": [rate],
        "all-reduce": [asdict(sample) for sample in samples],
    }
    for link in links:
        output.table_console().print(
            f"{link['ranks']} ranks, {backend}: {1e6 * link['latency_s']:.0f} µs a message, "
            f"{link['bytes_per_s'] / 1e9:.2f} GB/s; prediction {100 * link['error']:+.1f} %",
            highlight=False,
        )
    return report_comparisons("scaling", comparisons, setting=setting, output=output, keep_latest=True)


def world_sizes(max_ranks: int) -> list[int]:
    """List the numbers of ranks to measure: the powers of two from 2 that are below `max_ranks`, then `max_ranks`."""
    sizes = [2**power for power in range(1, max_ranks.bit_length()) if 2**power < max_ranks]
    return [*sizes, max_ranks]


def _images_per_s_of_busy_rank(comparison: Comparison) -> float:
    """Return the median images/s of one rank while all other ranks work as well and none communicates."""
    ours, base, *_ = comparison.repetitions
    return median(measurement[SPEED] for measurement in comparison.repetitions[base]) / int(ours.split()[0])


def _compare(
    ranks: int, backend: str, network: NetworkConfig, parameters: int, options: ScalingOptions, console: Console
) -> tuple[Comparison, list[AllReduceTiming]]:
    """Measure one number of ranks.

    Args:
        ranks: Number of ranks, at least 2.
        backend: Backend of torch.distributed: "gloo" on CPUs, "nccl" on GPUs.
        network: The network that is trained.
        parameters: Number of its parameters in training.
        options: The batch size, the steps of a repetition and the number of repetitions.
        console: Where progress is printed.

    Returns:
        The comparison, and the all-reduces that the model of communication was fitted to.
    """
    ours, base, one = f"{ranks} ranks", f"{ranks} ranks, not connected", "1 rank, the others idle"
    threads = {f"1 rank, {ranks} threads": ranks} if backend == "gloo" else {}
    run = run_without_data(network, batch=options.batch, workers=ranks)

    def measure(ask: AskRanks, taking_part: int, connected: bool, threads: int, index: int) -> Measurement:
        seconds = [x for x in ask(STEPS, options.steps, taking_part, connected, threads) if x is not None]
        return {SPEED: taking_part * options.batch * options.steps / max(seconds)}

    with _started_ranks(ranks, backend, run) as ask:
        console.print(f"{ranks} ranks ...", highlight=False)
        repetitions = interleave(
            {
                ours: partial(measure, ask, ranks, True, 1),
                base: partial(measure, ask, ranks, False, 1),
                one: partial(measure, ask, 1, False, 1),
                **{name: partial(measure, ask, 1, False, count) for name, count in threads.items()},
            },
            repetitions=options.repetitions,
            console=console,
        )
        samples = [AllReduceTiming(ranks, size, max(ask(ALL_REDUCE, size))) for size in SIZES]
    alone_s = ranks * options.batch / median(measurement[SPEED] for measurement in repetitions[base])
    link = fit_link(samples)
    predicted_s = step_seconds(link, alone_s=alone_s, ranks=ranks, parameters=parameters, overlap=OVERLAP[backend])
    predicted = ranks * options.batch / predicted_s
    measured = median(measurement[SPEED] for measurement in repetitions[ours])
    comparison = Comparison(
        name=ours,
        title=f"The same step on {ours} ({backend}), {options.batch} images of {options.side} px a rank",
        repetitions=repetitions,
        once={ours: {PREDICTED: predicted, ERROR: 100 * (predicted / measured - 1)}},
    )
    return comparison, samples


# --- ranks --------------------------------------------------------------------------------------------


@contextmanager
def _started_ranks(ranks: int, backend: str, run: RunConfig) -> Iterator[AskRanks]:
    """Start a worker process for each rank, and yield a function that sends requests to all of them.

    The processes end when the block is left.
    """
    with tempfile.TemporaryDirectory(prefix="deeper-scaling-") as folder:
        rendezvous = f"file://{folder}/rendezvous"
        workers = [WorkerProcess(f"rank {rank}", _serve_rank, rank, backend, run, rendezvous) for rank in range(ranks)]

        def ask(name: str, *arguments: Any) -> list[Any]:
            for worker in workers:
                worker.send((name, arguments))
            return receive_all(workers)

        try:
            yield ask
        except BaseException:
            for worker in workers:
                worker.kill()  # otherwise those that wait for one that has died do so until the backend's time-out
            raise
        finally:
            for worker in workers:
                worker.close()
            for worker in workers:
                worker.join()


def _serve_rank(pipe: Connection, rank: int, backend: str, run: RunConfig, rendezvous: str) -> None:
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    prepare_process(device, threads=1)
    dist.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=run.workers)
    images, labels = random_batch(run, device)
    steps = {connected: build_step(run, device=device, distributed=connected) for connected in (True, False)}
    for step in steps.values():
        step.warm_up(images, labels)

    def timed_steps(count: int, taking_part: int, connected: bool, threads: int) -> float | None:
        """Take `count` steps after a barrier of all ranks.

        Args:
            count: Number of steps.
            taking_part: Number of ranks that take steps; the ranks from this number upwards stay idle.
            connected: Whether gradients are averaged over the ranks. If so, all ranks have to take part.
            threads: CPU threads of this rank.

        Returns:
            Seconds of all steps together, or None on an idle rank.
        """
        torch.set_num_threads(threads)
        dist.barrier()
        if rank >= taking_part:
            return None
        start = time.perf_counter()
        for _ in range(count):
            steps[connected](images, labels, run.recipe.learning_rate)
        synchronise(device)
        return time.perf_counter() - start

    def timed_all_reduce(size: int) -> float:
        """Return the median seconds of an all-reduce of `size` bytes. All ranks call it together."""
        tensor = torch.zeros(size // 4, device=device)
        seconds = []
        for _ in range(ALL_REDUCES):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(tensor)
            synchronise(device)
            seconds.append(time.perf_counter() - start)
        return median(seconds)

    functions: dict[str, Callable[..., float | None]] = {STEPS: timed_steps, ALL_REDUCE: timed_all_reduce}
    for name, arguments in received_requests(pipe):
        pipe.send(functions[name](*arguments))
    leave_process_group()
