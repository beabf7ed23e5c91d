"""What is proposed before anything is spent."""

from __future__ import annotations

from typing import Any

import pytest

from bench.planning.plan import proposed_share
from reproduce.spec import ExperimentConfig, validated


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
        (128, 96, {"gpus_per_worker": 1, "workers": 2}, None),  # NCCL takes one rank a device
        (128, 96, {"gpus_per_worker": 0.5}, None),
        (128, 96, {}, None),
    ],
)
def test_runs_of_small_steps_are_proposed_to_share_a_gpu(
    batch_size: int, resolution: int, resources: dict[str, Any], share: float | None
) -> None:
    assert proposed_share(experiment(batch_size, resolution, **resources)) == share
