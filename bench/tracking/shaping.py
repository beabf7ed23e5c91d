"""Makes the second step of publishing: shapes what was read into MLflow's terms.

All functions are pure, and the module does not import MLflow. The names of metrics and tags are those of
`reproduce.schema`. A metric keeps the timestamp of its event, so that MLflow skips a metric that is sent again.
"""

from __future__ import annotations

import calendar
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.records.evaluations import DATE
from bench.records.plan import PlanEntry, RecordedPlan
from bench.records.states import RunState
from bench.tracking.pages.arms import flattened
from bench.tracking.pages.notes import NOTE, run_note
from bench.tracking.reader import EvaluationNews, Event, KilledRun, RunNews
from reproduce import schema

RUNNING = "RUNNING"
STATUS = {schema.FINISHED: "FINISHED", schema.FAILED: "FAILED", schema.INTERRUPTED: "KILLED"}
"""MLflow's status of a run for each outcome of its last attempt."""
ERROR_CHARACTERS = 5_000
"""Length at which the error of a run is cut."""
PLAN_CHARACTERS = 4_500
"""Length of the pieces in which a plan is sent. Servers before MLflow 3 allow the tag of an experiment 5000."""


class Metric(NamedTuple):
    """One value of a metric of a run."""

    name: str
    value: float
    timestamp_ms: int
    """Milliseconds since 1970."""
    step: int
    """The epoch, counted from 0."""


@dataclass(frozen=True)
class NewRun:
    """Everything with which MLflow creates a run."""

    name: str
    """The name that MLflow shows."""
    start_ms: int
    """Start of the first attempt, in milliseconds since 1970."""
    tags: Mapping[str, str]
    """The tags."""
    identity: tuple[str, ...] = (schema.TAG_KEY, schema.TAG_EXPERIMENT)
    """The names of those tags that identify the run."""

    @property
    def is_training(self) -> bool:
        """Whether it is a training, which its start identifies as well, and no run that carries a report."""
        return schema.TAG_KEY in self.identity


@dataclass(frozen=True)
class RunDescription:
    """The configuration and the data set of a run, which are published once, since MLflow's params cannot change."""

    params: tuple[tuple[str, str], ...]
    """Names and values of MLflow's params. The names of nested fields are joined by dots."""
    tags: Mapping[str, str]
    """The tags with the name and the hash of the data set."""
    dataset_name: str
    dataset_digest: str
    """The first 36 characters of the data set's hash."""
    dataset_source: str
    """A JSON object whose `uri` is the path of the data set below the folder of prepared data sets."""


