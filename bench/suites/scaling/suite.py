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

Not shown: data loading, and anything about a network between machines, because all ranks are on this one; `deeper slurm
check` measures the same over the nodes of a job. On a machine with two or more GPUs the ranks use them, which has not
been tried yet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from pydantic import Field
from rich.console import Console

from bench.planning.communication import AllReduceTiming
from bench.suites.harness.comparison import Measurement, interleave
from bench.suites.harness.inputs import run_without_data
from bench.suites.harness.reporting import ResultOutput, progress_console, report_comparisons
from bench.suites.harness.worker_process import WorkerProcess, receive_all, received_requests
from bench.suites.scaling.prediction import SPEED, Prediction, RankSet, predict, result_setting
from bench.suites.scaling.rank import SIZES, TimedRank
from reproduce.errors import UserError
from reproduce.execution.process import prepare_process
from reproduce.execution.ranks import leave_process_group
from reproduce.limits import usable_cores
from reproduce.models.cost import cost
from reproduce.spec import Config, NetworkConfig, RunConfig

RANKS_PER_CORE = 2
"""The most ranks that share a core, for those who check the model with more ranks than the machine has cores."""
THREADS_OF_RANK = 1
STEPS, ALL_REDUCE = "steps", "all-reduce"
AskRanks = Callable[..., list[Any]]
"""Sends a request, `STEPS` or `ALL_REDUCE` with its arguments, to every rank, and waits for all replies.

The result lists the replies in the order of the ranks. Raises `WorkerProcessError` if the process of a rank has ended.
"""


class ScalingOptions(Config):
    """Options of `deeper bench scaling`: the numbers of ranks, the training step and the repetitions."""

    ranks: int | None = Field(None, ge=2)
    """The largest number of ranks. None means one for each GPU, or one for each core if the machine has fewer than two
    GPUs. Up to `RANKS_PER_CORE` ranks may share a core."""
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
        The exit code: 0 if every prediction is within `TOLERANCE` of what was measured, 1 otherwise.

    Raises:
        UserError: `options.ranks` exceeds the number of GPUs, or `RANKS_PER_CORE` times that of cores if there are
            fewer than two GPUs; or the machine has one core and fewer than two GPUs.
        WorkerProcessError: The process of a rank ended before it replied.
    """
    console = progress_console()
    gpus, cores = torch.cuda.device_count(), usable_cores()
    backend, devices = ("nccl", gpus) if gpus > 1 else ("gloo", cores)
    limit = devices * RANKS_PER_CORE if backend == "gloo" and devices > 1 else devices
    max_ranks = options.ranks or devices
    if not 2 <= max_ranks <= limit:
        raise UserError(
            f"ranks: {max_ranks} of {devices} {'GPUs' if gpus > 1 else 'cores'}; scaling needs 2 or more that fit"
            + f", or up to {limit} that share the cores" * (limit > devices)
        )
    network = options.network.model_copy(update={"resolution": options.side})
    run = run_without_data(network, batch=options.batch)
    costs = cost(network, training=True)
    timings: list[AllReduceTiming] = []
    predictions, fitting = [], []
    for ranks in world_sizes(max_ranks, devices):
        place = f" on {devices} cores" if ranks > devices else ""
        prediction, measured = _measure(ranks, place, backend, run, costs.parameters, options, console)
        predictions.append(prediction)
        timings += measured
        if ranks <= devices:  # `deeper plan` knows no ranks that share a core
            fitting.append(prediction)
    setting = result_setting(
        fitting, timings, network=network, costs=costs, steps=options.steps, threads=THREADS_OF_RANK
    )
    for link in (prediction.link for prediction in predictions):
        output.table_console().print(
            f"{link['ranks']} ranks, {backend}: {1e6 * link['latency_s']:.0f} µs a message, "
            f"{link['bytes_per_s'] / 1e9:.2f} GB/s; prediction {100 * link['error']:+.1f} %",
            highlight=False,
        )
    comparisons = [prediction.comparison for prediction in predictions]
    return report_comparisons("scaling", comparisons, setting=setting, output=output, keep_latest=True)


def world_sizes(max_ranks: int, devices: int) -> list[int]:
    """List the numbers of ranks to measure, in ascending order.

    They are the powers of two from 2 that are below `max_ranks`, then `max_ranks`, and the number of devices if that is
    below it.
    """
    sizes = {2**power for power in range(1, max_ranks.bit_length()) if 2**power < max_ranks}
    return sorted(sizes | {max_ranks, min(max_ranks, devices)})


def _measure(
    ranks: int, place: str, backend: str, run: RunConfig, parameters: int, options: ScalingOptions, console: Console
) -> tuple[Prediction, list[AllReduceTiming]]:
    """Measure one number of ranks.

    Args:
        ranks: Number of ranks, at least 2.
        place: What they share if they are more than the cores, for the title.
        backend: Backend of torch.distributed: "gloo" on CPUs, "nccl" on GPUs.
        run: What every rank trains.
        parameters: Number of parameters of its network in training.
        options: The steps of a repetition and the number of repetitions.
        console: Where progress is printed.

    Returns:
        The comparison with the prediction, and the all-reduces that the model of communication was fitted to.
    """
    ours = RankSet(ranks=ranks, backend=backend, batch=options.batch, side=options.side)
    threads = {f"1 rank, {ranks} threads": ranks} if backend == "gloo" and not place else {}

    def measure(ask: AskRanks, taking_part: int, connected: bool, threads: int, index: int) -> Measurement:
        seconds = ask(STEPS, options.steps, taking_part, connected, threads)
        return {SPEED: ours.images_per_s(options.steps, taking_part, seconds)}

    with _started_ranks(ranks, backend, run.model_copy(update={"workers": ranks})) as ask:
        console.print(f"{ours.connected}{place} ...", highlight=False)
        repetitions = interleave(
            {
                ours.connected: partial(measure, ask, ranks, True, THREADS_OF_RANK),
                ours.unconnected: partial(measure, ask, ranks, False, THREADS_OF_RANK),
                ours.one: partial(measure, ask, 1, False, THREADS_OF_RANK),
                **{name: partial(measure, ask, 1, False, count) for name, count in threads.items()},
            },
            repetitions=options.repetitions,
            console=console,
        )
        timings = [AllReduceTiming(ranks, size, max(ask(ALL_REDUCE, size))) for size in SIZES]
    return predict(ours, repetitions, timings, parameters=parameters, place=place), timings


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
    prepare_process(device, threads=THREADS_OF_RANK)
    dist.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=run.workers)
    own = TimedRank(rank, run, device)
    functions: dict[str, Callable[..., float | None]] = {STEPS: own.steps, ALL_REDUCE: own.all_reduce}
    for name, arguments in received_requests(pipe):
        pipe.send(functions[name](*arguments))
    leave_process_group()
