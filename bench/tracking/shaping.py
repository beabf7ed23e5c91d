"""Makes the second step of publishing: shapes what was read into MLflow's terms.

All functions are pure, and the module does not import MLflow. The names of metrics and tags are those of
`reproduce.schema`. A metric keeps the timestamp of its event, so that MLflow skips a metric that is sent again.
"""

from __future__ import annotations

import calendar
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.records.evaluations import DATE
from bench.records.plan import PlanEntry, RecordedPlan, planned_under
from bench.records.states import RunState
from bench.tracking.reader import EvaluationNews, Event, KilledRun, RunNews
from reproduce import schema
from reproduce.text.markdown import as_markdown

RUNNING = "RUNNING"
STATUS = {schema.FINISHED: "FINISHED", schema.FAILED: "FAILED", schema.INTERRUPTED: "KILLED"}
"""MLflow's status of a run for each outcome of its last attempt."""
NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or an experiment."""
NOTE_CHARACTERS = 19_000
"""Length at which the note of an experiment is cut."""
ERROR_CHARACTERS = 5_000
"""Length at which the error of a run is cut."""
PLAN_CHARACTERS = 4_500
"""Length of the pieces in which a plan is sent. Servers before MLflow 3 allow the tag of an experiment 5000."""
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")


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
    """The tags; key and experiment among them identify the run."""


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


def colours_of_arms(plan: Sequence[PlanEntry]) -> dict[str, str]:
    """Assign each arm, in the order of the plan, a colour in which MLflow draws its runs, such as "#1f77b4".

    Colours repeat after the tenth arm.
    """
    arms = dict.fromkeys(entry.arm for entry in plan)
    return {arm: COLOURS[index % len(COLOURS)] for index, arm in enumerate(arms)}


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
        colour: The colour of the run's arm, from `colours_of_arms`.
    """
    names = {schema.TAG_ARM: entry.arm, schema.TAG_SEED: str(entry.seed), "mlflow.runColor": colour}
    asking = [plan.hash for plan in plans if any(other.key == entry.key for other in plan.entries)]
    return names | {f"{schema.TAG_PLAN}{digest}": "yes" for digest in asking}


def plan_filter(digest: str) -> str:
    """Return the condition by which MLflow's pages show the runs of a plan only."""
    return f'tags."{schema.TAG_PLAN}{digest}" = "yes"'


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
        params=tuple(_flatten(config)),
        tags={schema.TAG_DATA: Path(path).name, schema.TAG_DATA_HASH: digest},
        dataset_name=Path(path).name,
        dataset_digest=digest[:36],  # MLflow's limit
        dataset_source=json.dumps({"uri": path}),
    )


