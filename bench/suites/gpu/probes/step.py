"""Measures a training step and an evaluation in all implementations: images/s, share of the roofline, images/J."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from rich.console import Console

from bench.planning.rates import rate_entry
from bench.suites.gpu.probe import ProbeContext, Reporter, Value
from bench.suites.harness.ceilings import measured_ceiling
from bench.suites.harness.meter import BUSY, JOULE, SPEED
from bench.suites.step.implementations import GRAPHED, OURS, STEPS, step_names
from bench.suites.step.inputs import port_network
from bench.suites.step.worker import StepMeasurements, StepWorkers, StepWorkload, step_workers
from reproduce.execution.precision import resolve_precision
from reproduce.models.cost import cost
from reproduce.models.roofline import Ceiling, roofline, seconds_per_image
from reproduce.spec import NetworkConfig

REPETITIONS = 3
RANGE, SHARE, POWER, FIRST = "range, %", "roofline", "W", "first, s"
BEST_BASELINE = "torchvision, channels_last, autocast"
COMPILED = tuple(name for name, implementation in STEPS.items() if implementation.compiled)
ENERGY_S = 4.0  # of one repetition, in which the energy counter of the device advances some ten times
PUBLISHED = {  # soumith/convnet-benchmarks, README: GoogLeNet V1, Titan X, batch 128, forward and backward
    "published: neon, fp16, Titan X": 556.0,
    "published: cuDNN R4, fp16, Titan X": 277.0,
}


class StepBench:
    """Measures workloads in two worker processes, and reports a table for each workload.

    The constructor measures the ceilings of the device, which takes seconds.

    Args:
        context: The device and the sizes of the work.
        reporter: Receives the tables and notes.
        workers: The worker processes, see `step_workers`.
        note: Text that is appended to the description of the workload in the title of a table.
    """

    def __init__(self, context: ProbeContext, reporter: Reporter, workers: StepWorkers, note: str = "") -> None:
        self._context, self._reporter, self._workers, self._note = context, reporter, workers, note
        self._dtype = resolve_precision("auto", context.device).dtype
        reporter.progress("ceilings")
        self._ceiling = measured_ceiling(context.device, self._dtype)

    def workload(
        self, network: NetworkConfig, batch: int, *, training: bool = True, names: Sequence[str]
    ) -> StepWorkload:
        """Return a workload whose repetitions last at least `WorkloadSize.repetition_s`.

        Args:
            network: The network.
            batch: Images in a step.
            training: Whether to train the network instead of evaluating it.
            names: Names in `STEPS` of the implementations to measure.
        """
        repetition_s = self._context.size.repetition_s
        return StepWorkload(
            network=network, batch=batch, training=training, names=tuple(names), repetition_s=repetition_s
        )

    def measure(self, workload: StepWorkload) -> StepMeasurements:
        """Measure a workload in interleaved repetitions, and report a note on each implementation that is absent."""
        mode = "training" if workload.training else "evaluation"
        title = f"{mode}, batch {workload.batch}, {workload.network.reduction}"
        self._reporter.progress(title)
        measurements = self._workers.measure(workload, repetitions=REPETITIONS, console=Console())
        for name, why in measurements.absent.items():
            self._reporter.note(f"{title}: {name}: {why}")
        return measurements

    def rows(self, workload: StepWorkload, measurements: StepMeasurements) -> dict[str, dict[str, Value]]:
        """Compute the rows of a table, one for each implementation, by name.

        Args:
            workload: The workload that was measured.
            measurements: Its measurements.

        Returns:
            For each implementation the values of `medians`; under `SHARE` its images/s as a share of those that the
            roofline allows; and under `FIRST` the seconds of its first step or forward pass.
        """
        bound_s = _bound_seconds_per_image(workload, self._ceiling, self._dtype.itemsize)
        rows: dict[str, dict[str, Value]] = {}
        for name, repetitions in measurements.repetitions.items():
            middle = medians(repetitions)
            rows[name] = {**middle, SHARE: middle[SPEED] * bound_s, FIRST: measurements.first_s[name]}
        return rows

    def report(
        self, workload: StepWorkload, extra: Mapping[str, Mapping[str, Value]] = {}
    ) -> dict[str, dict[str, Value]]:
        """Measure a workload and report its table.

        Args:
            workload: The workload.
            extra: Further rows of the table by name, such as published speeds.

        Returns:
            The measured rows by implementation, as `rows` returns them, without those of `extra`.
        """
        rows = self.rows(workload, self.measure(workload))
        self._reporter.table(_title(workload, self._note), {**rows, **extra})
        return rows


def _title(workload: StepWorkload, note: str) -> str:
    network = workload.network
    norm = "" if network.norm == "batch" else ", no normalisation"
    return (
        f"{'training' if workload.training else 'evaluation'}, {network.resolution} px, batch {workload.batch}, "
        f"{network.reduction}, auxiliary classifiers: {network.aux}{norm}{note}; "
        f"medians of {REPETITIONS} interleaved repetitions"
    )


def medians(repetitions: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Summarise the repetitions of one implementation.

    Args:
        repetitions: Measurements by `Meter.measure`, at least one.

    Returns:
        The median images/s (`SPEED`); their range, largest minus smallest, in percent of the median (`RANGE`); and the
        medians of images per joule (`JOULE`) and GPU utilization (`BUSY`), if they were measured.
    """
    speeds = [measurement[SPEED] for measurement in repetitions]
    spread = {SPEED: median(speeds), RANGE: 100 * (max(speeds) - min(speeds)) / median(speeds)}
    reported = [metric for metric in (JOULE, BUSY) if metric in repetitions[0]]
    return spread | {metric: median(measurement[metric] for measurement in repetitions) for metric in reported}


