"""Experiments of one's own: the commented file, the schema, what differs."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml

from reproduce.authoring import compare, experiment_schema, experiment_text
from reproduce.spec import (
    DataConfig,
    ExperimentConfig,
    NetworkConfig,
    RecipeConfig,
    ResourcesConfig,
    SpecError,
    from_yaml,
    load_experiment,
    shipped_experiments,
)


def parsed(text: str) -> ExperimentConfig:
    return from_yaml(ExperimentConfig, text, what="an experiment", where="test")


def changed(name: str, **fields: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({**load_experiment(name).model_dump(), **fields})


# --- the commented file ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_experiments())
def test_a_new_file_asks_for_the_same_runs_as_the_experiment_it_was_made_from(name: str) -> None:
    experiment = load_experiment(name)
    comparison = compare(experiment, parsed(experiment_text(experiment, "mine")))
    assert comparison.fields == comparison.only_first == comparison.only_second == comparison.renamed == ()
    assert len(comparison.shared) == len(experiment.arms) * len(experiment.seeds)


def test_a_new_file_sets_only_what_differs_from_the_defaults() -> None:
    content = yaml.safe_load(experiment_text(load_experiment("ablation-imagenette"), "mine"))
    assert content["resources"] is None
    assert "momentum" not in content["recipe"]
    assert content["recipe"]["nesterov"] is True


def test_a_new_file_has_the_probes_of_its_experiment() -> None:
    experiment = changed("quickstart", probes=["train_accuracy"])
    assert parsed(experiment_text(experiment, "mine")).probes == ("train_accuracy",)
    assert [difference.field for difference in compare(experiment, load_experiment("quickstart")).fields] == ["probes"]


def test_a_new_file_shows_every_field_that_may_be_given() -> None:
    text = experiment_text(load_experiment("quickstart"), "mine")
    fields = {
        name for config in (DataConfig, NetworkConfig, RecipeConfig, ResourcesConfig) for name in config.model_fields
    }
    shown = {line.strip().removeprefix("# ").partition(":")[0] for line in text.splitlines()}
    assert fields - shown == {"classes"}


def test_every_field_of_a_new_file_can_be_uncommented() -> None:
    lines = experiment_text(load_experiment("quickstart"), "mine").splitlines()
    fields = {name for config in (NetworkConfig, RecipeConfig, ResourcesConfig) for name in config.model_fields}
    active = [
        line.replace("# ", "", 1) if line.strip().startswith("# ") and line.split()[1].rstrip(":") in fields else line
        for line in lines
    ]
    assert compare(parsed("\n".join(lines)), parsed("\n".join(active))).fields == ()


def test_names_that_yaml_would_read_as_something_else_survive() -> None:
    arms = {
        "off": {"network": {"aux": "none"}},
        "001": {"network": {"aux": "aux1"}},
        "a # b": {"network": {"aux": "aux2"}},
    }
    experiment = changed("quickstart", arms=arms, description="half: #1, 'quoted'")
    again = parsed(experiment_text(experiment, "mine"))
    assert list(again.arms) == list(arms)
    assert again.description == experiment.description


def test_a_name_that_is_not_valid_is_refused() -> None:
    with pytest.raises(SpecError, match="name: 'My Study'"):
        experiment_text(load_experiment("quickstart"), "My Study")


# --- the schema ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = experiment_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", shipped_experiments())
def test_the_schema_accepts_what_is_shipped(name: str, validator: jsonschema.Draft202012Validator) -> None:
    content = yaml.safe_load(experiment_text(load_experiment(name), "mine"))
    assert [error.message for error in validator.iter_errors(content)] == []


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("recipe", "epoch"), 3),
        (("recipe", "epochs"), 0),
        (("recipe", "epochs"), "many"),
        (("network", "aux"), "all"),
        (("network", "classes"), 10),
        (("arms", "x"), {"network": {"auxiliary": "both"}}),
        (("arms", "x"), {"recipe": {"batch_size": 0}}),
        (("resources", "gpus_per_worker"), 2),
        (("seeds",), []),
        (("colour",), "red"),
    ],
)
def test_the_schema_marks_a_mistake(
    where: tuple[str, ...], value: Any, validator: jsonschema.Draft202012Validator
) -> None:
    content = yaml.safe_load(experiment_text(load_experiment("quickstart"), "mine"))
    *sections, field = where
    target = content
    for section in sections:
        target[section] = target[section] or {}
        target = target[section]
    target[field] = value
    assert not validator.is_valid(content)


def test_the_schema_describes_fields_in_words() -> None:
    recipe = experiment_schema()["$defs"]["RecipeConfig"]["properties"]
    assert recipe["batch_size"]["description"] == "Images of one optimiser step, over all workers."


# --- what differs ----------------------------------------------------------------------------------


def test_a_changed_field_is_named_with_both_values() -> None:
    one = load_experiment("quickstart")
    other = changed(
        "quickstart", recipe={**one.recipe.model_dump(), "epochs": 9}, network={**one.network, "norm": "none"}
    )
    found = {(item.field, item.first, item.second) for item in compare(one, other).fields}
    assert found == {("recipe.epochs", one.recipe.epochs, 9), ("network.norm", "batch", "none")}
    assert compare(one, other).shared == ()


def test_arms_of_one_name_differ_only_by_fields_of_their_own() -> None:
    one = load_experiment("quickstart")
    first, *_ = one.arms
    arms = {name: arm.model_dump() for name, arm in one.arms.items()}
    arms[first]["recipe"] = {"learning_rate": 0.123}
    comparison = compare(one, changed("quickstart", arms=arms, recipe={**one.recipe.model_dump(), "epochs": 9}))
    assert comparison.only_first == comparison.only_second == ()
    assert [item.field for item in comparison.fields] == ["recipe.epochs", f"arms.{first}.recipe.learning_rate"]


def test_a_renamed_arm_is_the_same_run() -> None:
    one = load_experiment("quickstart")
    arms = {("first" if index == 0 else name): arm.model_dump() for index, (name, arm) in enumerate(one.arms.items())}
    comparison = compare(one, changed("quickstart", arms=arms))
    assert comparison.renamed == ((next(iter(one.arms)), "first"),)
    assert comparison.only_first == comparison.only_second == ()
    assert len(comparison.shared) == len(one.arms) * len(one.seeds)


def test_arms_and_seeds_that_one_experiment_has_alone_are_told() -> None:
    one = load_experiment("quickstart")
    names = list(one.arms)
    other = changed(
        "quickstart", arms={name: one.arms[name].model_dump() for name in names[1:]}, seeds=[*one.seeds, 99]
    )
    comparison = compare(one, other)
    assert comparison.only_first == (names[0],)
    assert [item.field for item in comparison.fields] == ["seeds"]
    assert len(comparison.shared) == (len(names) - 1) * len(one.seeds)


def test_shipped_experiments_share_runs() -> None:
    comparison = compare(load_experiment("claim-heads"), load_experiment("claim-reductions"))
    assert 0 < len(comparison.shared) < comparison.runs[0]
