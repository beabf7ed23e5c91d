"""The model that `study.py` computes with: device hours, traffic, load, and what breaks first.

Each input carries its source: measured (`measured.json`, made by `measure.py` beside it), counted in the code, public,
a vendor's, or ASSUMED. Nothing here was measured on a GPU or a cluster.
"""

from __future__ import annotations

import heapq
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from bench.planning.plan import Plan
from reproduce import schema
from reproduce.grid import plan
from reproduce.spec import PlannedRun, SpecError, load_experiment
from slurm.profile import Profile, ReportJob, load_profile
from slurm.queries import parse_seconds

RESULTS = Path(__file__).parent
DATA = "imagenet"
CLASSES, TRAIN_IMAGES, VAL_IMAGES = 1000, 1_281_167, 50_000  # ILSVRC 2012, public
FLOP_PER_MAC = 2
POLLED_GROUPS = 64  # of the measured `polling_cores`
WEIGHTS_AND_MOMENTUM = 8  # bytes a parameter in a checkpoint


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is asked for."""

    runs: int = 1000
    nodes: int = 64
    gpus_per_node: int = 8


@dataclass(frozen=True)
class Gpu:
    """A vendor's figures: dense bf16 FLOP/s, board power in watts."""

    name: str
    flops: float
    watts: float
    source: str


GPUS = (
    Gpu("A100 SXM", 312e12, 400, "NVIDIA A100 data sheet"),
    Gpu("H100 SXM", 989e12, 700, "NVIDIA H100 data sheet, without sparsity"),
)
SHARES = (0.05, 0.10, 0.20)
"""ASSUMED fractions of the peak that training reaches; nothing was measured on a GPU."""
CASE = GPUS[1], SHARES[1]
"""The case whose loads are compared with what carries them."""


def given(value: float, source: str) -> Any:
    """A field with its source."""
    return field(default=value, metadata={"source": source})


@dataclass(frozen=True)
class Assumed:
    """Differs from cluster to cluster, put in your own."""

    image_pixels: float = given(256 * 256 * 4 / 3, "ASSUMED: prepared with `--max-resolution 256`, 4:3")
    read_bytes_per_s: float = given(10e9, "ASSUMED: our share of what the file system reads, of 2 to 100 GB/s")
    write_bytes_per_s: float = given(5e9, "ASSUMED: our share of what it writes, of 1 to 50 GB/s")
    file_calls_per_s: float = given(
        10_000, "ASSUMED: our share of its metadata operations, of 1 000 to 100 000 a second"
    )
    node_memory_bytes: float = given(512 * 2**30, "ASSUMED")


@dataclass(frozen=True)
class Published:
    """Found by others, or by us before."""

    batches_per_s: float = given(24, "log_batch through one MLflow server before sqlite, one writer, 2 cores; measured"
                                     " for this project's design, raw values not in the repository")  # fmt: skip
    ray_nodes: float = given(250, "public: Ray's scalability envelope (ray-project/ray, release/benchmarks/README.md)")
    ray_actors: float = given(10_000, "public: the same")
    ray_groups: float = given(1_000, "public: the same")
    array_elements: float = given(1_000, "public: SLURM's default MaxArraySize is 1001, the highest index and one more")
    node_days_per_failure: float = given(2048 * 54 / 419, "public: Llama 3, arXiv:2407.21783, 3.3.4: 419 unexpected"
                                         " interruptions in 54 days of 16 384 GPUs, 8 a node")  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """In the code. Calls are open, stat, flock and rename of a path; a network file system may turn one into several
    requests, or answer it from a cache."""

    heartbeat_s: float = given(15, "`deeper run --heartbeat-s` in SLURM jobs: progress.json, and the driver's look")
    heartbeat_calls: float = given(2, "`Record.progress`: open, rename")
    look_running_calls: float = given(4, "`read_state`: open and flock of the lock, open events and progress")
    look_waiting_calls: float = given(2, "`read_state`: lock and events are not there; finished runs are asked once")
    publisher_every_s: float = given(2, "`bench.tracking.publisher --every`")
    publisher_running_calls: float = given(7, "`Publisher`: stat events; exists and stat of events and progress, open"
                                           " and flock of the lock")  # fmt: skip
    publisher_waiting_calls: float = given(
        3, "`Publisher`: stat events, and two looks for a cursor that is not there yet"
    )
    checkpoint_calls: float = given(4, "`checkpoint.save`: open, two renames, open of the folder")
    checkpoint_every_s: float = given(300, "`Context.checkpoint_every_s`; and after every epoch")
    group_start_s: float = given(600, "`worker_group.START_TIMEOUT_S`: workers have to answer by then")


