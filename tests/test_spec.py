"""Experiments as data: what is valid, what a mistake says, what a run's key depends on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from reproduce import schema
from reproduce.config import ADDED
from reproduce.grid import plan, plan_without_data, used_images
from reproduce.spec import (
    Branches,
    ExperimentConfig,
    NetworkConfig,
    PlannedRun,
    RecipeConfig,
    ResourcesConfig,
    RunConfig,
    SpecError,
    load_experiment,
    validated,
)

RESULTS = Path(__file__).parents[1] / "results"


def experiment(**changes: Any) -> ExperimentConfig:
    content: dict[str, Any] = {
        "name": "small",
        "data": {"path": "pictures"},
        "recipe": {"epochs": 2, "batch_size": 64, "learning_rate": 0.1, "resolution": 32},
        "arms": {"none": {"network": {"aux": "none"}}, "both": {"network": {"aux": "both"}}},
        "seeds": [0, 1],
    }
    return validated(ExperimentConfig, {**content, **changes}, where="small.yaml: ")


def planned(config: ExperimentConfig, *, hash: str = "abc", classes: int = 10, images: int = 1000) -> list[PlannedRun]:
    path = config.data.path
    return plan(config, data_hashes={path: hash}, classes={path: classes}, train_images={path: images})


def test_arms_times_seeds_are_runs_with_seeds_outermost() -> None:
    assert [run.name for run in planned(experiment())] == ["none s0", "both s0", "none s1", "both s1"]


def test_network_takes_classes_from_the_data_and_resolution_from_the_recipe() -> None:
    network = planned(experiment(), classes=7)[0].config.network
    assert (network.classes, network.resolution) == (7, 32)


def test_key_depends_on_what_determines_the_result_and_on_nothing_else() -> None:
    key = planned(experiment())[0].key
    moved = experiment(name="other", data={"path": "elsewhere"}, description="more words")
    assert planned(moved)[0].key == key
    assert planned(experiment(), hash="other images")[0].key != key
    assert planned(experiment(resources={"workers": 2}))[0].key != key
    assert planned(experiment(network={"dropout": 0.5}))[0].key != key
    assert len({run.key for run in planned(experiment())}) == 4


@pytest.mark.parametrize("committed", sorted(RESULTS.glob("*/records/runs/*/config.yaml")), ids=lambda p: p.parent.name)
def test_later_fields_do_not_change_the_keys_of_committed_runs(committed: Path) -> None:
    run = validated(RunConfig, yaml.safe_load(committed.read_text(encoding="utf-8")), where="")
    assert run.key == committed.parent.name
    for branches in set(get_args(Branches)) - {run.network.branches}:
        other = run.network.model_copy(update={"branches": branches})
        assert run.model_copy(update={"network": other}).key != run.key
    twice = run.network.model_copy(update={"aux_input_dropout": 0.5})
    assert run.model_copy(update={"network": twice}).key != run.key


def test_claims_of_one_network_share_its_runs() -> None:
    small = {"claim-heads": "none", "claim-reductions": "reduced", "claim-scales": "mixed"}
    full = {f"{name}-imagenet": arm for name, arm in {**small, "claim-capacity": "reduced"}.items()}
    for shared in (small, full):
        keys = {
            run.key
            for name, arm in shared.items()
            for run in planned(load_experiment(name), images=10_000)
            if (run.arm, run.seed) == (arm, 0)
        }
        assert len(keys) == 1
    shared = {"claim-heads-norm": "plain-both", "claim-dropout": "paper"}
    runs = [run for name, arm in shared.items() for run in planned(load_experiment(name)) if run.arm == arm]
    assert len({run.key for run in runs}) == len(runs) / 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"recipe": {"epochs": 0, "batch_size": 8, "learning_rate": 0.1}},
            "small.yaml: recipe.epochs: 0: use at least 1",
        ),
        (
            {"recipe": {"epochs": True, "batch_size": 8, "learning_rate": 0.1}},
            "small.yaml: recipe.epochs: True: use a number",
        ),
        (
            {"recipe": {"epochs": 10**9, "batch_size": 8, "learning_rate": 0.1}},
            "recipe.epochs: 1000000000: use at most 1000000$",
        ),
        ({"arms": {"a\nb": {}}}, r"^small.yaml: arms.a\\nb: the name of this arm, .* cannot be shown$"),
        ({"seeds": ["0"]}, r"seeds: \['0'\]: use a number without quotes"),
        (
            {"recipe": {"epochs": "1", "batch_size": 8, "learning_rate": 0.1}},
            "recipe.epochs: '1': use a number without quotes",
        ),
        ({"name": "My study"}, "^small.yaml: name: 'My study': use lower-case letters, digits, .* letter or digit$"),
        ({"name": "study.yaml"}, "^small.yaml: name: 'study.yaml' would be taken for a file .*; leave out the ending$"),
        ({"seeds": [True]}, r"seeds: \[True\]: use a number"),
        ({"seeds": [-1]}, "^small.yaml: seeds.0: -1: use at least 0$"),
        ({"recipes": {}}, "recipes: unknown key; known here: analysis, arms, data, description, name"),
        ({"recipe": {"epochs": 1, "batchsize": 8, "learning_rate": 0.1}}, "did you mean batch_size?"),
        (
            {"resources": {"gpus_per_worker": 0.25, "workers": 2}},
            "resources.gpus_per_worker: 0.25 with 2 workers: NCCL takes one worker a GPU; give each a whole GPU",
        ),
        (
            {"resources": {"gpus_per_worker": 2}},
            "resources.gpus_per_worker: 2: use at most 1",
        ),
        ({"seeds": [1, 1]}, r"seeds: \[1, 1\] names a seed twice"),
        ({"network": {"classes": 5}}, "network.classes: 5 is taken from the data set"),
        (
            {"recipe": {"epochs": 1, "batch_size": 8, "learning_rate": 0.1, "resolution": 28}},
            "recipe.resolution: 28: use at least 32",
        ),
    ],
)
def test_a_mistake_names_field_value_and_what_is_valid(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        experiment(**changes)


def test_being_deterministic_is_part_of_a_key_and_not_being_so_keeps_older_keys() -> None:
    free = planned(experiment())[0].config
    assert free.key != planned(experiment(resources={"deterministic": True}))[0].key
    assert free.key == planned(experiment(resources={"deterministic": False, "gpus_per_worker": 0.5}))[0].key
    older = {name: value for name, value in free.model_dump().items() if name != "deterministic"}
    assert RunConfig(**older).key == free.key


@pytest.mark.parametrize(
    ("fraction", "images", "used", "before"),
    [(0.29, 100, 29, 28), (0.57, 100, 57, 56), (0.5, 100, 50, 50), (1 / 3, 100, 33, 33), (1.0, 9469, 9469, 9469)],
)
def test_a_fraction_of_the_images_is_counted_in_decimal_numbers(
    fraction: float, images: int, used: int, before: int
) -> None:
    recipe = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1, "resolution": 32}
    spec = experiment(data={"path": "x", "train_fraction": fraction}, recipe=recipe)
    (run, *_) = plan(spec, data_hashes={"x": "h"}, classes={"x": 10}, train_images={"x": images})
    old = run.config.model_copy(update={"train_images": None})
    assert used_images(run.config, images) == used
    assert used_images(old, images) == before
    assert (run.key == old.key) == (used == before)


def test_other_probes_give_another_key_and_all_of_them_keep_older_keys() -> None:
    key = planned(experiment())[0].key
    assert planned(experiment(probes=["channel_clusters", "train_accuracy"]))[0].key == key
    assert planned(experiment(probes=["train_accuracy"]))[0].key != key
    assert planned(experiment(probes=["train_accuracy"]))[0].config.probes == ("train_accuracy",)
    with pytest.raises(SpecError, match=r"probes\.1: 'accuracy': use 'train_accuracy' or"):
        experiment(probes=["train_accuracy", "accuracy"])


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "workers"),
    [
        ({"gpus_per_worker": 0.25}, 16, 2, 8),
        ({"gpus_per_worker": 0.3}, 16, 2, 6),  # three on each, not six and a bit on both
        ({"gpus_per_worker": 0.1}, 100, 1, 10),
        ({"gpus_per_worker": 0.25, "cpus_per_worker": 4}, 16, 2, 4),
        ({"gpus_per_worker": 1}, 16, 2, 2),
        ({}, 3, 2, 3),
    ],
)
def test_a_share_of_a_gpu_lies_within_one(resources: dict[str, Any], cpus: int, gpus: int, workers: int) -> None:
    assert ResourcesConfig(**resources).workers_within(cpus, gpus) == workers


def test_an_arm_may_have_resources_of_its_own_which_change_only_its_key() -> None:
    resources = {"workers": 1, "cpus_per_worker": 2}
    alone, *_ = planned(experiment(arms={"a": {}}, resources=resources))
    same, more, *_ = planned(experiment(arms={"a": {}, "b": {"resources": {"workers": 2}}}, resources=resources))
    assert same == alone
    assert more.resources == ResourcesConfig(workers=2, cpus_per_worker=2)
    assert more.config.workers == 2
    assert more.key != same.key


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(SpecError) as raised:
        experiment(seeds=[], recipe={"epochs": 0, "batch_size": 0, "learning_rate": 0.1})
    assert len(str(raised.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"arms": {"a": {"network": {"branches": "3x3", "reduction": "naive"}}}},
            "arms.a.network.branches: 3x3 is matched to the module with reduction reduced, not naive; use mixed, or",
        ),
        (
            {"arms": {"a": {"network": {"branches": "1x1", "large_kernel": "3x3"}}}},
            "arms.a.network.branches: 1x1 is matched to the module with large_kernel 5x5, not 3x3; use mixed, or",
        ),
        (
            {"arms": {"a": {"network": {"aux": "none"}}, "b": {"network": {"aux": "none"}}}},
            "arms.b: is the same as arms.a; change a field",
        ),
        (
            {"arms": {"a": {}, "b": {"resources": {"cpus_per_worker": 8}}}},  # the same training, only sooner
            "arms.b: is the same as arms.a; change a field",
        ),
        (
            {"arms": {"a": {"resources": {"workers": 3}}}},
            "arms.a.*: 64 is not divisible by resources.workers 3; use 63",
        ),
        ({"arms": {"a": {"resources": {"worker": 3}}}}, "arms.a.resources.worker: unknown key.*did you mean workers?"),
        ({"arms": {"a": {"network": {"auxx": "none"}}}}, "arms.a.network.auxx: unknown key.*did you mean aux?"),
        ({"arms": {"a": {"network": {"aux": "three"}}}}, "arms.a.network.aux: 'three': use 'none'"),
        ({"resources": {"workers": 3}}, "batch_size: 64 is not divisible by resources.workers 3; use 63"),
    ],
)
def test_an_impossible_arm_is_refused_before_anything_starts(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        planned(experiment(**changes))


def test_a_batch_larger_than_the_training_images_is_refused() -> None:
    with pytest.raises(SpecError, match="batch_size: 64 is more than the 50 training images"):
        planned(experiment(), images=50)


def test_an_unknown_experiment_names_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"'quick' is neither a file .* nor one of .*quickstart"):
        load_experiment("quick")


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("description: größe\n".encode("latin-1"))
    with pytest.raises(SpecError, match=r"mine\.yaml: not UTF-8 at byte 15; save the file as UTF-8"):
        load_experiment(path)


def test_a_negative_seed_is_refused() -> None:
    content = {**load_experiment("quickstart").model_dump(), "seeds": [-1]}
    with pytest.raises(SpecError, match=r"seeds\.0: -1"):
        validated(ExperimentConfig, content, where="")


def test_the_analysis_of_an_experiment_names_one_of_its_arms_and_changes_no_key() -> None:
    plain = load_experiment("quickstart")
    content = {**plain.model_dump(), "analysis": {"baseline": next(iter(plain.arms)), "margin": 0.005}}
    asked = ExperimentConfig.model_validate(content)
    assert [run.key for run in plan_without_data(asked)] == [run.key for run in plan_without_data(plain)]
    with pytest.raises(SpecError, match=r"analysis\.baseline: 'no arm' is not an arm; use one of "):
        validated(ExperimentConfig, {**content, "analysis": {"baseline": "no arm"}}, where="")
    with pytest.raises(SpecError, match=r"analysis\.margin: 1: use less than 0\.5"):
        validated(ExperimentConfig, {**content, "analysis": {"margin": 1}}, where="")


def test_the_defaults_of_added_settings_are_those_that_reports_assume() -> None:
    """Fields that follow from the data are in no experiment file, and so not among them."""
    groups = {"network.": NetworkConfig, "recipe.": RecipeConfig, "": RunConfig}
    fields = {prefix + name: field for prefix, model in groups.items() for name, field in model.model_fields.items()}
    added = {name: field.get_default() for name, field in fields.items() if ADDED in field.metadata}
    del added["train_images"]
    assert json.loads(json.dumps(added)) == schema.ADDED_SETTINGS
