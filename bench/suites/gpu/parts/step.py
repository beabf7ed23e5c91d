"""A training step and an evaluation in all forms, beside torchvision's: images/s, share of the roofline, joules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from rich.console import Console

from bench.planning.rates import rate_entry
from bench.suites.gpu.part import Figure, Report, Task
from bench.suites.harness.ceilings import measured_ceiling
from bench.suites.harness.meter import BUSY, JOULE, SPEED
from bench.suites.step.implementations import FORMS, OURS, names, port
from bench.suites.step.process import Benches, Job, Measured, benches
from reproduce.execution.precision import resolve_precision
from reproduce.models.cost import cost
from reproduce.models.roofline import Ceiling, roofline, seconds_per_image
from reproduce.spec import NetworkConfig

REPETITIONS = 3
RANGE, SHARE, POWER, FIRST = "range, %", "roofline", "W", "first, s"
BEST_PEER = "torchvision, channels_last, autocast"
COMPILED = tuple(name for name, form in FORMS.items() if form.compiled)
ENERGY_S = 4.0  # of one repetition, in which the counter of the device moves some ten times
PUBLISHED = {  # soumith/convnet-benchmarks, README: GoogLeNet V1, Titan X, batch 128, forward and backward
    "published: neon, fp16, Titan X": 556.0,
    "published: cuDNN R4, fp16, Titan X": 277.0,
}


class Bench:
    """Measures forms and tells their figures, a table a job."""

    def __init__(self, task: Task, report: Report, both: Benches, note: str = "") -> None:
        self._task, self._report, self._both, self._note = task, report, both, note
        self._dtype = resolve_precision("auto", task.device).dtype
        report.progress("ceilings")
        self._ceiling = measured_ceiling(task.device, self._dtype)

    def job(self, network: NetworkConfig, batch: int, *, training: bool = True, names: Sequence[str]) -> Job:
        repetition_s = self._task.size.repetition_s
        return Job(network=network, batch=batch, training=training, names=tuple(names), repetition_s=repetition_s)

    def measure(self, job: Job) -> Measured:
        what = f"{'training' if job.training else 'evaluation'}, batch {job.batch}, {job.network.reduction}"
        self._report.progress(what)
        found = self._both.measure(job, rounds=REPETITIONS, console=Console())
        for name, why in found.absent.items():
            self._report.note(f"{what}: {name}: {why}")
        return found

    def rows(self, job: Job, found: Measured) -> dict[str, dict[str, Figure]]:
        """Medians of the repetitions, by form."""
        bound_s = _seconds_per_image(job, self._ceiling, self._dtype.itemsize)
        rows: dict[str, dict[str, Figure]] = {}
        for name, of_form in found.rounds.items():
            middle = medians(of_form)
            rows[name] = {**middle, SHARE: middle[SPEED] * bound_s, FIRST: found.first_s[name]}
        return rows

    def table(self, job: Job, extra: Mapping[str, Mapping[str, Figure]] = {}) -> dict[str, dict[str, Figure]]:
        rows = self.rows(job, self.measure(job))
        self._report.table(_title(job, self._note), {**rows, **extra})
        return rows


def _title(job: Job, note: str) -> str:
    network = job.network
    norm = "" if network.norm == "batch" else ", no normalisation"
    return (
        f"{'training' if job.training else 'evaluation'}, {network.resolution} px, batch {job.batch}, "
        f"{network.reduction}, heads: {network.aux}{norm}{note}; medians of {REPETITIONS} interleaved repetitions"
    )


def medians(repetitions: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of images/s with their range, and of what NVML tells."""
    speeds = [figures[SPEED] for figures in repetitions]
    found = {SPEED: median(speeds), RANGE: 100 * (max(speeds) - min(speeds)) / median(speeds)}
    told = [name for name in (JOULE, BUSY) if name in repetitions[0]]
    return found | {name: median(figures[name] for figures in repetitions) for name in told}


def _seconds_per_image(job: Job, ceiling: Ceiling, element_bytes: int) -> float:
    costs = cost(job.network, training=job.training)
    return seconds_per_image(
        roofline(costs, ceiling, batch=job.batch, training=job.training, element_bytes=element_bytes)
    )


