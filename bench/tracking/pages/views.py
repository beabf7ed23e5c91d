"""Describes the views of an experiment that MLflow's pages open at: arms, runs, throughput and telemetry.

A saved view is a tag of the experiment (MLflow 3.15 and later; older servers ignore it). Its value is JSON with a name
and a state: the part of the page's own state that MLflow's "Share" button saves, compressed. A view that MLflow cannot
read is not opened, and the page shows its defaults.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reproduce import schema

VIEW = "mlflow.sharedViewState."
"""Prefix of the tags that hold saved views; the id of the view follows."""
PRIMARY_METRIC = "mlflow.experiment.primaryMetric.name"
"""The tag that names the metric by which MLflow's own charts begin."""
COLUMNS = (
    f"metrics.`{schema.FINAL_TOP1}`",
    f"metrics.`{schema.FINAL_IMAGES_PER_S}`",
    f"metrics.`{schema.GPU_BUSY_PERCENT}`",
    f"metrics.`{schema.SHARED_GPU_BUSY_PERCENT}`",
    f"metrics.`{schema.DATA_WAIT_SHARE}`",
    f"tags.`{schema.TAG_OUTCOME}`",
)
"""The first columns of tables of runs."""
MORE_COLUMNS = (
    *(f"tags.`{schema.TAG_ARM}`", f"tags.`{schema.TAG_SEED}`", "attributes.`Dataset`", "attributes.`Duration`"),
    *(f"tags.`{schema.TAG_GPU}`", f"tags.`{schema.TAG_HOST}`", f"tags.`{schema.TAG_ERROR}`"),
)

Mode = Literal["CHART", "TABLE"]
Charts = Mapping[str, Sequence[tuple[str, str]]]
"""By the title of a section: the metrics of its charts, each with "LINE", over epochs, or "BAR", for the last value."""


@dataclass(frozen=True)
class View:
    """One of the views of an experiment."""

    id: str
    """The beginning of the view's id in MLflow. The plan's hash follows."""
    name: str
    """The name in MLflow's menu of views."""
    mode: Mode
    """Whether its link opens charts or the table."""
    grouped: bool
    """Whether runs are grouped by arm, with means over the seeds."""
    charts: Charts


ACCURACY = (
    (schema.FINAL_TOP1, "BAR"),
    (schema.VAL_TOP1, "LINE"),
    (schema.VAL_LOSS, "LINE"),
    (schema.TRAIN_TOP1, "LINE"),
)
THROUGHPUT = (
    *((schema.FINAL_IMAGES_PER_S, "BAR"), (schema.IMAGES_PER_S, "LINE")),
    *((schema.DATA_WAIT_SHARE, "LINE"), (schema.EPOCH_SECONDS, "LINE")),
)
COST = ((schema.COST_MACS, "BAR"), (schema.COST_PARAMETERS, "BAR"))
TELEMETRY = (
    *((metric, "BAR") for metric in (schema.GPU_BUSY_PERCENT, schema.SHARED_GPU_BUSY_PERCENT)),
    *((metric, "BAR") for metric in (schema.GPU_POWER_W, schema.GPU_ENERGY_J, schema.GPU_MEMORY_GIB)),
    *((metric, "BAR") for metric in (schema.HOST_CPU_PERCENT, schema.HOST_MEMORY_GIB)),
)
VIEWS = (
    View(
        "arms", "Arms: mean over seeds", "CHART", True, {"Accuracy": ACCURACY, "Cost": COST, "Throughput": THROUGHPUT}
    ),
    View("runs", "Runs", "TABLE", False, {"Accuracy": ACCURACY, "Throughput": THROUGHPUT}),
    View("throughput", "Throughput and telemetry", "CHART", False, {"Throughput": THROUGHPUT, "Telemetry": TELEMETRY}),
)
"""The views; the first one answers what an experiment is for, so that `deeper dashboard` opens it."""


def plan_filter(digest: str) -> str:
    """Return the condition by which MLflow's pages show the runs of a plan only."""
    return f'tags."{schema.TAG_PLAN}{digest}" = "yes"'


