"""`deeper bench overhead`: what the suite costs the worker function that it runs.

The same function trains the same run in a plain process, under torchrun, and by the suite with all records on: a kept
gang of Ray actors, telemetry at 1 Hz, events, predictions, a publisher into MLflow beside it. Each of the records is
then switched on alone (`bench.suites.overhead.costs`).

images/s are training images over the seconds from the end of the first step to the end of the run, so validation,
checkpoints and whatever a record does at the end count. Start-up is from the go to the end of the first step.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from pydantic import Field
from rich.console import Console

from bench.orchestration import orchestrator
from bench.orchestration.cluster import cluster
from bench.planning.plan import make_plan
from bench.records.record import write_plan
from bench.records.states import run_folder
from bench.suites.harness.comparison import Comparison, Contestant, Figures, Goal, interleave, publish
from bench.suites.harness.memory import MEMORY, peak_memory
from bench.suites.overhead import costs
from bench.suites.overhead.bare import FIRST_STEP, RETURNED, Task
from bench.suites.overhead.workspace import Place
from bench.tracking import store as tracking
from reproduce import schema
from reproduce.data import synthetic
from reproduce.data.writing import prepare
from reproduce.spec import Config, ExperimentConfig, PlannedRun, SpecError, validated

SUITE, PLAIN, TORCHRUN = "deeper", "plain process", "torchrun"
SPEED, START = "images/s", "start-up, s"
FRESH = "start-up with Ray's start, s"
LEAST_SPEED, MOST_START_S = 0.97, 5.0
DATA = "synthetic"
POLL_S = 0.01
START_PATIENCE_S = 300.0


class OverheadOptions(Config):
    """The run that is measured, and how often."""

    rounds: int = Field(3, ge=1)
    workers: int = Field(1, ge=1)
    """Ranks of the run; they share the machine's cores, or have a GPU each where there are GPUs."""
    images: int = Field(2048, ge=64)
    """Training images; a quarter as many are validated."""
    side: int = Field(48, ge=32)
    batch: int = Field(64, ge=2)
    costs: bool = True
    """Whether each of the records is measured alone, too."""


