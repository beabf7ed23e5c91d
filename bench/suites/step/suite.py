"""`deeper bench step`: forward, backward and update on random images that lie ready, ours against torchvision's.

The forms are those of `bench.suites.step.implementations`. Ours is in the port's form, so that both networks are the
same. Ours and torchvision's run in a process each, ours prepared as a run's is.

"Of the roofline": the share of the images/s that the device could give, by our network's arithmetic and bytes in our
precision, layer by layer (`reproduce.models.roofline`), and by the best convolution or product and the copy that this
process measured before and after the rounds. The parts for GPUs have not been run on one yet.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import psutil
import torch
from pydantic import Field
from rich.console import Console

from bench.planning.rates import rate_entry
from bench.suites.harness.ceilings import measured_ceiling
from bench.suites.harness.comparison import Comparison, Goal, publish
from bench.suites.harness.meter import SPEED
from bench.suites.step.implementations import OURS, PEER, names, port
from bench.suites.step.process import Job, benches
from reproduce.execution.precision import resolve_precision
from reproduce.models.cost import cost
from reproduce.models.roofline import Ceiling, roofline, seconds_per_image
from reproduce.spec import SMALLEST_INPUT, Auxiliary, Config, NetworkConfig, Reduction

SHARE, FIRST = "of the roofline", "first pass, s"
PIXELS = {"cpu": 32 * 224**2, "cuda": 256 * 224**2}  # of a step without --batch
REPETITION_S = {"cpu": 0.0, "cuda": 2.0}  # of a round; in two seconds NVML samples its device several times
GOALS = {
    ("cpu", "training"): (Goal(figure=SPEED, ours=OURS, peer=PEER, at_least=3.0),),
    ("cpu", "evaluation"): (Goal(figure=SPEED, ours=OURS, peer=PEER, at_least=4.0),),
    ("cuda", "training"): (
        Goal(figure=SPEED, ours=OURS, peer="torchvision, autocast", at_least=2.0),
        Goal(figure=SHARE, ours=OURS, at_least=0.6),
    ),
}
"""At 224 pixels. End to end, `deeper bench training` wants 3.3 and 4.0 on CPUs."""


class StepOptions(Config):
    """What is measured."""

    sides: tuple[Annotated[int, Field(ge=SMALLEST_INPUT)], ...] = (224, 64)
    batch: int | None = Field(None, ge=2)
    """Images a step; None: 32 at 224 pixels on CPUs, 256 on GPUs, as many pixels at other sides."""
    reductions: tuple[Reduction, ...] = ("reduced",)
    aux: tuple[Auxiliary, ...] = ("both",)
    compiled: bool = False
    threads: int | None = Field(None, ge=1)
    """Of torch; None: the cores. With one, figures per CPU-second hold on a machine that others use."""
    rounds: int = Field(5, ge=1)


def main(options: StepOptions, *, output: Path | None) -> int:
    """Run the benchmark and print its tables; 0 where each goal is reached, else 1. Raises `SpecError`."""
    comparisons, setting = _compare(options, Console())
    return publish("step", comparisons, setting=setting, output=output, keep=True)


def quick(console: Console) -> list[Comparison]:
    """The comparisons that have the goals, in small batches and two rounds: half a minute."""
    comparisons, _ = _compare(StepOptions(sides=(224,), batch=8, rounds=2), console)
    return comparisons


def _compare(options: StepOptions, console: Console) -> tuple[list[Comparison], dict[str, Any]]:
    """The comparisons and their setting."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    threads = options.threads or psutil.cpu_count(logical=False) or 1
    torch.set_num_threads(threads)
    networks = [
        port(side, reduction=reduction, aux=aux)
        for side in options.sides
        for reduction in options.reductions
        for aux in options.aux
    ]
    dtype = resolve_precision("auto", device).dtype
    ceiling = measured_ceiling(device, dtype)
    measured = []
    with benches(device, threads, timed=True) as both:
        for network in networks:
            batch = options.batch or max(2, PIXELS[device.type] // network.resolution**2)
            for mode in ("training", "evaluation"):
                console.print(f"{mode} at {network.resolution} px ...", highlight=False)
                job = Job(
                    network=network,
                    batch=batch,
                    training=mode == "training",
                    names=names(compiled=options.compiled),
                    repetition_s=REPETITION_S[device.type],
                )
                measured.append((job, both.measure(job, rounds=options.rounds, console=console)))
    again = measured_ceiling(device, dtype)
    ceiling = Ceiling(
        flops_per_s=max(ceiling.flops_per_s, again.flops_per_s), bytes_per_s=max(ceiling.bytes_per_s, again.bytes_per_s)
    )
    console.print(
        f"ceiling in {dtype}: {ceiling.flops_per_s / 1e12:.3g} TFLOP/s, {ceiling.bytes_per_s / 1e9:.3g} GB/s",
        highlight=False,
    )
    comparisons, layers, rates = [], {}, []
    for job, found in measured:
        network, batch, training = job.network, job.batch, job.training
        mode = "training" if training else "evaluation"
        bounds = roofline(
            cost(network, training=training), ceiling, batch=batch, training=training, element_bytes=dtype.itemsize
        )
        name = _name(network, mode, options)
        layers[name] = [asdict(bound) for bound in bounds]
        if training:
            speed = median(figures[SPEED] for figures in found.rounds[OURS])
            cpus = threads if device.type == "cpu" else None
            rates.append(rate_entry(cost(network, training=True), images_per_s=speed, cpus=cpus))
        comparisons.append(
            Comparison(
                name=name,
                title=f"{mode.capitalize()}, {network.resolution} px, batch {batch}, {network.reduction}, "
                f"heads: {network.aux}",
                rounds={
                    contestant: [
                        {**figures, SHARE: figures[SPEED] * seconds_per_image(bounds)} for figures in of_contestant
                    ]
                    for contestant, of_contestant in found.rounds.items()
                },
                once={form: {FIRST: seconds} for form, seconds in found.first_s.items()},
                absent=found.absent,
                goals=_goals(network, mode, device),
            )
        )
    setting = {
        **options.model_dump(),
        "device": str(device),
        "threads": threads,
        "precision": str(dtype).removeprefix("torch."),
        "ceiling": asdict(ceiling),
        "roofline": layers,
        "rates": rates,
    }
    return comparisons, setting


def _name(network: NetworkConfig, mode: str, options: StepOptions) -> str:
    """Mode and side, e.g. training-224, with reduction and heads where they are varied."""
    varied = ((options.reductions, network.reduction), (options.aux, f"heads-{network.aux}"))
    return "-".join([mode, str(network.resolution), *(name for all_, name in varied if len(all_) > 1)])


def _goals(network: NetworkConfig, mode: str, device: torch.device) -> tuple[Goal, ...]:
    stated = (network.resolution, network.reduction, network.aux) == (224, "reduced", "both")
    return GOALS.get((device.type, mode), ()) if stated else ()