def _bound_seconds_per_image(workload: StepWorkload, ceiling: Ceiling, element_bytes: int) -> float:
    """Return the lower bound that the roofline gives for the seconds of one image."""
    costs = cost(workload.network, training=workload.training)
    return seconds_per_image(
        roofline(costs, ceiling, batch=workload.batch, training=workload.training, element_bytes=element_bytes)
    )


# --- probes ---------------------------------------------------------------------------------------------


def step(context: ProbeContext, reporter: Reporter) -> None:
    """Measure a training step in all implementations without torch.compile, and report our speed for `deeper plan`.

    All are measured at the usual batch size. Ours and torchvision's best are also measured at other batch sizes, and on
    GPUs once more at the usual one while cuDNN times its algorithms and takes the fastest.
    """
    network, size = port_network(context.size.side), context.size
    all_names = step_names(compiled=False)
    best = [name for name in all_names if STEPS[name].makers == "deeper" or name == BEST_BASELINE]
    with step_workers(context.device, context.threads) as workers:
        bench = StepBench(context, reporter, workers)
        rows = bench.report(bench.workload(network, size.batch, names=all_names))
        cpus = context.threads if context.device.type == "cpu" else None
        speed = rows[OURS][SPEED]
        assert isinstance(speed, float)
        reporter.rates([rate_entry(cost(network, training=True), images_per_s=speed, cpus=cpus)])
        for batch in size.batches:
            bench.report(bench.workload(network, batch, names=best))
    if context.device.type == "cuda":
        with step_workers(context.device, context.threads, cudnn_benchmark=True) as workers:
            bench = StepBench(context, reporter, workers, note=", cuDNN's algorithms timed")
            bench.report(bench.workload(network, size.batch, names=best))


def graph(context: ProbeContext, reporter: Reporter) -> None:
    """Measure what a CUDA graph gains on small images; the probe `step` has it at the usual size."""
    size = context.size
    with step_workers(context.device, context.threads) as workers:
        bench = StepBench(context, reporter, workers)
        bench.report(bench.workload(port_network(size.small_side), size.small_batch, names=(OURS, GRAPHED)))