def main(options: OverheadOptions, *, output: Path | None) -> int:
    """Run the benchmark and print its tables; 0 where each goal is reached, else 1. Raises `SpecError`."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="deeper-overhead-") as scratch:
        place = _prepare(options, Path(scratch))
        comparisons = [_compare(place, options, console)]
        if options.costs:
            comparisons.append(costs.compare(place, options.rounds, console))
    run = place.runs[0].config
    setting = {
        **options.model_dump(exclude={"rounds", "costs"}),
        "network": run.network.model_dump(),
        "epochs": run.recipe.epochs,
        "threads a worker": place.threads,
        SPEED: "training images / seconds from the end of the first step to the end of the run",
        START: "from the go to the end of the first step",
        MEMORY: "PSS of anonymous and shared pages of all processes: driver, Ray, publisher, ranks",
    }
    return publish("overhead", comparisons, setting=setting, output=output)


def quick(console: Console) -> list[Comparison]:
    """The suite against a plain process in two short rounds."""
    options = OverheadOptions(rounds=2, images=768)
    with tempfile.TemporaryDirectory(prefix="deeper-overhead-") as scratch:
        return [_compare(_prepare(options, Path(scratch)), options, console, contestants=(PLAIN,))]


def _prepare(options: OverheadOptions, scratch: Path) -> Place:
    import torch

    cores, gpus = psutil.cpu_count(logical=False) or 1, torch.cuda.device_count()
    if options.workers > (gpus or cores):
        raise SpecError(f"workers: {options.workers} do not fit on {gpus or cores} {'GPUs' if gpus else 'cores'}")
    source = synthetic(classes=10, images=options.images, size=options.side, seed=0)
    prepare(source, scratch / "data" / DATA)
    experiment = validated(
        ExperimentConfig,
        {
            "name": "overhead",
            "data": {"path": DATA},
            "recipe": {
                "epochs": 2,
                "batch_size": options.batch,
                "learning_rate": 0.01,
                "resolution": options.side,
            },
            "resources": {
                "workers": options.workers,
                "cpus_per_worker": cores // options.workers,
                "gpus_per_worker": int(gpus > 0),
            },
            "arms": {"both": {}},
            "seeds": list(range(options.rounds + 2)),  # the last is the first run of the gang
        },
        where="overhead: ",
    )
    return Place(scratch, make_plan(experiment, scratch / "data").runs, experiment, options.images)


# --- contestants -------------------------------------------------------------------------------------


def _compare(
    place: Place, options: OverheadOptions, console: Console, contestants: Sequence[str] = (PLAIN, TORCHRUN)
) -> Comparison:
    console.print("starting Ray and the publisher ...", highlight=False)
    once: dict[str, dict[str, float]] = {}
    absent = {PLAIN: "it has one process, and the run has several ranks"} if options.workers > 1 else {}
    with _suite(place, once) as suite:
        taking_part: dict[str, Contestant] = {SUITE: suite}
        for name in contestants:
            if name not in absent:
                taking_part[name] = _bare(name, place, once)
        rounds = interleave(taking_part, rounds=options.rounds, console=console)
    peer = next(iter(name for name in rounds if name != SUITE))
    return Comparison(
        name="run",
        title=f"A run of {options.workers} worker{'s' if options.workers > 1 else ''} by the suite and without it",
        rounds=rounds,
        goals=(
            Goal(figure=SPEED, ours=SUITE, peer=peer, at_least=LEAST_SPEED),
            Goal(figure=START, ours=SUITE, at_most=MOST_START_S),
        ),
        once=once,
        absent=absent,
    )


@contextlib.contextmanager
def _suite(place: Place, once: dict[str, dict[str, float]]) -> Iterator[Contestant]:
    """Runs in a kept gang, as every run after a command's first; round 0 gives memory and the first run's start-up."""
    options = orchestrator.Options(records=place.records, data=place.data)
    write_plan(place.records, place.experiment.name, place.runs, {})

    def train(gang: orchestrator.Gang, run: PlannedRun, go: float) -> Figures:
        folder = run_folder(place.records, run.key)
        first = _FirstStep(folder)
        verdict = gang.train(run, folder, options, give_up=lambda: False)
        end = time.time()
        if verdict.outcome != schema.FINISHED:
            raise RuntimeError(f"the run under measurement {verdict.outcome}: {verdict.error}")
        return _figures(place, go, first(), end)

    go = time.time()
    publisher = tracking.start_publisher(place.records)
    try:
        with cluster(options.address, options.records / "logs" / "ray.log"):
            gang = orchestrator.Gang(place.experiment.resources)
            fresh = train(gang, place.runs[-1], go)

            def measure(index: int) -> Figures:
                if index:
                    return train(gang, place.runs[index], time.time())
                with peak_memory(psutil.Process()) as peak:
                    figures = train(gang, place.runs[index], time.time())
                once[SUITE] = {MEMORY: peak(), FRESH: fresh[START]}
                return figures

            yield measure
            gang.kill()
    finally:
        tracking.stop_publisher(publisher)


def _bare(name: str, place: Place, once: dict[str, dict[str, float]]) -> Contestant:
    resources = place.experiment.resources
    launcher = [sys.executable]
    if name == TORCHRUN:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={resources.workers}"]

    def measure(index: int) -> Figures:
        run = place.runs[index]
        folder = place.scratch / name.replace(" ", "-") / run.key
        folder.mkdir(parents=True)
        task = Task(
            run=run.config,
            folder=folder,
            data_root=place.data,
            threads=resources.cpus_per_worker,
            gpu=resources.gpus_per_worker > 0,
        )
        (folder / "task.json").write_text(task.model_dump_json(), encoding="utf-8")
        go, first = time.time(), _FirstStep(folder)
        command = [*launcher, "-m", "bench.suites.overhead.bare", str(folder / "task.json")]
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            if index:
                process.wait()
            else:
                with peak_memory(psutil.Process(process.pid)) as peak:
                    process.wait()
                once[name] = {MEMORY: peak()}
        if process.returncode:
            raise RuntimeError(
                f"{name} ended with exit code {process.returncode}:\n{(folder / 'log.txt').read_text(encoding='utf-8')}"
            )
        end = float((folder / RETURNED).read_text(encoding="utf-8"))
        return _figures(place, go, first(), end)

    return measure


class _FirstStep:
    """When a run's first step ended, in epoch seconds; watched from outside, the same way for every contestant."""

    def __init__(self, folder: Path) -> None:
        self._sign = folder / FIRST_STEP
        self._seen = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __call__(self) -> float:
        self._thread.join()
        return self._seen

    def _watch(self) -> None:
        give_up = time.monotonic() + START_PATIENCE_S
        while not self._sign.exists():
            if time.monotonic() > give_up:
                return
            time.sleep(POLL_S)
        self._seen = time.time()


def _figures(place: Place, go: float, first: float, end: float) -> Figures:
    images = place.images_trained - place.experiment.recipe.batch_size
    return {SPEED: images / (end - first), START: first - go}
