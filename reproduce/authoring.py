"""Help for those who write experiments of their own: a commented file, what differs between two, a schema for editors.

An experiment comes in; text and plain values go out. Imports neither torch nor FFCV.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from reproduce.grid import plan
from reproduce.spec import (
    ArmConfig,
    Config,
    DataConfig,
    ExperimentConfig,
    NetworkConfig,
    RecipeConfig,
    ResourcesConfig,
    validated,
)

SECTIONS: Mapping[str, type[Config]] = {
    "data": DataConfig,
    "network": NetworkConfig,
    "recipe": RecipeConfig,
    "resources": ResourcesConfig,
}
"""The sections of an experiment file whose fields have a type of their own."""
TAKEN_FROM_ELSEWHERE = ("classes", "resolution")
"""Fields of the network that follow from the data set and the recipe, so that no experiment gives them."""
WIDTH = 118
ANY_IMAGES, ANY_CLASSES = 10**9, 1000  # stand for a data set that is not prepared yet


# --- a schema ----------------------------------------------------------------------------------------


def experiment_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of an experiment file, with every field's description.

    Editors that read YAML with a schema complete field names and mark mistakes while they are typed. Mistakes that
    depend on several fields, or on the data set, show in `deeper plan`.
    """
    schema = ExperimentConfig.model_json_schema()
    definitions = schema["$defs"]
    for name in ("network", "recipe", "data"):
        section = SECTIONS[name].model_json_schema()
        properties = {key: value for key, value in section["properties"].items() if key not in _fixed(name)}
        change = {"type": "object", "properties": properties, "additionalProperties": False}
        definitions[f"{name.capitalize()}Change"] = change
        definitions["ArmConfig"]["properties"][name] = {"$ref": f"#/$defs/{name.capitalize()}Change"}
    for name, reference in (("network", "NetworkChange"), ("resources", "ResourcesConfig")):
        schema["properties"][name] = {"anyOf": [{"$ref": f"#/$defs/{reference}"}, {"type": "null"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An experiment of Deeper",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def _fixed(section: str) -> tuple[str, ...]:
    return TAKEN_FROM_ELSEWHERE if section == "network" else ()


# --- a commented file --------------------------------------------------------------------------------


def experiment_text(experiment: ExperimentConfig, name: str) -> str:
    """An experiment as a YAML file under a new name, every field with its comment.

    Only what differs from the defaults is set. Every other field stands beside it as a comment with its default, ready
    to be changed. Raises `SpecError` for a name that is not valid.
    """
    renamed = validated(ExperimentConfig, {**experiment.model_dump(), "name": name}, where="")
    lines = [
        f"# Made from {experiment.name}. Fields that are commented out have the value shown, which is the default.",
        f"name: {renamed.name}",
        f"description: {_scalar(experiment.description)}",
    ]
    for section, config in SECTIONS.items():
        given = getattr(experiment, section)
        lines += ["", *_section(section, config, given if isinstance(given, dict) else given.model_dump())]
    lines += ["", "# Named changes: the fields of an arm replace those above.", "arms:"]
    for arm, change in experiment.arms.items():
        lines += [f"  {_scalar(arm)}:", *_arm(change)]
    lines += ["", "# One run for each arm and seed.", f"seeds: {_scalar(list(experiment.seeds))}"]
    probes = ExperimentConfig.model_fields["probes"]
    mark = "" if _differs(probes, experiment.probes) else "# "
    lines += ["", *_comment(probes.description or "", 0), f"{mark}probes: {_scalar(experiment.probes)}", ""]
    return "\n".join(lines)


def _section(name: str, config: type[Config], given: Mapping[str, Any]) -> Iterator[str]:
    fields = {field: info for field, info in config.model_fields.items() if field not in _fixed(name)}
    yield from _comment(config.__doc__ or "", 0)
    yield f"{name}:"
    for field, info in fields.items():
        yield from _comment(info.description or "", 2)
        if field in given and _differs(info, given[field]):
            yield f"  {field}: {_scalar(given[field])}"
        else:
            yield f"  # {field}: {_scalar(info.default)}"


def _differs(info: FieldInfo, value: Any) -> bool:
    return info.is_required() or _plain(value) != _plain(info.default)


def _arm(change: ArmConfig) -> Iterator[str]:
    for field, value in change.model_dump(exclude_defaults=True).items():
        yield f"    {field}: {_scalar(value)}"
    if not change.model_dump(exclude_defaults=True):
        yield "    {}"


def _comment(text: str, indent: int) -> Iterator[str]:
    start = " " * indent + "# "
    yield from textwrap.wrap(" ".join(text.split()), WIDTH, initial_indent=start, subsequent_indent=start)


def _scalar(value: Any) -> str:
    """A value on one line of YAML."""
    text: str = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


# --- what differs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A field that two experiments give different values; None where it has none."""

    field: str
    first: Any
    second: Any


@dataclass(frozen=True)
class Comparison:
    """What sets two experiments apart."""

    fields: tuple[Difference, ...]
    """Of data, network, recipe, resources, seeds and probes, resolved with their defaults."""
    only_first: tuple[str, ...]
    """Arms that the second experiment does not have under any name."""
    only_second: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    """Arms that are the same run under another name."""
    shared: tuple[tuple[str, str], ...]
    """Names of the runs with the same key, which are trained once for both."""
    runs: tuple[int, int]
    """How many runs each experiment has."""


def compare(first: ExperimentConfig, second: ExperimentConfig) -> Comparison:
    """What differs between two experiments as their results do: fields, arms, and runs that they share.

    Data sets of the same path count as the same, prepared or not. Raises `SpecError` where one of them has no plan.
    """
    runs = [_runs(experiment) for experiment in (first, second)]
    shared = tuple((runs[0][key], runs[1][key]) for key in runs[0] if key in runs[1])
    arms = [_arms(experiment) for experiment in (first, second)]
    renamed = [
        (arms[0][content], arms[1][content])
        for content in arms[0]
        if content in arms[1] and arms[0][content] != arms[1][content]
    ]
    return Comparison(
        fields=tuple(_field_differences(_content(first), _content(second))),
        only_first=tuple(name for content, name in arms[0].items() if content not in arms[1]),
        only_second=tuple(name for content, name in arms[1].items() if content not in arms[0]),
        renamed=tuple(renamed),
        shared=shared,
        runs=(len(runs[0]), len(runs[1])),
    )


def _runs(experiment: ExperimentConfig) -> dict[str, str]:
    """Names of an experiment's runs by key."""
    paths = {experiment.data.path, *(arm.data.get("path", experiment.data.path) for arm in experiment.arms.values())}
    planned = plan(
        experiment,
        data_hashes={path: path for path in paths},
        classes=dict.fromkeys(paths, ANY_CLASSES),
        train_images=dict.fromkeys(paths, ANY_IMAGES),
    )
    return {run.key: run.name for run in planned}


def _arms(experiment: ExperimentConfig) -> dict[str, str]:
    """Names of an experiment's arms by what they resolve to: the key of their run with seed 0."""
    return {key: name.removesuffix(" s0") for key, name in _runs(experiment.model_copy(update={"seeds": (0,)})).items()}


def _content(experiment: ExperimentConfig) -> dict[str, Any]:
    network = {**NetworkConfig().model_dump(), **experiment.network}
    return {
        "data": experiment.data.model_dump(),
        "network": {field: value for field, value in network.items() if field not in TAKEN_FROM_ELSEWHERE},
        "recipe": experiment.recipe.model_dump(),
        "resources": experiment.resources.model_dump(),
        "seeds": list(experiment.seeds),
        "probes": list(experiment.probes),
    }


def _field_differences(first: Mapping[str, Any], second: Mapping[str, Any], where: str = "") -> Iterator[Difference]:
    for field in first:
        one, other = first[field], second[field]
        if isinstance(one, Mapping):
            yield from _field_differences(one, other, f"{where}{field}.")
        elif one != other:
            yield Difference(f"{where}{field}", one, other)
