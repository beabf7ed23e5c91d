from __future__ import annotations

from typing import Any

import pytest

from reproduce.spec import RecipeConfig
from reproduce.training.schedules import epochs_at, input_side, learning_rate, step_learning_rate


def recipe(**settings: Any) -> RecipeConfig:
    return RecipeConfig(**{"epochs": 20, "batch_size": 1, "learning_rate": 1.0} | settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, {0: 1, 19.9: 1}),
        ({"schedule": "step", "decay": 0.1, "decay_epochs": 7.5}, {0: 1, 7.49: 1, 7.5: 0.1, 15: 0.01}),
        ({"schedule": "paper"}, {0: 1, 7.99: 1, 8: 0.96, 16: 0.96**2}),
        ({"schedule": "poly"}, {0: 1, 10: 0.5**0.5, 15: 0.5, 20: 0}),
        ({"schedule": "cosine"}, {0: 1, 10: 0.5, 20: 0}),
        ({"schedule": "one-cycle"}, {0: 1 / 25, 3: 1 / 25 + 24 / 25 / 2, 6: 1, 13: 0.5, 20: 0}),
        ({"schedule": "one-cycle", "warmup_epochs": 10}, {0: 1 / 25, 10: 1, 15: 0.5}),
        ({"schedule": "cosine", "warmup_epochs": 4}, {0: 0, 1: 0.25, 4: 1, 12: 0.5, 20: 0}),
        ({"schedule": "constant", "warmup_epochs": 0.5}, {0.25: 0.5, 0.5: 1, 20: 1}),
    ],
)
def test_schedules_follow_their_formulas(settings: dict[str, Any], expected: dict[float, float]) -> None:
    for epochs_done, rate in expected.items():
        assert learning_rate(recipe(**settings, learning_rate=3.0), epochs_done) == pytest.approx(3 * rate, abs=1e-12)


def test_neither_the_first_nor_the_last_step_is_wasted_at_zero() -> None:
    cosine = recipe(schedule="cosine", warmup_epochs=1)
    assert step_learning_rate(cosine, epoch=0, step=0, steps=10) == pytest.approx(0.05)
    assert step_learning_rate(cosine, epoch=19, step=9, steps=10) > 0


def test_progressive_resizing_goes_up_in_steps_of_16_and_ends_at_the_full_side() -> None:
    growing = recipe(resolution_start=128, resolution=224)
    sides = [input_side(growing, epoch) for epoch in range(20)]
    assert sides[0] == 128
    assert sides[15:] == [224] * 5  # three quarters of 20 epochs
    assert sides == sorted(sides)
    assert {side % 16 for side in sides} == {0}
    assert len(set(sides)) == 7


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_last_epoch_has_the_full_side_however_few_there_are(epochs: int) -> None:
    assert input_side(recipe(epochs=epochs, resolution_start=128), epochs - 1) == 224


def test_epochs_are_counted_by_their_side() -> None:
    settings = RecipeConfig(epochs=8, batch_size=8, learning_rate=0.1, resolution=64, resolution_start=32)
    assert [epochs_at(settings, side) for side in (32, 48, 64, 80)] == [3, 3, 2, 0]
