"""Says what arms are in MLflow's notes: in the words of the experiment, or by the settings that set them apart."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.records.plan import PlanEntry
from bench.records.reading import DamagedRecordError, read_mapping
from bench.records.states import run_folder
from reproduce import schema

FIELDS = ("data.", "network.", "recipe.", "workers")
"""Beginnings of the names of settings."""
FOLLOWING = ("network.classes", "network.resolution")
"""Settings that follow from others."""
MOST = 4
"""Number of settings that are named for an arm; of more, the first ones are."""


def arm_description(experiment: Mapping[str, Any], arm: str) -> str:
    """Return the description of an arm from the content of an experiment file; empty if it has none."""
    return str(((experiment.get("arms") or {}).get(arm) or {}).get("description") or "")


def recorded_configs(records: Path, entries: Sequence[PlanEntry]) -> dict[str, Mapping[str, Any]]:
    """Read the configuration of one run of each arm; an arm without a run that began is left out."""
    configs: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        if entry.arm not in configs:
            with contextlib.suppress(FileNotFoundError, DamagedRecordError):
                configs[entry.arm] = read_mapping(run_folder(records, entry.key) / schema.ARTIFACT_CONFIG)
    return configs


def planned_configs(experiment: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what the content of an experiment file says of each arm's configuration, which may be empty."""
    groups = ("data", "network", "recipe")
    return {
        arm: {group: {**(experiment.get(group) or {}), **((change or {}).get(group) or {})} for group in groups}
        for arm, change in (experiment.get("arms") or {}).items()
    }


def settings_of_arms(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Name the settings of each arm in which the arms differ, for example "network.aux none".

    Args:
        configs: The configuration of a run of each arm, by the arms' names.
    """
    settings = {arm: _settings(config) for arm, config in configs.items()}
    names = dict.fromkeys(name for own in settings.values() for name in own)
    added = {name: str(default) for name, default in schema.ADDED_SETTINGS.items()}
    varying = [name for name in names if len({own.get(name, added.get(name, "")) for own in settings.values()}) > 1]
    found = {}
    for arm, own in settings.items():
        said = [f"{name} {own[name]}" for name in varying if name in own]
        more = f" and {len(said) - MOST} more" if len(said) > MOST else ""
        found[arm] = ", ".join(said[:MOST]) + more
    return found


def flattened(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields of nested mappings as MLflow names and stores them: names joined by dots, values as text."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    fields = flattened(config)
    return {name: value for name, value in fields if name.startswith(FIELDS) and name not in FOLLOWING}