@dataclass(frozen=True)
class RunUpdate:
    """Changes of a run that are sent to MLflow together."""

    epoch: int
    """The last epoch whose metrics MLflow holds once the update is sent, counted from 0."""
    metrics: tuple[Metric, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str | None = None
    """MLflow's new status of the run. None leaves the status unchanged."""
    ended_ms: int | None = None
    """When the run ended, in milliseconds since 1970. None if it has not ended."""
    artifacts: tuple[Path, ...] = ()
    """The files to upload."""
    params: tuple[tuple[str, str], ...] = ()
    """Names and values of params, of a run that has none yet."""


def shape_new_run(experiment: str, entry: PlanEntry, first_event: Event, names: Mapping[str, str]) -> NewRun:
    """Shape a run that MLflow does not hold yet.

    Args:
        experiment: The name of the experiment.
        entry: The run's entry in the plan.
        first_event: The first event of the run, whose time becomes the start of the run.
        names: The tags that follow from the plans, from `shape_names`.
    """
    tags = {
        schema.TAG_KEY: entry.key,
        schema.TAG_EXPERIMENT: experiment,
        "mlflow.source.name": f"deeper run {experiment}",
        "mlflow.source.type": "LOCAL",
        **names,
    }
    return NewRun(entry.name, _milliseconds(first_event["t"]), tags)


def shape_names(entry: PlanEntry, plans: Sequence[RecordedPlan], colour: str) -> dict[str, str]:
    """Shape those tags of a run that follow from the plans: arm, seed, colour, and the plans that ask for it.

    Args:
        entry: The run's entry in the plan.
        plans: All plans of the experiment.
        colour: The colour of the run's arm, from `bench.tracking.pages.colours`.
    """
    names = {schema.TAG_ARM: entry.arm, schema.TAG_SEED: str(entry.seed), "mlflow.runColor": colour}
    asking = [plan.hash for plan in plans if any(other.key == entry.key for other in plan.entries)]
    return names | {f"{schema.TAG_PLAN}{digest}": "yes" for digest in asking}


def shape_plan(plan: RecordedPlan) -> dict[str, str]:
    """Shape a plan as tags of the experiment, of which the last says that the others, the plan's pieces, are complete.

    A plan never changes under its hash, so that tags that the store holds already need not be sent again.
    """
    arms: dict[str, dict[int, str]] = {}
    for entry in plan.entries:
        arms.setdefault(entry.arm, {})[entry.seed] = entry.key
    text = json.dumps(arms)
    pieces = [text[start : start + PLAN_CHARACTERS] for start in range(0, len(text), PLAN_CHARACTERS)]
    name = f"{schema.TAG_PLAN}{plan.hash}"
    head = json.dumps({"since": plan.since, "by": plan.by, "pieces": len(pieces)})
    return {**{f"{name}.{index}": piece for index, piece in enumerate(pieces)}, name: head}


def shape_present_plan(plan: RecordedPlan, planner: str, records: Path) -> dict[str, str]:
    """Shape as a tag of the experiment which plan is the present one of a folder of records.

    Args:
        plan: The present plan.
        planner: What identifies the folder of records, from `bench.tracking.cursors.planner`.
        records: The folder of the records.
    """
    content = {"plan": plan.hash, "since": plan.since, "by": plan.by, "records": str(records)}
    return {f"{schema.TAG_PLANNER}{planner}": json.dumps(content)}


def shape_analysis(experiment: Mapping[str, Any]) -> dict[str, str]:
    """Shape what an experiment asks of its analysis as a tag of the experiment.

    Args:
        experiment: The content of `experiment.yaml`, which older records lack. Then there is no such tag.
    """
    return {schema.TAG_ANALYSIS: json.dumps(experiment["analysis"])} if "analysis" in experiment else {}


def shape_description(config: Mapping[str, Any]) -> RunDescription:
    """Shape the configuration of a run, given as the content of its configuration file."""
    path, digest = config["data"]["path"], config["data_hash"]
    return RunDescription(
        params=tuple(flattened(config)),
        tags={schema.TAG_DATA: Path(path).name, schema.TAG_DATA_HASH: digest},
        dataset_name=Path(path).name,
        dataset_digest=digest[:36],  # MLflow's limit
        dataset_source=json.dumps({"uri": path}),
    )


def shape_run_news(experiment: str, entry: PlanEntry, news: RunNews, *, epoch: int, what: str = "") -> RunUpdate:
    """Shape new events of a run.

    Args:
        experiment: The name of the experiment.
        entry: The run's entry in the plan.
        news: The events.
        epoch: The last epoch published before. Final metrics get it as their step if `news` has no epoch.
        what: The description of the run's arm, if the experiment has one.
    """
    metrics: list[Metric] = []
    tags: dict[str, str] = {}
    status, ended_ms = None, None
    for event in news.events:
        if event["kind"] == schema.START:
            status, ended_ms = RUNNING, None
            tags |= _start_tags(event)
            if event["attempt"] == 1:
                metrics += _metrics(entry.costs, event["t"], 0)
        elif event["kind"] == schema.EPOCH:
            status, epoch = RUNNING, event["epoch"]
            metrics += _metrics(event["metrics"], event["t"], epoch)
        else:
            status, ended_ms = STATUS[event["outcome"]], _milliseconds(event["t"])
            tags |= _end_tags(event)
            if news.state is not None and event["attempt"] > 1:
                ended_ms, tags[schema.TAG_ENDED] = shape_resumed_end(news.state, event["t"])
            metrics += _metrics(event["metrics"], event["t"], epoch)
    if news.state is not None:
        tags[NOTE] = run_note(experiment, entry, news.state, what)
        tags |= shape_other_code(news.state)
        if news.state.straggler or news.state.attempt > 1:
            tags[schema.TAG_SLOWEST] = news.state.straggler or "-"  # replaces that of the attempt before
    artifacts = news.artifacts if ended_ms is not None else ()
    return RunUpdate(epoch, tuple(metrics), tags, status, ended_ms, artifacts)


def shape_other_code(state: RunState) -> dict[str, str]:
    """Shape as a tag that a run was resumed under another commit, which older records say nowhere else."""
    if state.other_commit is None:
        return {}
    before, now = (commit[:12] for commit in state.other_commit)
    return {f"{schema.TAG_CHANGES}code": f"{before} -> {now}"}


def shape_resumed_end(state: RunState, ended: float) -> tuple[int, str]:
    """Shape the end of a run that was resumed, for which MLflow would show the time between its attempts as duration.

    Args:
        state: The state of the run, which has started.
        ended: When it ended, in seconds since 1970.

    Returns:
        The end that MLflow gets, in milliseconds since 1970: the start plus the time of all attempts. Then the true end
        as the value of a tag.
    """
    assert state.started is not None
    return _milliseconds(state.started + state.duration_s), str(ended)


def shape_killed_run(experiment: str, entry: PlanEntry, killed: KilledRun, *, epoch: int, what: str = "") -> RunUpdate:
    """Shape the end of a killed run, which MLflow then shows as KILLED and as having ended when it last wrote.

    Args:
        experiment: The name of the experiment.
        entry: The run's entry in the plan.
        killed: The killed run.
        epoch: The last published epoch.
        what: The description of the run's arm, if the experiment has one.
    """
    tags = {
        schema.TAG_OUTCOME: schema.INTERRUPTED,
        schema.TAG_ERROR: "killed; it goes on when it is run again",
        NOTE: run_note(experiment, entry, killed.state, what),
    }
    ended_ms = _milliseconds(killed.last_seen)
    if killed.state.attempt > 1:
        ended_ms, tags[schema.TAG_ENDED] = shape_resumed_end(killed.state, killed.last_seen)
    return RunUpdate(epoch, tags=tags, status=STATUS[schema.INTERRUPTED], ended_ms=ended_ms, artifacts=killed.artifacts)


def shape_evaluation(news: EvaluationNews) -> tuple[Metric, ...]:
    """Shape an evaluation as metrics of the run that it evaluates.

    Returns:
        Top-1 and top-5 accuracy, from 0 to 1, under names that contain the protocol. Empty for an ensemble, whose
        accuracy belongs to no single run.
    """
    content = news.content
    if len(content["models"]) > 1:
        return ()
    timestamp = calendar.timegm(time.strptime(content["date"], DATE)) * 1000
    return tuple(
        Metric(f"{schema.EVALUATION}{content['protocol']}/{accuracy}", content[accuracy], timestamp, 0)
        for accuracy in ("top1", "top5")
    )


def _start_tags(event: Event) -> dict[str, str]:
    tags = {schema.TAG_ATTEMPT: str(event["attempt"]), schema.TAG_OUTCOME: "running"}
    if event["attempt"] > 1:
        tags[schema.TAG_ERROR] = "-"  # replaces that of the attempt before
    environment = event.get("environment")
    if not environment:
        return tags
    # Lines of records from before there were checksums may be damaged in the name of any field.
    machine = environment.get("machine", {})
    tags |= {
        schema.TAG_HOST: str(machine.get("hostname", "-")),
        schema.TAG_GPU: describe_devices(event),
        **{f"{schema.TAG_ENVIRONMENT}{name}": version for name, version in environment.get("packages", {}).items()},
        f"{schema.TAG_ENVIRONMENT}python": str(machine.get("python", "-")),
        f"{schema.TAG_ENVIRONMENT}cpu": f"{machine.get('cpu', '-')}, {machine.get('cores', '-')} cores",
    }
    if computation := event.get("computation"):  # absent before 2026-11-27
        facts = {**computation, "precision": event.get("resources", {}).get("precision")}
        tags |= {
            f"{schema.TAG_COMPUTATION}{fact}": "-" if value is None else str(value) for fact, value in facts.items()
        }
    for fact, (before, now) in event.get("changes", {}).items():
        tags[f"{schema.TAG_CHANGES}{fact}"] = f"{before} -> {now}"
    if "commit" in environment:
        tags |= {schema.TAG_COMMIT: environment["commit"], schema.TAG_DIRTY: str(environment.get("dirty", "-")).lower()}
    return tags


def _end_tags(event: Event) -> dict[str, str]:
    absent = (event.get("telemetry") or {}).get("gpu_absent")
    tags = {
        schema.TAG_OUTCOME: event["outcome"],
        schema.TAG_GPU_ABSENT: absent if absent and absent != schema.NO_GPU_USED else "-",
    }
    if event["error"]:
        tags[schema.TAG_ERROR] = _storable(event["error"])[:ERROR_CHARACTERS]
    return tags


def describe_devices(start: Event) -> str:
    """Return the names of the GPUs that a run uses, or the reason why it uses none.

    Args:
        start: A start event of the run, with a description of the environment.
    """
    environment = start["environment"]
    names = sorted({str(gpu.get("name", "a GPU")) for gpu in environment.get("gpus", ())})
    if not names:
        return str(environment.get("gpu_absent", "-"))
    if not start.get("device", "").startswith("cuda"):
        return f"not used ({', '.join(names)})"
    share = start.get("resources", {}).get("gpus_per_worker", 1)
    return ", ".join(names) + (f", {share:g} of one a run" if share < 1 else "")


def _storable(text: str) -> str:
    """Return a text that every store takes: without null characters and halves of characters."""
    return text.replace("\0", "\ufffd").encode("utf-8", "backslashreplace").decode("utf-8")


def _metrics(values: Mapping[str, float], seconds: float, step: int) -> list[Metric]:
    """Shape metrics, without those of every rank, of which a run may have thousands: records hold them."""
    return [
        Metric(name, value, _milliseconds(seconds), step)
        for name, value in values.items()
        if not name.startswith(schema.RANK)
    ]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
