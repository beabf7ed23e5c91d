"""Writes the notes that MLflow shows as the descriptions of experiments and runs, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.records.plan import PlanEntry, RecordedPlan, planned_under
from bench.records.states import RunState
from bench.tracking.pages.arms import arm_description
from bench.tracking.pages.colours import COLOURS
from bench.tracking.pages.views import VIEWS, plan_filter, view_page
from reproduce import schema
from reproduce.text.markdown import as_markdown

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or an experiment."""
NOTE_CHARACTERS = 19_000
"""Length at which the note of an experiment is cut."""
LINKS = "#### Pages: "
"""The beginning of the line of links in the note of an experiment. Reports take headings and tables for no prose."""


def run_note(experiment: str, entry: PlanEntry, state: RunState, what: str = "") -> str:
    """Return a description of a run in Markdown: what it is, and a table of its outcome so far.

    Args:
        experiment: The name of the experiment.
        entry: The run's entry in the plan.
        state: The state of the run.
        what: The description of the run's arm, if the experiment has one.
    """
    rows = [("outcome", state.status), ("attempts", str(state.attempt))]
    for title, name in (("top-1", schema.FINAL_TOP1), ("top-5", schema.FINAL_TOP5)):
        if name in state.metrics:
            rows.append((title, f"{state.metrics[name]:.2%}"))
    rows.append(("duration of all attempts", f"{state.duration_s / 60:.1f} min"))
    if state.error:
        rows.append(("error", as_markdown(" ".join(state.error.split())[:500])))
    table = "\n".join(f"| {title} | {value} |" for title, value in rows)
    title = f"**{as_markdown(entry.arm)}**, seed {entry.seed}, of experiment *{experiment}* (key `{entry.key}`)"
    if what:
        title += f"\n\n{as_markdown(what)}"
    return f"{title}\n\n| | |\n|---|---|\n{table}"


def experiment_note(
    name: str,
    plans: Sequence[RecordedPlan],
    experiment: Mapping[str, Any],
    settings: Mapping[str, str] | None = None,
) -> str:
    """Return a description of an experiment in Markdown, with a table of its arms, cut at `NOTE_CHARACTERS`.

    Args:
        name: The name of the experiment.
        plans: The plans of the experiment, the present one first. Only its arms are described.
        experiment: The content of the experiment file, which provides the descriptions of the experiment and its arms.
            May be empty.
        settings: The settings that set each arm apart, which stand in place of descriptions if there are none.
    """
    plan = plans[0].entries
    lines = [f"## {name}", as_markdown(experiment.get("description") or "")]
    runs = f"{len(plan)} run{'' if len(plan) == 1 else 's'}"
    lines += ["", f"#### Plan `{plans[0].hash}`: {runs}, `{plan_filter(plans[0].hash)}`"]
    if older := len(planned_under(plans)) - len({entry.key for entry in plan}):
        lines.append(f"#### Runs of older plans under this name: {older}")
    if (arms := len({entry.arm for entry in plan})) > len(COLOURS):
        lines.append(f"#### The {arms} arms share {len(COLOURS)} colours: charts tell arms of one colour apart by name")
    words = {entry.arm: arm_description(experiment, entry.arm) for entry in plan}
    column = "what"
    if settings and not any(words.values()):
        column, words = "what sets it apart", words | dict(settings)
    lines += ["", f"| arm | {column} | runs | parameters | multiply-adds |", "|---|---|---|---|---|"]
    for arm, entry in {entry.arm: entry for entry in plan}.items():
        what = words[arm]
        count = sum(other.arm == arm for other in plan)
        costs = [entry.costs.get(cost) for cost in (schema.COST_PARAMETERS, schema.COST_MACS)]
        parameters, macs = ("-" if cost is None else f"{cost / 1e6:,.2f} M" for cost in costs)
        lines.append(f"| {as_markdown(arm)} | {as_markdown(what)} | {count} | {parameters} | {macs} |")
    return "\n".join(lines)[:NOTE_CHARACTERS]


def with_links(note: str, experiment_id: str, plan: str, report_run: str | None) -> str:
    """Return the note of an experiment with a line of links to its views, and to the report if there is one.

    Args:
        note: The note, from `experiment_note` or as it is in MLflow. A line of links that it has is replaced.
        experiment_id: MLflow's id of the experiment.
        plan: The hash of the plan whose runs the pages show.
        report_run: MLflow's id of the run that carries the report of this plan.
    """
    links = [f"[{view.name}]({view_page(experiment_id, plan, view).removeprefix('/')})" for view in VIEWS]
    if report_run is not None:
        links.append(f"[Report](#/experiments/{experiment_id}/runs/{report_run}/artifacts/report/index.html)")
    lines = [line for line in note.splitlines() if not line.startswith(LINKS)]
    title = lines[:1]
    return "\n".join([*title, f"{LINKS}{', '.join(links)}", *lines[1:]])
