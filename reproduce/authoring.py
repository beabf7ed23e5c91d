"""Help users write experiments: a schema for editors, a commented experiment file, and a comparison of experiments.

The functions take experiments and return text or plain values. This module imports neither torch nor FFCV.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from reproduce.analysis import AnalysisConfig
from reproduce.grid import plan_without_data
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
    "analysis": AnalysisConfig,
}
"""The sections of an experiment file and the configs that define their fields."""
TAKEN_FROM_ELSEWHERE = ("classes", "resolution")
"""Fields of the network that follow from the data set and the recipe, so that an experiment must not set them."""
WIDTH = 118


# --- a schema ----------------------------------------------------------------------------------------


def experiment_schema() -> dict[str, Any]:
    """Build the JSON Schema (draft 2020-12) of an experiment file, with a description of every field.

    With it, an editor completes field names and marks mistakes while the user types. It does not cover mistakes that
    depend on several fields or on the data set; `deeper plan` reports those.
    """
    schema = ExperimentConfig.model_json_schema()
    definitions = schema["$defs"]
    for name in ("network", "recipe", "data", "resources"):
        section = SECTIONS[name].model_json_schema()
        properties = {key: value for key, value in section["properties"].items() if key not in _fixed(name)}
        change = {"type": "object", "properties": properties, "additionalProperties": False}
        definitions[f"{name.capitalize()}Change"] = change
        definitions["ArmConfig"]["properties"][name] = {"$ref": f"#/$defs/{name.capitalize()}Change"}
    for name, reference in (
        ("network", "NetworkChange"),
        ("resources", "ResourcesConfig"),
        ("analysis", "AnalysisConfig"),
    ):
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
    """Write an experiment as YAML text under a new name, with a comment on every field.

    Fields that differ from their defaults are set. All other fields are commented out and show their defaults.

    Args:
        experiment: The experiment to start from.
        name: The name of the new experiment.

    Raises:
        SpecError: The name is not valid.
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
    """Write a value on one line of YAML."""
    text: str = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


# --- what differs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A field that has different values in two experiments."""

    field: str
    """The field with its section, such as "recipe.epochs"."""
    first: Any
    """Its value in the first experiment, defaults filled in."""
    second: Any
    """Its value in the second experiment, defaults filled in."""


@dataclass(frozen=True)
class Comparison:
    """The differences between two experiments, and the runs that they share."""

    fields: tuple[Difference, ...]
    """Fields of data, network, recipe, resources, analysis, seeds and probes that differ. They are followed by fields
    of arms that both experiments have under one name, such as "arms.both.recipe.epochs", unless the arms differ as the
    experiments do."""
    only_first: tuple[str, ...]
    """Names of the arms of the first experiment that the second has neither under this nor under another name."""
    only_second: tuple[str, ...]
    """Names of the arms of the second experiment that the first has neither under this nor under another name."""
    renamed: tuple[tuple[str, str], ...]
    """Pairs of names, in the first and the second experiment, of arms that are the same under different names."""
    shared: tuple[tuple[str, str], ...]
    """Pairs of names, in the first and the second experiment, of runs with the same key. Each is trained only once."""
    runs: tuple[int, int]
    """Number of runs of the first and of the second experiment."""


def compare(first: ExperimentConfig, second: ExperimentConfig) -> Comparison:
    """Compare the fields, the arms and the runs of two experiments.

    Arms and runs are compared by their keys, that is, by everything that determines results. Names and descriptions are
    ignored. Data sets with the same path are taken to be the same; they need not be prepared.

    Raises:
        SpecError: An arm of one of the experiments is not valid.
    """
    runs = [_runs(experiment) for experiment in (first, second)]
    shared = tuple((runs[0][key], runs[1][key]) for key in runs[0] if key in runs[1])
    arms = [_arms(experiment) for experiment in (first, second)]
    renamed = [
        (arms[0][content], arms[1][content])
        for content in arms[0]
        if content in arms[1] and arms[0][content] != arms[1][content]
    ]
    fields = list(_field_differences(_content(first), _content(second)))
    own = [_contents_of_arms(experiment) for experiment in (first, second)]
    both = [name for name in own[0] if name in own[1]]
    in_arms = [
        replace(difference, field=f"arms.{name}.{difference.field}")
        for name in both
        for difference in _field_differences(own[0][name], own[1][name])
        if difference not in fields
    ]
    return Comparison(
        fields=(*fields, *in_arms),
        only_first=tuple(name for key, name in arms[0].items() if key not in arms[1] and name not in both),
        only_second=tuple(name for key, name in arms[1].items() if key not in arms[0] and name not in both),
        renamed=tuple(renamed),
        shared=shared,
        runs=(len(runs[0]), len(runs[1])),
    )


def _runs(experiment: ExperimentConfig) -> dict[str, str]:
    """Map the keys of an experiment's runs to their names, on data sets of any size."""
    return {run.key: run.name for run in plan_without_data(experiment)}


def _arms(experiment: ExperimentConfig) -> dict[str, str]:
    """Map each arm's key with seed 0, which identifies its content, to the name of the arm."""
    return {key: name.removesuffix(" s0") for key, name in _runs(experiment.model_copy(update={"seeds": (0,)})).items()}


def _contents_of_arms(experiment: ExperimentConfig) -> dict[str, dict[str, Any]]:
    """Map the name of each arm to its data, network, recipe and resources, with those of the experiment filled in."""
    runs = plan_without_data(experiment.model_copy(update={"seeds": (0,)}))
    return {
        run.arm: {
            "data": run.config.data.model_dump(),
            "network": run.config.network.model_dump(exclude=set(TAKEN_FROM_ELSEWHERE)),
            "recipe": run.config.recipe.model_dump(),
            "resources": run.resources.model_dump(),
        }
        for run in runs
    }


def _content(experiment: ExperimentConfig) -> dict[str, Any]:
    network = {**NetworkConfig().model_dump(), **experiment.network}
    return {
        "data": experiment.data.model_dump(),
        "network": {field: value for field, value in network.items() if field not in TAKEN_FROM_ELSEWHERE},
        "recipe": experiment.recipe.model_dump(),
        "resources": experiment.resources.model_dump(),
        "analysis": experiment.analysis.model_dump(),
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