# --- parts ----------------------------------------------------------------------------------------------


def step(task: Task, report: Report) -> None:
    """All forms at the usual batch; ours and torchvision's best at others, and with kernels that cuDNN has timed."""
    network, size = port(task.size.side), task.size
    all_forms = names(compiled=False)
    best = [name for name in all_forms if FORMS[name].ours or name == BEST_PEER]
    with benches(task.device, task.threads) as both:
        bench = Bench(task, report, both)
        rows = bench.table(bench.job(network, size.batch, names=all_forms))
        cpus = task.threads if task.device.type == "cpu" else None
        speed = rows[OURS][SPEED]
        assert isinstance(speed, float)
        report.rates([rate_entry(cost(network, training=True), images_per_s=speed, cpus=cpus)])
        for batch in size.batches:
            bench.table(bench.job(network, batch, names=best))
    if task.device.type == "cuda":
        with benches(task.device, task.threads, timed=True) as both:
            bench = Bench(task, report, both, note=", cuDNN's algorithms timed")
            bench.table(bench.job(network, size.batch, names=best))


def variants(task: Task, report: Report) -> None:
    """Our step without the 1x1 reductions, with other heads, without normalisation; torchvision's where it has one."""
    changes: Sequence[dict[str, str]] = (
        {"reduction": "unreduced"},
        {"reduction": "naive"},
        {"aux": "none"},
        {"aux": "aux1"},
        {"norm": "none"},
    )
    with benches(task.device, task.threads) as both:
        bench = Bench(task, report, both)
        kept: dict[str, dict[str, Figure]] = {}
        for change in changes:
            job = bench.job(port(task.size.side, **change), task.size.batch, names=(OURS, BEST_PEER))
            of_change = " ".join(next(iter(change.items())))
            kept |= {f"{of_change}: {name}": row for name, row in bench.rows(job, bench.measure(job)).items()}
            report.table(f"training, {task.size.side} px, batch {task.size.batch}", kept)


def evaluation(task: Task, report: Report) -> None:
    with benches(task.device, task.threads) as both:
        bench = Bench(task, report, both)
        network = port(task.size.side)
        bench.table(bench.job(network, task.size.batch, training=False, names=names(compiled=False)))


def compiled(task: Task, report: Report) -> None:
    """What torch.compile makes of ours, and of torchvision's."""
    with benches(task.device, task.threads) as both:
        bench = Bench(task, report, both)
        for name in COMPILED:  # apart, since the last may not come to its end
            bench.table(bench.job(port(task.size.side), task.size.batch, names=(OURS, name)))


def energy(task: Task, report: Report) -> None:
    """Images per joule by the device's own counter, over seconds of nothing but steps."""
    rows: dict[str, dict[str, Figure]] = {}
    with benches(task.device, task.threads) as both:
        for training in (True, False):
            mode = "training" if training else "evaluation"
            report.progress(mode)
            job = Job(
                network=port(task.size.side),
                batch=task.size.batch,
                training=training,
                names=(OURS, BEST_PEER),
                repetition_s=ENERGY_S,
            )
            found = both.measure(job, rounds=1, console=Console())
            for name, (figures,) in found.rounds.items():
                joule = figures.get(JOULE)
                rows[f"{mode}: {name}"] = {JOULE: joule, POWER: figures[SPEED] / joule if joule else None}
            report.table(f"{task.size.side} px, batch {task.size.batch}, {ENERGY_S:.0f} s", rows)


def published(task: Task, report: Report) -> None:
    """The network of the published figures: no heads, no normalisation. Ours updates its weights, too."""
    batch = task.size.published_batch
    with benches(task.device, task.threads) as both:
        bench = Bench(task, report, both)
        job = bench.job(NetworkConfig(aux="none", norm="none"), batch, names=(OURS,))
        bench.table(job, {name: {SPEED: figure} for name, figure in PUBLISHED.items()})
    report.note(f"published is batch 128, forward and backward; ours is batch {batch}, with the update")