def shape_views(plan: str, since: float) -> dict[str, str]:
    """Shape the views of the runs of a plan as tags of the experiment.

    Args:
        plan: The plan's hash.
        since: When it became the present plan, in seconds since 1970. It serves as the time of the views, so that the
            tags are the same whenever they are shaped.
    """
    milliseconds = round(since * 1000)
    tags = {PRIMARY_METRIC: schema.FINAL_TOP1}
    for view in VIEWS:
        packed = base64.b64encode(zlib.compress(json.dumps(_state(view, plan)).encode(), 9)).decode()
        content = {"name": view.name, "createdAt": milliseconds, "updatedAt": milliseconds}
        tags[f"{VIEW}{view.id}-{plan}"] = json.dumps({**content, "state": f"deflate;{packed}"})
    return tags


def is_view_of_other_plan(tag: str, plans: Sequence[str]) -> bool:
    """Return whether a tag of an experiment is one of these views, but of none of the plans with these hashes."""
    ids = {f"{VIEW}{view.id}-": view for view in VIEWS}
    return any(tag.startswith(start) and tag.removeprefix(start) not in plans for start in ids)


def view_page(experiment_id: str, plan: str, view: View = VIEWS[0]) -> str:
    """Return the part of a link behind a server's address that opens a view, without a click."""
    query = {
        "workflowType": "machine_learning",  # without it, MLflow opens a page of language-model traces
        "viewStateShareKey": f"{view.id}-{plan}",
        "compareRunsMode": view.mode,
    }
    return f"/#/experiments/{experiment_id}/runs?{urllib.parse.urlencode(query)}"


def runs_page(experiment_id: str) -> str:
    """Return the part of a link behind a server's address that opens the table of all runs of an experiment."""
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


EXPERIMENTS_PAGE = "/#/experiments?workflowType=machine_learning"
"""The part of a link behind a server's address that opens the list of experiments."""


def _state(view: View, plan: str) -> dict[str, Any]:
    # The run that carries the report has no arm. The experiment's note links to it.
    condition = f'{plan_filter(plan)} AND tags."{schema.TAG_ARM}" LIKE "%"'
    keys = [{"mode": "tag", "groupByData": schema.TAG_ARM}]
    sections = list(view.charts)
    return {
        "searchFilter": condition,
        "orderByKey": f"metrics.`{schema.FINAL_TOP1}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*COLUMNS, *MORE_COLUMNS],
        "columnOrder": list(COLUMNS),
        "runsHiddenMode": "SHOW_ALL",  # MLflow's default hides runs beyond the tenth
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys} if view.grouped else None,
        "useGroupedValuesInCharts": True,
        "groupsExpanded": {},
        "hideEmptyCharts": True,
        "isAccordionReordered": True,  # without it, MLflow sorts the sections by name
        "compareRunSections": [
            {"uuid": title, "name": title, "display": True, "isReordered": True, "deleted": False, "columns": 2}
            for title in sections
        ],
        "compareRunCharts": [
            _chart(f"{view.id}-{number}", title, metric, kind)
            for title in sections
            for number, (metric, kind) in enumerate(view.charts[title], start=100 * sections.index(title))
        ],
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _chart(uuid: str, section: str, metric: str, kind: str) -> dict[str, Any]:
    chart = {
        **{"uuid": uuid, "type": kind, "metricSectionId": section, "metricKey": metric, "displayName": metric},
        **{"runsCountToCompare": 1000, "deleted": False, "isGenerated": True},
    }
    if kind == "BAR":  # MLflow draws a generated chart as a line if the metric has a step above 0, as final ones have
        return {**chart, "isGenerated": False}
    line = {"lineSmoothness": 0, "scaleType": "linear", "xAxisScaleType": "linear", "range": {}, "yAxisKey": "metric"}
    axes = {"xAxisKey": "step", "selectedXAxisMetricKey": "", "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
    return {**chart, **line, **axes, "yAxisExpressions": [], "ignoreOutliers": False, "selectedMetricKeys": [metric]}
