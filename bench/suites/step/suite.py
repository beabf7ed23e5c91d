"""`deeper bench step`: measures our training step and our evaluation without data loading.

Measured: images/s of forward pass, backward pass and update, and of an evaluation, on random images that are already on
the device; on CPUs images per CPU-second; on GPUs images per joule and utilization, if NVML reports them.

Against: `torchvision.models.googlenet` in the forms of `bench.suites.step.implementations`, and the roofline: the
images/s that the device could reach with the arithmetic and the bytes of our network in our precision, layer by layer
(`reproduce.models.roofline`). Its ceilings are the best convolution or matrix product and the best copy that this
process measures before and after the repetitions. Our network has the layers of torchvision's port here, so that both
are the same network.

Interleaved: ours runs in one worker process, torchvision's in another, and inference engines, which are measured on
request and evaluate only, in a third. Each repetition measures all implementations,
one after the other. The first repetition is dropped.

Not shown: how fast training is from end to end, which needs a loader as well (`deeper bench training`); nor accuracy.
Images/s are valid for one machine only; ratios also apply to similar machines. On a GPU, only an earlier version of
this suite has been tried, once and by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import median
from typing import Annotated, Any

import torch
from pydantic import Field
from rich.console import Console

from bench.planning.rates import rate_entry
from bench.suites.harness.ceilings import measured_ceiling
from bench.suites.harness.comparison import Comparison, Goal
from bench.suites.harness.meter import CPU_SPEED, SPEED
from bench.suites.harness.reporting import ResultOutput, progress_console, report_comparisons
from bench.suites.step.implementations import (
    BASELINE,
    COMPILED,
    ENGINES,
    FLOAT32_COMPILED,
    OURS,
    step_names,
)
from bench.suites.step.inputs import port_network
from bench.suites.step.worker import StepMeasurements, StepWorkload, step_workers
from reproduce.execution.precision import resolve_precision
from reproduce.limits import usable_cores
from reproduce.models.cost import cost
from reproduce.models.roofline import Ceiling, roofline, seconds_per_image
from reproduce.spec import SMALLEST_INPUT, Auxiliary, Config, NetworkConfig, PrecisionName, Reduction

SHARE, FIRST = "of the roofline", "first pass, s"
PIXELS = {"cpu": 32 * 224**2, "cuda": 256 * 224**2}  # of all images in a step, unless --batch is given
REPETITION_S = {"cpu": 0.0, "cuda": 2.0}  # in two seconds NVML samples its device several times
GOALS = {
    ("cpu", "training"): (Goal(metric=SPEED, ours=OURS, baseline=BASELINE, at_least=3.0),),
    ("cpu", "evaluation"): (
        Goal(metric=SPEED, ours=OURS, baseline=BASELINE, at_least=4.0),
        *(Goal(metric=SPEED, ours=OURS, baseline=name, at_least=1.1) for name in (COMPILED, *ENGINES)),
    ),
    ("cpu, float32", "training"): (
        Goal(metric=CPU_SPEED, ours=OURS, baseline=BASELINE, at_least=1.6),
        Goal(metric=CPU_SPEED, ours=OURS, baseline="torchvision, channels_last", at_least=1.25),
    ),
    ("cpu, float32", "evaluation"): tuple(
        Goal(metric=CPU_SPEED, ours=OURS, baseline=name, at_least=1.1) for name in (FLOAT32_COMPILED, *ENGINES)
    ),
    ("cuda", "training"): (
        Goal(metric=SPEED, ours=OURS, baseline="torchvision, autocast", at_least=2.0),
        Goal(metric=SHARE, ours=OURS, at_least=0.6),
    ),
}
"""Goals by type of device, with the precision if one is asked for, and by mode. They apply to the comparisons at 224
pixels with reductions and both auxiliary classifiers, if the baseline is among those that were measured."""


class StepOptions(Config):
    """Options of `deeper bench step`: the networks, image sizes and implementations that are compared.

    Every combination of side, reduction and auxiliary classifiers is measured in training and in evaluation.
    """

    sides: tuple[Annotated[int, Field(ge=SMALLEST_INPUT)], ...] = (224, 64)
    """Sides of the images, in pixels."""
    batch: int | None = Field(None, ge=2)
    """Images in a step. None means 32 on CPUs and 256 on GPUs at 224 pixels; at other sides the number is chosen so
    that a batch has about the same number of pixels."""
    reductions: tuple[Reduction, ...] = ("reduced",)
    """The kinds of 1x1 reductions that the network has, see the glossary."""
    aux: tuple[Auxiliary, ...] = ("both",)
    """The auxiliary classifiers that the network has in training."""
    compiled: bool = False
    """Whether to measure the implementations that use torch.compile as well."""
    engines: bool = False
    """Whether to measure the evaluation by inference engines as well, those that are installed."""
    precision: PrecisionName = "auto"
    """The precision of ours, as in a recipe. In float32, implementations in bf16 are left out, and the goals are those
    of CPUs without bf16 arithmetic."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of torch. None means one for each physical core. With one thread, images per CPU-second are reliable
    even on a busy machine."""
    repetitions: int = Field(5, ge=1)
    """Repetitions that are kept, beside the first one, which is dropped."""


def main(options: StepOptions, *, output: ResultOutput) -> int:
    """Compare our training step and evaluation with torchvision's, and print and write the result.

    Unless a precision is asked for, the result is also kept in the user's cache, from which `deeper plan` takes rates.
    The benchmark uses the first GPU if there is one, and sets the number of torch threads of this process.

    Args:
        options: The networks, image sizes and implementations that are compared.
        output: Where the result goes beside the terminal.

    Returns:
        The exit code: 0 if every goal that applies is reached (see `GOALS`), 1 otherwise.

    Raises:
        WorkerProcessError: A worker process ended before it replied.
    """
    comparisons, setting = _measure(options, progress_console())
    automatic = options.precision == "auto"
    return report_comparisons(
        suite_name(options.precision), comparisons, setting=setting, output=output, keep_latest=automatic
    )


def suite_name(precision: PrecisionName) -> str:
    """Return the name of the result: `step` in the precision that a machine takes by itself, else `step-PRECISION`."""
    return "step" if precision == "auto" else f"step-{precision}"


def quick(console: Console) -> list[Comparison]:
    """Return the comparisons that have goals, measured with small batches in two repetitions.

    It takes about half a minute on 2 cores. Progress is printed to `console`. Nothing is written.
    """
    comparisons, _ = _measure(StepOptions(sides=(224,), batch=8, repetitions=2), console)
    return comparisons


def _measure(options: StepOptions, console: Console) -> tuple[list[Comparison], dict[str, Any]]:
    """Measure all workloads and the ceilings of the device, and return the comparisons and their setting."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    threads = options.threads or usable_cores()
    torch.set_num_threads(threads)
    dtype = resolve_precision(options.precision, device).dtype
    before = measured_ceiling(device, dtype)
    measured = []
    with step_workers(device, threads, cudnn_benchmark=True, with_engines=options.engines) as workers:
        for workload in _workloads(options, device):
            console.print(f"{_mode(workload)} at {workload.network.resolution} px ...", highlight=False)
            measured.append((workload, workers.measure(workload, repetitions=options.repetitions, console=console)))
    after = measured_ceiling(device, dtype)
    ceiling = Ceiling(
        flops_per_s=max(before.flops_per_s, after.flops_per_s), bytes_per_s=max(before.bytes_per_s, after.bytes_per_s)
    )
    console.print(
        f"ceiling in {dtype}: {ceiling.flops_per_s / 1e12:.3g} TFLOP/s, {ceiling.bytes_per_s / 1e9:.3g} GB/s",
        highlight=False,
    )
    comparisons, layers = [], {}
    for workload, measurements in measured:
        bounds = roofline(
            cost(workload.network, training=workload.training),
            ceiling,
            batch=workload.batch,
            training=workload.training,
            element_bytes=dtype.itemsize,
        )
        comparison = _comparison(workload, measurements, seconds_per_image(bounds), options, device)
        comparisons.append(comparison)
        layers[comparison.name] = [asdict(bound) for bound in bounds]
    cpus = threads if device.type == "cpu" else None
    dumped = options.model_dump()
    setting = {
        # The field names of result files, in which a repetition is a round.
        **{"rounds" if name == "repetitions" else name: value for name, value in dumped.items()},
        "device": str(device),
        "threads": threads,
        "precision": str(dtype).removeprefix("torch."),
        "ceiling": asdict(ceiling),
        "roofline": layers,
        "rates": [_rate(*measurement, cpus) for measurement in measured if measurement[0].training],
    }
    return comparisons, setting


