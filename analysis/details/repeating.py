"""Writes how the runs of an experiment are repeated: an experiment file, and the steps that use it."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml

from analysis.frames import Recorded
from analysis.tables import counted
from reproduce import schema

FILE = "experiment.yaml"
"""Name of the experiment file in the folder of a report."""
MADE = "# Made from the recorded settings of the runs"
"""The beginning of every such file."""
HEAD = (
    f"{MADE}, with every field that all of them recorded. It plans\n"
    "# the same runs under the same keys, if the prepared data are the same.\n"
)
GROUPS = ("data", "network", "recipe")
REQUIRED = ("epochs", "batch_size", "learning_rate")
"""Fields of the recipe that every experiment file has."""
RESOURCES = {"workers": 1, "deterministic": False}
"""Fields of the resources that are part of a run's key, with their defaults."""
PREPARING = ("max_resolution", "write_mode", "jpeg_quality")
"""Fields of the data set that are options of `deeper data prepare`, and part of no run's key."""
FOLLOWING = {"network": ("classes", "resolution")}
"""Settings that follow from the data set and the recipe, and that no experiment file has."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of repeating an experiment."""

    command: str = ""
    """A command that the code of the step takes. Empty if the step is said in words."""
    what: str
    """What the step does, in sentences."""


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
    partial = _recorded_by_some(runs)
    arms = {arm: _settings(runs[runs["arm"] == arm], partial) for arm in dict.fromkeys(arm for arm, _ in grid)}
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


def repeat_steps(recorded: Recorded, *, has_file: bool, commit: str = "") -> list[Step]:
    """List the steps that repeat an experiment.

    The commands of other code than the one that writes the report are not known here: then steps are said in words.

    Args:
        recorded: An experiment with at least one run that began.
        has_file: Whether the report has an experiment file.
        commit: The commit of the code that writes the report; empty if it is not known.
    """
    runs = recorded.described
    commits = set(runs[schema.TAG_COMMIT].dropna()) if schema.TAG_COMMIT in runs else set()
    is_own = bool(commit) and commits == {commit}
    return [_code(runs, is_own=is_own), *_data(runs, is_own=is_own), *_running(recorded, has_file, is_own=is_own)]


def _code(runs: pd.DataFrame, *, is_own: bool) -> Step:
    commit = _most(runs, schema.TAG_COMMIT)
    if not commit:
        return Step(what="The commit of the code was not recorded, so that the next steps name no commands.")
    said = ["The code."]
    if (number := runs[schema.TAG_COMMIT].nunique()) > 1:
        said.append(f"The runs come from {number} commits; most were made with this one.")
    if schema.TAG_DIRTY in runs and runs[schema.TAG_DIRTY].eq("true").any():
        said.append("Some runs had local changes, which are in code-*.diff of their records.")
    if is_own:
        return Step(command=f"git checkout {commit[:12]} && make setup", what=" ".join(said))
    said.append(
        "It may be another version than the one that wrote this report, with other commands and options: its README.md "
        "says how it is set up, and its deeper --help what it can do."
    )
    return Step(command=f"git checkout {commit[:12]}", what=" ".join(said))


def _data(runs: pd.DataFrame, *, is_own: bool) -> list[Step]:
    path, source = _most(runs, "data.path"), _most(runs, "data.source")
    if not path:
        return []
    folder = shlex.quote(f"data/{path}")
    known = [name for name in PREPARING if f"data.{name}" in runs]
    options = [
        f"--{name.replace('_', '-')} {value}"
        for name in known
        if (value := _most(runs, f"data.{name}")) not in ("", "None")
    ]
    digest = (_most(runs, schema.TAG_DATA_HASH) or _most(runs, "data_hash"))[:12]
    is_named = source not in ("", "None", "folder")
    if is_own and is_named:
        command = " ".join(["deeper data prepare", source, "--output", folder, *options])
        check = f"; deeper data verify {folder} has to print a hash that begins with {digest}" if digest else ""
        return [Step(command=command, what=f"The data{check}.")]
    origin = f"from the source {source}" if is_named else "from your own copy of the images"
    how = f"with the options {' '.join(options)}" if options else ""
    if not known and not is_named:
        how = "with options that were not recorded"
    said = f"Prepare the data {origin} in the folder {folder}{f', {how}' if how else ''}."
    return [Step(what=f"{said} Their hash has to begin with {digest}." if digest else said)]


def _running(recorded: Recorded, has_file: bool, *, is_own: bool) -> list[Step]:
    experiment, number = recorded.experiment, counted(len(recorded.runs), "run")
    plan = f" --plan {recorded.choice.plan.hash}" if recorded.choice.plan else ""
    if is_own:
        source = "from the file beside this report" if has_file else "if it is not shipped, name its file"
        return [
            Step(command=f"deeper run {FILE if has_file else experiment}", what=f"The {number}, {source}."),
            Step(command=f"deeper report {experiment}{plan}", what="This report, of the same plan."),
        ]
    file = f"the file {FILE} beside this report" if has_file else f"the file of the experiment {experiment}"
    return [Step(what=f"Run the {number} of {file}, and make the report.")]


def _recorded_by_some(runs: pd.DataFrame) -> set[str]:
    """Name the settings that a part of the runs has not recorded, since they came later."""
    started = runs[runs["run_id"].notna()]
    return set(started.columns[started.isna().any()])


def _settings(runs: pd.DataFrame, partial: set[str]) -> dict[str, Any]:
    """Read the settings of an arm from the parameters of its runs, as nested mappings.

    Of the settings in `partial`, only those are read that differ from what runs without them did.
    """
    started = runs[runs["run_id"].notna()]
    found: dict[str, Any] = {}
    if started.empty:
        return found
    for column, text in started.bfill().iloc[0].dropna().items():
        name = str(column)
        group, _, field = name.partition(".")
        is_setting = group in GROUPS and field and field not in FOLLOWING.get(group, ())
        if not is_setting and name not in ("workers", "deterministic", "probes"):
            continue
        value = _value(str(text))
        if name in partial and (field in PREPARING or schema.ADDED_SETTINGS.get(name, ...) == value):
            continue
        if is_setting:
            found.setdefault(group, {})[field] = value
        else:
            found[name] = value
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
