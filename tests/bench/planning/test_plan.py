"""Plans: the share of a GPU that is proposed, the choice and the order of runs, and the check of the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.planning.plan import check_disk, make_plan, proposed_gpu_share, select, start_with_part
from reproduce.spec import (
    ArmConfig,
    DataConfig,
    ExperimentConfig,
    NetworkConfig,
    PlannedRun,
    RecipeConfig,
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


def experiment(batch_size: int, resolution: int, **resources: Any) -> ExperimentConfig:
    content = {
        "name": "small",
        "data": {"path": "pictures"},
        "recipe": {"epochs": 1, "batch_size": batch_size, "learning_rate": 0.1, "resolution": resolution},
        "resources": resources,
        "arms": {"none": {}},
        "seeds": [0],
    }
    return validated(ExperimentConfig, content, where="")


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
    assert proposed_gpu_share(experiment(batch_size, resolution, **resources)) == share


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
