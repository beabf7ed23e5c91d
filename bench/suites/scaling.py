"""`deeper bench scaling`: images/s over the ranks of this machine, and how well the model of communication predicts it.

Weak scaling of the real step (bench.planning.communication has the model): every rank has the same batch and, on
CPUs, one thread. Ranks of one machine share its memory and its clock, so the base of the prediction is not one rank
on an idle machine but as many as there are, not connected. GPUs are used where there are two or more; that has not
been tried.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from pydantic import Field
from rich.console import Console

from bench.planning.communication import OVERLAP, AllReduceTiming, fit_link, step_seconds
from bench.planning.rates import rate_entry
from bench.suites.harness.child import Child, requests
from bench.suites.harness.comparison import Comparison, Figures, interleave, publish
from bench.suites.harness.inputs import random_batch, run_without_data
from reproduce.spec import Config, NetworkConfig, RunConfig, SpecError

SPEED = "images/s"
PREDICTED, ERROR = "predicted images/s", "error of it, %"
SIZES = tuple(4096 * 8**power for power in range(5))  # bytes; 16 MiB is the largest, DDP's buckets hold 25 at most
REPEATS = 10
STEPS, ALL_REDUCE = "steps", "all-reduce"
Team = Callable[..., list[Any]]
"""Has every rank do a job with its arguments; their answers by rank."""


class ScalingOptions(Config):
    """The step that is scaled."""

    ranks: int | None = Field(None, ge=2)
    """At most; None: the GPUs, or the cores of a machine without."""
    side: int = Field(224, ge=32)
    batch: int = Field(16, ge=2)
    """Images of a rank and step."""
    steps: int = Field(4, ge=1)
    """Of a round."""
    rounds: int = Field(5, ge=1)
    network: NetworkConfig = NetworkConfig()


def main(options: ScalingOptions, *, output: Path | None) -> int:
    """Run the benchmark and print its tables. Raises `SpecError`."""
    import torch

    from reproduce.models.cost import cost

    console = Console()
    gpus, cores = torch.cuda.device_count(), psutil.cpu_count(logical=False) or 1
    backend, places = ("nccl", gpus) if gpus > 1 else ("gloo", cores)
    most = options.ranks or places
    if not 2 <= most <= places:
        raise SpecError(
            f"ranks: {most} of {places} {'GPUs' if gpus > 1 else 'cores'}; scaling needs 2 or more that fit"
        )
    network = options.network.model_copy(update={"resolution": options.side})
    costs = cost(network, training=True)
    samples: list[AllReduceTiming] = []
    comparisons, links = [], []
    for ranks in world_sizes(most):
        comparison, found = _compare(ranks, backend, network, costs.parameters, options, console)
        comparisons.append(comparison)
        samples += found
        error = comparison.once[f"{ranks} ranks"][ERROR] / 100
        links.append({"ranks": ranks, "backend": backend, **asdict(fit_link(found)), "error": error})
    setting = {
        **options.model_dump(exclude={"ranks", "rounds", "network"}),
        "network": network.model_dump(),
        "threads a rank": 1,
        "overlap": OVERLAP[backend],
        "links": links,
        "rates": [rate_entry(costs, images_per_s=_busy_rank(comparisons[-1]), cpus=1 if backend == "gloo" else None)],
        "all-reduce": [asdict(sample) for sample in samples],
    }
    for link in links:
        console.print(
            f"{link['ranks']} ranks, {backend}: {1e6 * link['latency_s']:.0f} µs a message, "
            f"{link['bytes_per_s'] / 1e9:.2f} GB/s; prediction {100 * link['error']:+.1f} %",
            highlight=False,
        )
    return publish("scaling", comparisons, setting=setting, output=output, keep=True)


def world_sizes(most: int) -> list[int]:
    """2, 4, 8, ... and `most`."""
    sizes = [2**power for power in range(1, most.bit_length()) if 2**power < most]
    return [*sizes, most]


def _busy_rank(comparison: Comparison) -> float:
    """Images/s of one rank while the others work, too, and nothing is sent."""
    ours, base, *_ = comparison.rounds
    return median(figures[SPEED] for figures in comparison.rounds[base]) / int(ours.split()[0])


def _compare(
    ranks: int, backend: str, network: NetworkConfig, parameters: int, options: ScalingOptions, console: Console
) -> tuple[Comparison, list[AllReduceTiming]]:
    ours, base, one = f"{ranks} ranks", f"{ranks} ranks, not connected", "1 rank, the others idle"
    threads = {f"1 rank, {ranks} threads": ranks} if backend == "gloo" else {}
    run = run_without_data(network, batch=options.batch, workers=ranks)

    def measure(team: Team, taking_part: int, connected: bool, threads: int, index: int) -> Figures:
        seconds = [x for x in team(STEPS, options.steps, taking_part, connected, threads) if x is not None]
        return {SPEED: taking_part * options.batch * options.steps / max(seconds)}

    with _team(ranks, backend, run) as team:
        console.print(f"{ranks} ranks ...", highlight=False)
        rounds = interleave(
            {
                ours: partial(measure, team, ranks, True, 1),
                base: partial(measure, team, ranks, False, 1),
                one: partial(measure, team, 1, False, 1),
                **{name: partial(measure, team, 1, False, count) for name, count in threads.items()},
            },
            rounds=options.rounds,
            console=console,
        )
        samples = [AllReduceTiming(ranks, size, max(team(ALL_REDUCE, size))) for size in SIZES]
    alone_s = ranks * options.batch / median(figures[SPEED] for figures in rounds[base])
    predicted_s = step_seconds(
        fit_link(samples), alone_s=alone_s, ranks=ranks, parameters=parameters, overlap=OVERLAP[backend]
    )
    predicted = ranks * options.batch / predicted_s
    measured = median(figures[SPEED] for figures in rounds[ours])
    comparison = Comparison(
        name=ours,
        title=f"The same step on {ours} ({backend}), {options.batch} images of {options.side} px a rank",
        rounds=rounds,
        once={ours: {PREDICTED: predicted, ERROR: 100 * (predicted / measured - 1)}},
    )
    return comparison, samples


# --- ranks --------------------------------------------------------------------------------------------


@contextmanager
def _team(ranks: int, backend: str, run: RunConfig) -> Iterator[Team]:
    with tempfile.TemporaryDirectory(prefix="deeper-scaling-") as folder:
        rendezvous = f"file://{folder}/rendezvous"
        team = [Child(f"rank {rank}", _rank, rank, backend, run, rendezvous) for rank in range(ranks)]

        def ask(job: str, *arguments: Any) -> list[Any]:
            for member in team:
                member.send((job, arguments))
            return [member.answer() for member in team]

        try:
            yield ask
        finally:
            for member in team:
                member.close()
            for member in team:
                member.join()


def _rank(pipe: Connection, rank: int, backend: str, run: RunConfig, rendezvous: str) -> None:
    import torch
    import torch.distributed as dist

    from reproduce.execution.process import prepare_process
    from reproduce.execution.ranks import leave_process_group
    from reproduce.training.step import build_step

    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    prepare_process(device, threads=1)
    dist.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=run.workers)
    images, labels = random_batch(run, device)
    steps = {connected: build_step(run, device=device, distributed=connected) for connected in (True, False)}
    for step in steps.values():
        step.warm_up(images, labels)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def timed_steps(count: int, taking_part: int, connected: bool, threads: int) -> float | None:
        """Seconds of so many steps; None on ranks that stay idle."""
        torch.set_num_threads(threads)
        dist.barrier()
        if rank >= taking_part:
            return None
        start = time.perf_counter()
        for _ in range(count):
            steps[connected](images, labels, run.recipe.learning_rate)
        wait()
        return time.perf_counter() - start

    def timed_all_reduce(size: int) -> float:
        """Seconds of an all-reduce of so many bytes, median of `REPEATS`."""
        tensor = torch.zeros(size // 4, device=device)
        seconds = []
        for _ in range(REPEATS):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(tensor)
            wait()
            seconds.append(time.perf_counter() - start)
        return median(seconds)

    jobs: dict[str, Callable[..., float | None]] = {STEPS: timed_steps, ALL_REDUCE: timed_all_reduce}
    for job, arguments in requests(pipe):
        pipe.send(jobs[job](*arguments))
    leave_process_group()
