"""Trains over the nodes of a trial, and compares the images/s with what the model of communication predicts.

Every node takes part with one rank: with its first GPU, or with all CPUs that SLURM granted. The result is what
`deeper plan` needs to predict runs that span nodes: the cost of an all-reduce between them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.planning.communication import AllReduceTiming
from bench.planning.rates import ACROSS_NODES
from bench.results.store import with_provenance
from bench.suites.harness.inputs import run_without_data
from bench.suites.scaling.prediction import SPEED, RankSet, predict, result_setting
from bench.suites.scaling.rank import SIZES, TimedRank
from reproduce.execution.process import prepare_process
from reproduce.execution.ranks import Ranks
from reproduce.models.cost import cost
from reproduce.spec import NetworkConfig, RunConfig

REPETITIONS = 5
FEWEST_REPETITIONS = 2
"""How often every arrangement trains if a single step takes longer than it should all in all."""
BATCH = {"gloo": 16, "nccl": 64}
"""Images of a node in a step, if no experiment is named."""


def read_run(path: Path | None, backend: str) -> RunConfig:
    """Read what every node trains: the run that `deeper slurm check` wrote, or GoogLeNet at 224 px if it wrote none."""
    if path is None:
        return run_without_data(NetworkConfig(), batch=BATCH[backend])
    return RunConfig.model_validate_json(path.read_text(encoding="utf-8"))


def measure_training(
    run: RunConfig, *, backend: str, threads: int, seconds: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train in interleaved repetitions: all nodes connected, all nodes without communication, and one alone.

    Collective: every rank of the default process group, one on each node, calls it with the same arguments but for
    `threads`.

    Args:
        run: What is trained. `recipe.batch_size` is the images of one node in a step.
        backend: Backend of the process group: "gloo" trains on CPUs, "nccl" on the first GPU of each node.
        threads: CPU threads of this node's rank.
        seconds: About how long each arrangement trains, in all repetitions together. Slow steps take longer, and are
            repeated less often.
        say: Is told the progress.

    Returns:
        The result, as `deeper bench` writes it; the same on every rank but for the description of the machine.

    Raises:
        RuntimeError: Another node has ended.
    """
    device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
    prepare_process(device, threads=threads)
    place, nodes = dist.get_rank(), dist.get_world_size()
    together = Ranks(place, nodes, device)
    run = run.model_copy(update={"workers": nodes})
    ours = RankSet(
        ranks=nodes, machines=nodes, backend=backend, batch=run.recipe.batch_size, side=run.recipe.resolution
    )
    rank = TimedRank(place, run, device)
    arrangements = {ours.connected: (nodes, True), ours.unconnected: (nodes, False), ours.one: (1, False)}

    def take_steps(count: int) -> dict[str, list[float | None]]:
        """Let every arrangement take `count` steps in turn, and return the seconds of each rank."""
        return {
            name: together.gather(rank.steps(count, taking_part, connected, threads))
            for name, (taking_part, connected) in arrangements.items()
        }

    warm_up = take_steps(1)  # tells how many steps there is time for
    step_s = max(took for seconds_of_ranks in warm_up.values() for took in seconds_of_ranks if took is not None)
    repetitions = min(REPETITIONS, max(FEWEST_REPETITIONS, round(seconds / step_s)))
    count = max(1, round(seconds / repetitions / step_s))
    about_s = repetitions * len(arrangements) * count * step_s
    say(f"{count} step{'s' * (count > 1)} in each of {repetitions} repetitions, at most {about_s:.0f} s")
    taken = [take_steps(count) for _ in range(repetitions)]
    measured = {
        name: [{SPEED: ours.images_per_s(count, taking_part, took[name])} for took in taken]
        for name, (taking_part, _) in arrangements.items()
    }
    timings = [AllReduceTiming(nodes, size, max(together.gather(rank.all_reduce(size)))) for size in SIZES]
    costs = cost(run.network, training=True)
    prediction = predict(ours, measured, timings, parameters=costs.parameters)
    setting = result_setting([prediction], timings, network=run.network, costs=costs, steps=count, threads=threads)
    comparisons = [prediction.comparison.to_record()]
    content = {"command": "deeper slurm check", "setting": setting, "comparisons": comparisons}
    return with_provenance(ACROSS_NODES, content)
