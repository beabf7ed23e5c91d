"""Writes how the runs of an experiment are repeated: an experiment file and the commands that use it."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd
import yaml

from analysis.frames import Recorded
from analysis.tables import counted
from reproduce import schema

FILE = "experiment.yaml"
"""Name of the experiment file in the folder of a report."""
HEAD = (
    "# Made from the recorded settings of the runs, with every field. It plans the same runs under the same keys, if\n"
    "# the prepared data are the same.\n"
)
GROUPS = ("data", "network", "recipe")
REQUIRED = ("epochs", "batch_size", "learning_rate")
"""Fields of the recipe that every experiment file has."""
RESOURCES = {"workers": 1, "deterministic": False}
"""Fields of the resources that are part of a run's key, with their defaults."""
PREPARING = ("max_resolution", "write_mode", "jpeg_quality")
"""Fields of the data set that are options of `deeper data prepare`."""
FOLLOWING = {"network": ("classes", "resolution")}
"""Settings that follow from the data set and the recipe, and that no experiment file has."""


def experiment_file(recorded: Recorded, descriptions: Mapping[str, str]) -> str | None:
    """Write an experiment file that plans the runs of an experiment, from the settings that MLflow holds.

    Args:
        recorded: The experiment.
        descriptions: Descriptions of the arms, by their names.

    Returns:
        The file's text. None if an arm has no run with recorded settings, or if arms differ in what a file has once.
    """
    runs = recorded.runs
    grid = (
        recorded.choice.plan.runs.values()
        if recorded.choice.plan
        else list(zip(runs["arm"], runs["seed"], strict=True))
    )
    arms = {arm: _settings(runs[runs["arm"] == arm]) for arm in dict.fromkeys(arm for arm, _ in grid)}
    if any("network" not in settings for settings in arms.values()):
        return None
    first, *others = arms.values()
    if any(other.get("probes") != first.get("probes") for other in others):
        return None
    shared = {
        group: {
            name: value
            for name, value in first[group].items()
            if all(other[group].get(name, ...) == value for other in others)
        }
        for group in GROUPS
    }
    shared_resources = _resources(first)
    content: dict[str, Any] = {
        "name": recorded.experiment,
        **({"description": recorded.description} if recorded.description else {}),
        # What an experiment file requires stands in it once, and again where an arm has another value.
        "data": {"path": first["data"]["path"], **shared["data"]},
        "network": shared["network"],
        "recipe": {
            **{name: first["recipe"][name] for name in REQUIRED},
            **shared["recipe"],
        },
        "resources": {"workers": shared_resources["workers"]},
        "arms": {},
        "seeds": [int(seed) for seed in dict.fromkeys(seed for _, seed in grid)],
    }
    if shared_resources["deterministic"]:
        content["resources"]["deterministic"] = True
    if "probes" in first:
        content["probes"] = first["probes"]
    for arm, settings in arms.items():
        own = {
            group: {name: value for name, value in settings[group].items() if name not in shared[group]}
            for group in GROUPS
        }
        described = {"description": descriptions[arm]} if descriptions.get(arm) else {}
        resources = _resources(settings).items()
        own["resources"] = {name: value for name, value in resources if value != shared_resources[name]}
        content["arms"][arm] = described | {group: values for group, values in own.items() if values}
    return HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def _resources(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resources of an arm that are part of its runs' keys."""
    return {name: settings.get(name, default) for name, default in RESOURCES.items()}


def repeat_commands(recorded: Recorded, *, has_file: bool) -> list[tuple[str, str]]:
    """List the commands that repeat an experiment, each with what it does.

    Args:
        recorded: An experiment with at least one run that began.
        has_file: Whether the report has an experiment file.
    """
    runs = recorded.described
    commit, asides = _most(runs, schema.TAG_COMMIT), ""
    if schema.TAG_COMMIT in runs and (number := runs[schema.TAG_COMMIT].nunique()) > 1:
        asides = f"; the runs are of {number} commits, and this is that of the most"
    if schema.TAG_DIRTY in runs and runs[schema.TAG_DIRTY].eq("true").any():
        asides += "; some runs had local changes, which are in code-*.diff of their records"
    path, source = _most(runs, "data.path"), _most(runs, "data.source")
    digest = _most(runs, schema.TAG_DATA_HASH) or _most(runs, "data_hash")
    what = source if source not in ("", "None", "folder") else "FOLDER_OR_TAR"
    experiment = FILE if has_file else recorded.experiment
    plan = f" --plan {recorded.choice.plan.hash}" if recorded.choice.plan else ""
    steps = []
    if commit:
        steps.append((f"git checkout {commit[:12]} && make setup", f"The code{asides}."))
    if path:
        prepared, folder = "The data", shlex.quote(f"data/{path}")
        if digest:
            prepared += f"; deeper data verify {folder} has to print a hash that begins with {digest[:12]}"
        options = [
            f" --{name.replace('_', '-')} {value}"
            for name in PREPARING
            if (value := _most(runs, f"data.{name}")) not in ("", "None")
        ]
        steps.append((f"deeper data prepare {what} --output {folder}{''.join(options)}", f"{prepared}."))
    run = f"The {counted(len(recorded.runs), 'run')}"
    run += ", from the file beside this page." if has_file else "; if it is not shipped, name its file."
    steps.append((f"deeper run {experiment}", run))
    steps.append((f"deeper report {recorded.experiment}{plan}", "This report, of the same plan."))
    return steps


def _settings(runs: pd.DataFrame) -> dict[str, Any]:
    """Read the settings of an arm from the parameters of its runs, as nested mappings."""
    started = runs[runs["run_id"].notna()]
    found: dict[str, Any] = {}
    if started.empty:
        return found
    # Of a field that came later, older runs recorded nothing: the first run that did says what all had.
    for name, text in started.bfill().iloc[0].dropna().items():
        group, _, field = str(name).partition(".")
        if group in GROUPS and field and field not in FOLLOWING.get(group, ()):
            found.setdefault(group, {})[field] = _value(str(text))
        elif name in ("workers", "deterministic", "probes"):
            found[str(name)] = _value(str(text))
    complete = "network" in found and "path" in found.get("data", {}) and set(REQUIRED) <= set(found.get("recipe", {}))
    return found if complete else {}


def _value(text: str) -> Any:
    """Read a value of a configuration, which MLflow holds as Python prints it."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return list(value) if isinstance(value, tuple) else value


def _most(runs: pd.DataFrame, column: str) -> str:
    if column not in runs or runs[column].isna().all():
        return ""
    return str(runs[column].mode().iloc[0])