@dataclass(frozen=True)
class Limit:
    """A load of the study against what can carry it, in the same unit."""

    what: str
    load: float
    capacity: float
    unit: str
    grows_with: str
    """What the load is taken to be proportional to."""
    now: float
    """How much of that there is in this study."""
    source: str
    """Of load, then of capacity."""
    remedy: str

    @property
    def used(self) -> float:
        return self.load / self.capacity

    @property
    def breaks_at(self) -> float:
        """How much of `grows_with` fills the capacity, all else equal."""
        return self.now / self.used


class Model:
    """The arithmetic, for one kind of GPU at one share of its peak.

    `measured` holds the medians of measured.json by name. Raises `SpecError` where not one run fits on a node.
    """

    def __init__(self, study: Study, measured: Mapping[str, float], gpu: Gpu = CASE[0], share: float = CASE[1]) -> None:
        self.study, self.measured, self.gpu, self.share = study, measured, gpu, share
        self.assumed, self.published, self.counted = Assumed(), Published(), Counted()
        self.profile: Profile = load_profile("gpu-nodes")
        for name, value in asdict(study).items():
            if value < 1:
                raise SpecError(f"--{name.replace('_', '-')}: {value} is too few; use at least 1")
        self.plan = study_plan(study.runs)
        self.resources = self.plan.experiment.resources
        if study.gpus_per_node < self.resources.workers:
            raise SpecError(
                f"--gpus-per-node: {study.gpus_per_node} GPUs hold no run; one takes {self.resources.workers} of a node"
            )
        self.at_once = min(study.runs, study.nodes * (study.gpus_per_node // self.resources.workers))

    # --- time ---

    @property
    def loader_images_per_s(self) -> float:
        """That the CPUs of one GPU decode."""
        return self.resources.cpus_per_worker * self.measured["loader_images_per_cpu_s"]

    def gpu_images_per_s(self, macs: float, passes: int) -> float:
        """Of one GPU; `passes` of `macs` multiply-adds an image: 3 in training, 1 in validation."""
        return self.gpu.flops * self.share / (passes * FLOP_PER_MAC * macs)

    def epoch_seconds(self, run: PlannedRun) -> float:
        """Training and validation on the run's GPUs, each as fast as the slower of GPU and loader."""
        costs = self.plan.costs[run.key]
        train = min(self.loader_images_per_s, self.gpu_images_per_s(costs[schema.COST_MACS_TRAINING], passes=3))
        val = min(self.loader_images_per_s, self.gpu_images_per_s(costs[schema.COST_MACS], passes=1))
        return (TRAIN_IMAGES / train + VAL_IMAGES / val) / self.resources.workers

    def run_seconds(self, run: PlannedRun) -> float:
        return run.config.recipe.epochs * self.epoch_seconds(run)

    @cached_property
    def node_seconds(self) -> float:
        """Of all runs, one after the other."""
        return sum(map(self.run_seconds, self.plan.runs))

    @property
    def device_hours(self) -> float:
        return self.node_seconds * self.resources.workers / 3600

    @cached_property
    def wall_seconds(self) -> float:
        """Runs in the plan's order, each to the first free place; without queueing, requeues and failures."""
        return makespan([self.run_seconds(run) for run in self.plan.runs], self.at_once)

    # --- storage ---

    @property
    def image_bytes(self) -> float:
        return self.measured["jpeg_bytes_per_pixel"] * self.assumed.image_pixels

    @property
    def data_bytes(self) -> float:
        """Both FFCV files."""
        return self.image_bytes * (TRAIN_IMAGES + VAL_IMAGES)

    @cached_property
    def read_bytes(self) -> float:
        """Of all epochs of all runs."""
        return sum(run.config.recipe.epochs for run in self.plan.runs) * self.data_bytes

    def checkpoint_bytes(self, run: PlannedRun) -> float:
        return WEIGHTS_AND_MOMENTUM * self.plan.costs[run.key][schema.COST_PARAMETERS]

    def checkpoints(self, run: PlannedRun) -> float:
        """Written in a run: one an epoch, and between two of them one every `checkpoint_every_s`."""
        return run.config.recipe.epochs * (1 + self.epoch_seconds(run) // self.counted.checkpoint_every_s)

    @cached_property
    def checkpoint_bytes_per_s(self) -> float:
        """Of all runs at once, on average."""
        return sum(self.checkpoints(run) * self.checkpoint_bytes(run) for run in self.plan.runs) / self.wall_seconds

    @property
    def telemetry_bytes(self) -> float:
        """One row a second of the host and of each GPU."""
        return self.node_seconds * (1 + self.resources.workers) * self.measured["telemetry_row_bytes"]

    @cached_property
    def record_bytes(self) -> float:
        """When all is done: weights (a finished checkpoint has no momentum), telemetry, events."""
        weights = sum(self.checkpoint_bytes(run) / 2 for run in self.plan.runs)
        return weights + self.telemetry_bytes + self.epochs * self.measured["epoch_event_bytes"]

    @property
    def epochs(self) -> int:
        return sum(run.config.recipe.epochs for run in self.plan.runs)

    # --- calls and batches a second ---

    def calls_per_s(self, drivers: int = 1) -> dict[str, float]:
        """On the shared file system, at the start, when most runs wait; every driver looks at all runs."""
        count, running = self.counted, self.at_once
        waiting = self.study.runs - running
        look = running * count.look_running_calls + waiting * count.look_waiting_calls
        publish = running * count.publisher_running_calls + waiting * count.publisher_waiting_calls
        saved = sum(map(self.checkpoints, self.plan.runs)) / self.wall_seconds
        return {
            "the drivers' looks at the records": drivers * look / count.heartbeat_s,
            "the publisher's passes": publish / count.publisher_every_s,
            "heartbeats of the runs": running * count.heartbeat_calls / count.heartbeat_s,
            "checkpoints": saved * count.checkpoint_calls,
        }

    @property
    def batches_per_s(self) -> float:
        """Epochs that end in a second, each one log_batch."""
        return self.epochs / self.wall_seconds

    @property
    def publisher_share(self) -> float:
        """Of its time that the publisher works: looking for news, and taking epochs to sqlite."""
        idle = self.study.runs * self.measured["publish_idle_run_s"] / self.counted.publisher_every_s
        return idle + self.batches_per_s * self.measured["publish_epoch_s"]

    @property
    def report_seconds(self) -> float:
        """Of a report job that finds nothing published: publishing, reading."""
        return self.study.runs * (self.measured["publish_whole_run_s"] + self.measured["report_read_run_s"])

    @property
    def failures(self) -> float:
        """Nodes that may be expected to fail."""
        return self.node_seconds / 86400 / self.published.node_days_per_failure

    # --- what breaks first ---

    @property
    def limits(self) -> list[Limit]:
        """Fullest first."""
        study, assumed, public, count = self.study, self.assumed, self.published, self.counted
        at_once, ranks, measured = self.at_once, self.at_once * self.resources.workers, self.measured
        days = self.wall_seconds / 86400
        fastest = max(self.gpu_images_per_s(c[schema.COST_MACS_TRAINING], 3) for c in self.plan.costs.values())
        nodes, runs = ("nodes", float(study.nodes)), ("runs", float(study.runs))
        found = [
            Limit("Reading images, neither staged nor in the page cache", self.read_bytes / self.wall_seconds,
                  assumed.read_bytes_per_s, "bytes/s", *nodes, "computed; ASSUMED",
                  "stage to node-local disk (`scratch`): each node reads the files once a job"),
            Limit("Decoding on the CPUs of one GPU, fastest arm", fastest, self.loader_images_per_s, "images/s",
                  "images/s of a GPU", fastest, "computed; measured", "more CPUs a GPU, smaller images, or raw ones"),
            Limit("Calls on the shared file system, one driver", sum(self.calls_per_s().values()),
                  assumed.file_calls_per_s, "calls/s", *runs, "counted; ASSUMED",
                  "a publisher that passes as seldom as the heart beats"),
            Limit(f"Calls on the shared file system, --split {at_once}", sum(self.calls_per_s(at_once).values()),
                  assumed.file_calls_per_s, "calls/s", *runs, "counted; ASSUMED",
                  "one allocation; or array elements that look at the runs in their hands only"),
            Limit("Python's files, opened by starting ranks", ranks * measured["import_files"] / count.group_start_s,
                  assumed.file_calls_per_s, "calls/s", *nodes, "measured; ASSUMED",
                  "a container image, or an environment on node-local disk"),
            Limit("Writing checkpoints", self.checkpoint_bytes_per_s, assumed.write_bytes_per_s, "bytes/s", *nodes,
                  "computed; ASSUMED", "none after an epoch that ended soon after the last one"),
            Limit("Report job that publishes everything", self.report_seconds, parse_seconds(ReportJob().time), "s",
                  *runs, "measured; slurm.profile",
                  "a tracking server (`tracking_uri`), or a limit by the plan's size"),
            Limit("Epochs into one MLflow server", self.batches_per_s, public.batches_per_s, "batches/s", *nodes,
                  "computed; measured before", "PostgreSQL behind the server"),
            Limit("Publisher: one process, sqlite", self.publisher_share, 1, "share of its time", *runs,
                  "measured on a local disk", "seldom passes; a publisher for each part of the runs"),
            Limit("The job's starts", self.wall_seconds / self.profile.seconds, self.profile.requeues + 1, "starts",
                  "days", days, "computed; profile gpu-nodes", "more `requeues`, a longer `time`, or submitting again"),
            Limit("Ray: nodes", study.nodes, public.ray_nodes, "nodes", *nodes, "given; public", "--split"),
            Limit("Ray: actors", ranks, public.ray_actors, "actors", *nodes, "computed; public", "--split"),
            Limit("Ray: placement groups", at_once, public.ray_groups, "groups", *nodes, "computed; public", "--split"),
            Limit("Driver: looking at the records", measured["look_s"], count.heartbeat_s, "s", *runs,
                  "measured on a local disk; counted", "a longer heartbeat"),
            Limit("Driver: waiting for worker groups", measured["polling_cores"] * at_once / POLLED_GROUPS, 1, "cores",
                  *nodes, "measured; one core", "one wait for all worker groups"),
            Limit("Array with an element for each run at once", at_once, public.array_elements, "elements", *nodes,
                  "computed; public", "a smaller --split"),
            Limit("Both FFCV files in a node's memory", self.data_bytes, assumed.node_memory_bytes, "bytes",
                  "bytes of an image", self.image_bytes, "computed; ASSUMED", "node-local disk; smaller images"),
        ]  # fmt: skip
        return sorted(found, key=lambda limit: -limit.used)


@cache
def study_plan(runs: int) -> Plan:
    """The first runs of `ablation-imagenet` with as many seeds as they need, as `make_plan` would have them."""
    from reproduce.models.cost import cost

    experiment = load_experiment("ablation-imagenet")
    seeds = tuple(range(-(-runs // len(experiment.arms))))
    experiment = experiment.model_copy(update={"seeds": seeds})
    images = {DATA: TRAIN_IMAGES}
    planned = plan(experiment, data_hashes={DATA: "-"}, classes={DATA: CLASSES}, train_images=images)[:runs]
    by_network = {}
    for network in {run.config.network for run in planned}:
        training, inference = cost(network, training=True), cost(network)
        by_network[network] = {
            schema.COST_PARAMETERS: float(training.parameters),
            schema.COST_MACS_TRAINING: float(training.macs),
            schema.COST_MACS: float(inference.macs),
        }
    costs = {run.key: by_network[run.config.network] for run in planned}
    return Plan(experiment, tuple(planned), costs, images, {DATA: VAL_IMAGES})


def makespan(seconds: list[float], places: int) -> float:
    """When the last job ends, if each goes to the first free place in the order given."""
    free = [0.0] * places
    for length in seconds:
        heapq.heappush(free, heapq.heappop(free) + length)
    return max(free)


def medians(path: Path = RESULTS / "measured.json") -> dict[str, float]:
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return {name: statistics.median(figure["values"]) for name, figure in figures.items()}