def shape_run_news(experiment: str, entry: PlanEntry, news: RunNews, *, epoch: int) -> RunUpdate:
    """Shape new events of a run.

    Args:
        experiment: The name of the experiment.
        entry: The run's entry in the plan.
        news: The events.
        epoch: The last epoch published before. Final metrics get it as their step if `news` has no epoch.
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
            metrics += _metrics(event["metrics"], event["t"], epoch)
    if news.state is not None:
        tags[NOTE] = run_note(experiment, entry, news.state)
    artifacts = news.artifacts if ended_ms is not None else ()
    return RunUpdate(epoch, tuple(metrics), tags, status, ended_ms, artifacts)


def shape_killed_run(experiment: str, entry: PlanEntry, killed: KilledRun, *, epoch: int) -> RunUpdate:
    """Shape the end of a killed run, which MLflow then shows as KILLED and as having ended when it last wrote.

    Args:
        experiment: The name of the experiment.
        entry: The run's entry in the plan.
        killed: The killed run.
        epoch: The last published epoch.
    """
    tags = {
        schema.TAG_OUTCOME: schema.INTERRUPTED,
        schema.TAG_ERROR: "killed; it goes on when it is run again",
        NOTE: run_note(experiment, entry, killed.state),
    }
    ended_ms = _milliseconds(killed.last_seen)
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


def run_note(experiment: str, entry: PlanEntry, state: RunState) -> str:
    """Return a description of a run in Markdown: what it is, and a table of its outcome so far.

    Args:
        experiment: The name of the experiment.
        entry: The run's entry in the plan.
        state: The state of the run.
    """
    rows = [("outcome", state.status), ("attempts", str(state.attempt))]
    for title, name in (("top-1", schema.FINAL_TOP1), ("top-5", schema.FINAL_TOP5)):
        if name in state.metrics:
            rows.append((title, f"{state.metrics[name]:.2%}"))
    rows.append(("duration", f"{state.duration_s / 60:.1f} min"))
    if state.error:
        rows.append(("error", as_markdown(" ".join(state.error.split())[:500])))
    table = "\n".join(f"| {title} | {value} |" for title, value in rows)
    title = f"**{as_markdown(entry.arm)}**, seed {entry.seed}, of experiment *{experiment}* (key `{entry.key}`)"
    return f"{title}\n\n| | |\n|---|---|\n{table}"


def experiment_note(name: str, plans: Sequence[RecordedPlan], experiment: Mapping[str, Any]) -> str:
    """Return a description of an experiment in Markdown, with a table of its arms, cut at `NOTE_CHARACTERS`.

    Args:
        name: The name of the experiment.
        plans: The plans of the experiment, the present one first. Only its arms are described.
        experiment: The content of the experiment file, which provides the descriptions of the experiment and its arms.
            May be empty.
    """
    plan = plans[0].entries
    lines = [f"## {name}", as_markdown(experiment.get("description") or "")]
    runs = f"{len(plan)} run{'' if len(plan) == 1 else 's'}"
    lines += ["", f"#### Plan `{plans[0].hash}`: {runs}, `{plan_filter(plans[0].hash)}`"]
    if older := len(planned_under(plans)) - len({entry.key for entry in plan}):
        lines.append(f"#### Runs of older plans under this name: {older}")
    lines += ["", "| arm | what | runs | parameters | multiply-adds |", "|---|---|---|---|---|"]
    for arm, entry in {entry.arm: entry for entry in plan}.items():
        what = ((experiment.get("arms") or {}).get(arm) or {}).get("description", "")
        count = sum(other.arm == arm for other in plan)
        costs = [entry.costs.get(cost) for cost in (schema.COST_PARAMETERS, schema.COST_MACS)]
        parameters, macs = ("-" if cost is None else f"{cost / 1e6:,.2f} M" for cost in costs)
        lines.append(f"| {as_markdown(arm)} | {as_markdown(what)} | {count} | {parameters} | {macs} |")
    return "\n".join(lines)[:NOTE_CHARACTERS]


def _start_tags(event: Event) -> dict[str, str]:
    tags = {schema.TAG_ATTEMPT: str(event["attempt"]), schema.TAG_OUTCOME: "running"}
    if event["attempt"] > 1:
        tags[schema.TAG_ERROR] = "-"  # replaces that of the attempt before
    environment = event["environment"]
    if not environment:
        return tags
    machine = environment["machine"]
    tags |= {
        schema.TAG_HOST: machine["hostname"],
        schema.TAG_GPU: describe_devices(event),
        **{f"{schema.TAG_ENVIRONMENT}{name}": version for name, version in environment["packages"].items()},
        f"{schema.TAG_ENVIRONMENT}python": machine["python"],
        f"{schema.TAG_ENVIRONMENT}cpu": f"{machine['cpu']}, {machine['cores']} cores",
    }
    if computation := event.get("computation"):  # absent before 2026-11-27
        facts = {**computation, "precision": event["resources"].get("precision")}
        tags |= {
            f"{schema.TAG_COMPUTATION}{fact}": "-" if value is None else str(value) for fact, value in facts.items()
        }
    for fact, (before, now) in event.get("changes", {}).items():
        tags[f"{schema.TAG_CHANGES}{fact}"] = f"{before} -> {now}"
    if "commit" in environment:
        tags |= {schema.TAG_COMMIT: environment["commit"], schema.TAG_DIRTY: str(environment["dirty"]).lower()}
    return tags


def _end_tags(event: Event) -> dict[str, str]:
    absent = (event["telemetry"] or {}).get("gpu_absent")
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
    names = sorted({gpu["name"] for gpu in environment["gpus"]})
    if not names:
        return str(environment["gpu_absent"])
    if not start["device"].startswith("cuda"):
        return f"not used ({', '.join(names)})"
    share = start.get("resources", {}).get("gpus_per_worker", 1)
    return ", ".join(names) + (f", {share:g} of one a run" if share < 1 else "")


def _storable(text: str) -> str:
    """Return a text that every store takes: without null characters and halves of characters."""
    return text.replace("\0", "\ufffd").encode("utf-8", "backslashreplace").decode("utf-8")


def _metrics(values: Mapping[str, float], seconds: float, step: int) -> list[Metric]:
    return [Metric(name, value, _milliseconds(seconds), step) for name, value in values.items()]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