def _workloads(options: StepOptions, device: torch.device) -> list[StepWorkload]:
    networks = [
        port_network(side, reduction=reduction, aux=aux)
        for side in options.sides
        for reduction in options.reductions
        for aux in options.aux
    ]
    return [
        StepWorkload(
            network=network,
            batch=options.batch or max(2, PIXELS[device.type] // network.resolution**2),
            training=training,
            names=step_names(compiled=options.compiled, precision=options.precision, with_engines=options.engines),
            precision=options.precision,
            repetition_s=REPETITION_S[device.type],
        )
        for network in networks
        for training in (True, False)
    ]


def _comparison(
    workload: StepWorkload,
    measurements: StepMeasurements,
    bound_s: float,
    options: StepOptions,
    device: torch.device,
) -> Comparison:
    """Return the comparison of a workload, in which each measurement has its share of the roofline as well.

    Args:
        workload: The workload that was measured.
        measurements: Its measurements.
        bound_s: The lower bound that the roofline gives for the seconds of one image.
        options: The options of the suite.
        device: The device that was measured.
    """
    network, mode = workload.network, _mode(workload)
    on = device.type if options.precision == "auto" else f"{device.type}, {options.precision}"
    has_goals = (network.resolution, network.reduction, network.aux) == (224, "reduced", "both")
    return Comparison(
        name=_name(network, mode, options),
        title=f"{mode.capitalize()}, {network.resolution} px, batch {workload.batch}, {network.reduction}, "
        f"auxiliary classifiers: {network.aux}",
        repetitions={
            name: [{**measurement, SHARE: measurement[SPEED] * bound_s} for measurement in repetitions]
            for name, repetitions in measurements.repetitions.items()
        },
        once={name: {FIRST: seconds} for name, seconds in measurements.first_s.items()},
        absent=measurements.absent,
        goals=tuple(
            goal
            for goal in (GOALS.get((on, mode), ()) if has_goals else ())
            if goal.baseline is None or goal.baseline in measurements.repetitions
        ),
    )


def _rate(workload: StepWorkload, measurements: StepMeasurements, cpus: int | None) -> Mapping[str, Any]:
    """Return the entry from which `deeper plan` takes the training speed of this network."""
    speed = median(measurement[SPEED] for measurement in measurements.repetitions[OURS])
    return rate_entry(cost(workload.network, training=True), images_per_s=speed, cpus=cpus)


def _mode(workload: StepWorkload) -> str:
    return "training" if workload.training else "evaluation"


def _name(network: NetworkConfig, mode: str, options: StepOptions) -> str:
    """Return the name of a comparison, for example `training-224`.

    The reduction and the auxiliary classifiers follow if `options` has several of them.
    """
    varied = ((options.reductions, network.reduction), (options.aux, f"heads-{network.aux}"))
    return "-".join([mode, str(network.resolution), *(name for values, name in varied if len(values) > 1)])
