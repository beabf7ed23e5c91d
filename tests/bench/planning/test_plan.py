"""Plans: the share of a GPU that is proposed, the choice and the order of runs, and the check of the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.planning.plan import Plan, check_cores, check_disk, make_plan, proposed_gpu_share, select, start_with_part
from reproduce.data import PrepareOptions, synthetic
from reproduce.data.writing import PrepareConfig, prepare
from reproduce.grid import plan_without_data
from reproduce.spec import (
    ArmConfig,
    DataConfig,
    ExperimentConfig,
    NetworkConfig,
    PlannedRun,
    RecipeConfig,
    ResourcesConfig,
    RunConfig,
    Seeds,
    SpecError,
    load_experiment,
    validated,
)

CONFIG = RunConfig(
    data=DataConfig(path="tiny"),
    data_hash="-",
    network=NetworkConfig(classes=10),
    recipe=RecipeConfig(epochs=1, batch_size=8, learning_rate=0.1),
    seeds=Seeds.of(0),
    workers=1,
)


def planned(batch_size: int, *resolutions: int, **resources: Any) -> Plan:
    """A plan with an arm for each resolution."""
    content = {
        "name": "small",
        "data": {"path": "pictures"},
        "recipe": {"epochs": 1, "batch_size": batch_size, "learning_rate": 0.1, "resolution": 224},
        "resources": resources,
        "arms": {f"at {side}": {"recipe": {"resolution": side}} for side in resolutions},
        "seeds": [0],
    }
    experiment = validated(ExperimentConfig, content, where="")
    return Plan(experiment, tuple(plan_without_data(experiment)), {}, {}, {})


@pytest.mark.parametrize(
    ("batch_size", "resolution", "resources", "share"),
    [
        (128, 96, {"gpus_per_worker": 1}, 0.25),
        (64, 224, {"gpus_per_worker": 1}, 0.5),
        (256, 224, {"gpus_per_worker": 1}, None),
        (128, 96, {"gpus_per_worker": 1, "workers": 2}, None),  # NCCL needs a GPU for each rank
        (128, 96, {"gpus_per_worker": 0.5}, None),
        (128, 96, {}, None),
    ],
)
def test_a_share_of_a_gpu_is_proposed_for_runs_with_small_steps(
    batch_size: int, resolution: int, resources: dict[str, Any], share: float | None
) -> None:
    assert proposed_gpu_share(planned(batch_size, resolution, **resources)) == share


def test_the_arm_with_the_largest_steps_decides_which_share_of_a_gpu_is_proposed() -> None:
    assert proposed_gpu_share(planned(128, 64, 96, gpus_per_worker=1)) == 0.25
    assert proposed_gpu_share(planned(128, 64, 224, gpus_per_worker=1)) is None


RUNS = [
    PlannedRun(experiment="first", arm=arm, seed=seed, config=CONFIG) for seed in (0, 1) for arm in ("none", "both")
]


def test_runs_are_selected_by_arm_and_seed() -> None:
    assert [run.name for run in select(RUNS, ["both"], [])] == ["both s0", "both s1"]
    assert [run.name for run in select(RUNS, ["both"], [1])] == ["both s1"]
    assert select(RUNS, [], []) == RUNS


def test_an_unknown_arm_or_seed_is_refused_with_those_that_exist() -> None:
    with pytest.raises(SpecError, match="--arm: 'aux' is not in this experiment; it has both, none"):
        select(RUNS, ["aux"], [])
    with pytest.raises(SpecError, match="--seed: 7 is not in this experiment; it has 0, 1"):
        select(RUNS, [], [7])


def test_every_part_starts_elsewhere_and_still_holds_all_runs() -> None:
    parts = [[RUNS.index(run) for run in start_with_part(RUNS, index, 3)] for index in (1, 2, 3)]
    assert parts == [[0, 3, 1, 2], [1, 2, 0, 3], [2, 0, 3, 1]]


def test_a_run_that_needs_more_cores_than_there_are_is_refused() -> None:
    check_cores(ResourcesConfig(workers=2, cpus_per_worker=4), 8)
    with pytest.raises(SpecError, match="workers: 1 and cpus_per_worker: 99 needs 99 CPUs"):
        check_cores(ResourcesConfig(cpus_per_worker=99), 2)


def test_records_that_do_not_fit_the_disk_are_refused(tmp_path: Path) -> None:
    check_disk(tmp_path / "records", 1)
    with pytest.raises(SpecError, match=r"--records: .* GiB are needed and .* GiB are free"):
        check_disk(tmp_path, 2**60)


def test_a_mistake_in_an_arm_is_named_before_any_data_set_is_asked_for(tmp_path: Path) -> None:
    experiment = load_experiment("quickstart")
    wrong = experiment.model_copy(update={"arms": {"odd": ArmConfig(network={"aux": "bth"})}})
    with pytest.raises(SpecError, match=r"arms\.odd\.network\.aux: 'bth'"):
        make_plan(wrong, tmp_path)


@pytest.mark.parametrize(
    ("source", "command"),
    [
        ("fashion-mnist", "prepare it with: deeper data prepare fashion-mnist --output '{root}/my set'"),
        (
            None,
            "archives (imagenet:FOLDER), such as: deeper data prepare /path/to/images --output '{root}/my set'",
        ),
    ],
)
def test_data_that_is_not_prepared_is_answered_with_the_command(
    source: str | None, command: str, tmp_path: Path
) -> None:
    experiment = load_experiment("quickstart").model_copy(update={"data": DataConfig(path="my set", source=source)})
    with pytest.raises(SpecError) as raised:
        make_plan(experiment, tmp_path)
    assert str(raised.value).endswith(command.format(root=tmp_path))


def test_the_command_that_prepares_data_has_the_options_that_the_experiment_names(tmp_path: Path) -> None:
    data = DataConfig(path="small", source="synthetic", max_resolution=96, write_mode="jpg")
    experiment = load_experiment("quickstart").model_copy(update={"data": data})
    with pytest.raises(SpecError, match=r"prepare synthetic --output .*/small --max-resolution 96 --write-mode jpg$"):
        make_plan(experiment, tmp_path)


def test_data_that_were_prepared_with_other_options_are_refused(tmp_path: Path) -> None:
    config = PrepareConfig(options=PrepareOptions(max_resolution=32), workers=1)
    prepare(synthetic(classes=2, images=2000, size=48, seed=0), tmp_path / "small", config)
    experiment = load_experiment("quickstart")

    def planned_with(**options: Any) -> Plan:
        data = DataConfig(path="small", **options)
        return make_plan(experiment.model_copy(update={"data": data}), tmp_path)

    assert [run.key for run in planned_with(max_resolution=32).runs] == [run.key for run in planned_with().runs]
    with pytest.raises(SpecError, match=r"data\.max_resolution: 40, but small was prepared with 32; .* another folder"):
        planned_with(max_resolution=40)
    arms = {"first": ArmConfig(), "second": ArmConfig(data={"max_resolution": 40})}
    experiment = experiment.model_copy(update={"arms": arms})
    with pytest.raises(SpecError, match=r"data\.max_resolution: 40, but small"):
        planned_with()