def variants(context: ProbeContext, reporter: Reporter) -> None:
    """Measure our training step for five variants of the network.

    The variants are: without 1x1 reductions (`unreduced` and `naive`), without auxiliary classifiers, with the first
    auxiliary classifier only, and without normalisation. Torchvision's network is measured as well for the variant
    without auxiliary classifiers, the only one that it has.
    """
    changes: Sequence[dict[str, str]] = (
        {"reduction": "unreduced"},
        {"reduction": "naive"},
        {"aux": "none"},
        {"aux": "aux1"},
        {"norm": "none"},
    )
    with step_workers(context.device, context.threads) as workers:
        bench = StepBench(context, reporter, workers)
        rows: dict[str, dict[str, Value]] = {}
        for change in changes:
            network = port_network(context.size.side, **change)
            workload = bench.workload(network, context.size.batch, names=(OURS, BEST_BASELINE))
            variant = " ".join(next(iter(change.items())))
            rows |= {f"{variant}: {name}": row for name, row in bench.rows(workload, bench.measure(workload)).items()}
            reporter.table(f"training, {context.size.side} px, batch {context.size.batch}", rows)


def evaluation(context: ProbeContext, reporter: Reporter) -> None:
    """Measure the forward pass of an evaluation in all implementations without torch.compile."""
    with step_workers(context.device, context.threads) as workers:
        bench = StepBench(context, reporter, workers)
        network = port_network(context.size.side)
        bench.report(bench.workload(network, context.size.batch, training=False, names=step_names(compiled=False)))


def compiled(context: ProbeContext, reporter: Reporter) -> None:
    """Measure a training step in each implementation that uses torch.compile, beside our step without it.

    On GPUs, our step as a CUDA graph stands beside them as well.
    """
    with step_workers(context.device, context.threads) as workers:
        bench = StepBench(context, reporter, workers)
        for name in COMPILED:  # one at a time, because the time limit may cut the last one
            bench.report(
                bench.workload(port_network(context.size.side), context.size.batch, names=(OURS, GRAPHED, name))
            )


def energy(context: ProbeContext, reporter: Reporter) -> None:
    """Measure images per joule and mean power, in training and in evaluation, with the energy counter of the GPU.

    Each value comes from one repetition of at least 4 s (`ENERGY_S`) without pauses. It is missing if NVML does not
    report the energy.
    """
    rows: dict[str, dict[str, Value]] = {}
    with step_workers(context.device, context.threads) as workers:
        for training in (True, False):
            mode = "training" if training else "evaluation"
            reporter.progress(mode)
            workload = StepWorkload(
                network=port_network(context.size.side),
                batch=context.size.batch,
                training=training,
                names=(OURS, BEST_BASELINE),
                repetition_s=ENERGY_S,
            )
            measurements = workers.measure(workload, repetitions=1, console=Console())
            for name, (measurement,) in measurements.repetitions.items():
                per_joule = measurement.get(JOULE)
                power_w = measurement[SPEED] / per_joule if per_joule else None
                rows[f"{mode}: {name}"] = {JOULE: per_joule, POWER: power_w}
            reporter.table(f"{context.size.side} px, batch {context.size.batch}, {ENERGY_S:.0f} s", rows)


def published(context: ProbeContext, reporter: Reporter) -> None:
    """Measure our training step for the network of published benchmarks, and report it beside the published speeds.

    The network has no auxiliary classifiers and no normalisation. Our step includes the update of the weights, which
    the published speeds do not.
    """
    batch = context.size.published_batch
    with step_workers(context.device, context.threads) as workers:
        bench = StepBench(context, reporter, workers)
        workload = bench.workload(NetworkConfig(aux="none", norm="none"), batch, names=(OURS,))
        bench.report(workload, {name: {SPEED: speed} for name, speed in PUBLISHED.items()})
    reporter.note(
        f"the published speeds are for batch 128, forward and backward; ours are for batch {batch}, with the update"
    )
