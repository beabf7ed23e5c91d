"""Compute learning rate and input side as pure functions of the progress; checkpoints hold no state of schedules."""

from __future__ import annotations

import math

from reproduce.spec import RecipeConfig

ONE_CYCLE_START = 1 / 25  # of the peak
ONE_CYCLE_RISE = 0.3  # of all epochs, if the recipe sets no warm-up
RESIZING_SHARE = 0.75  # of all epochs
RESIZING_PIXELS = 16
PAPER_DECAY, PAPER_DECAY_EPOCHS = 0.96, 8  # Szegedy et al. 2014, section 6


def learning_rate(recipe: RecipeConfig, epochs_done: float) -> float:
    """Compute the learning rate at a point of the training.

    During the warm-up the rate rises linearly to the recipe's peak: from 0, or with "one-cycle" from 1/25 of the peak.
    With "one-cycle", the warm-up takes 30 % of the epochs if the recipe sets none. After the warm-up, "poly", "cosine"
    and "one-cycle" reach 0 at the end of the last epoch. "step" and "paper" count their epochs from the start of the
    training, warm-up included, as published recipes do.

    Sources: "paper" is Szegedy et al. 2014, section 6; "poly" is Caffe's `lr_policy: "poly"`; "one-cycle" is Smith and
    Topin 2017 (arXiv:1708.07120), linear in both directions.

    Args:
        recipe: The recipe.
        epochs_done: Epochs since the start of the training; fractional within an epoch.
    """
    peak, warmup = recipe.learning_rate, recipe.warmup_epochs
    start = 0.0
    if recipe.schedule == "one-cycle":
        warmup = warmup or ONE_CYCLE_RISE * recipe.epochs
        start = ONE_CYCLE_START
    if epochs_done < warmup:
        return peak * (start + (1 - start) * epochs_done / warmup)
    remaining = max(0.0, 1 - (epochs_done - warmup) / (recipe.epochs - warmup))
    match recipe.schedule:
        case "constant":
            return peak
        case "step":
            return peak * recipe.decay ** math.floor(epochs_done / recipe.decay_epochs)
        case "paper":
            return peak * PAPER_DECAY ** math.floor(epochs_done / PAPER_DECAY_EPOCHS)
        case "poly":
            return float(peak * remaining**recipe.power)
        case "cosine":
            return peak * (1 - math.cos(math.pi * remaining)) / 2
        case "one-cycle":
            return peak * remaining


def step_learning_rate(recipe: RecipeConfig, *, epoch: int, step: int, steps: int) -> float:
    """Compute the learning rate of one step: the value of the schedule at the middle of the step.

    Taken there, neither the first step of a warm-up nor the last step of a decay has a learning rate of 0.

    Args:
        recipe: The recipe.
        epoch: The epoch, from 0.
        step: The step within the epoch, from 0.
        steps: Number of steps of an epoch.
    """
    return learning_rate(recipe, epoch + (step + 0.5) / steps)


def input_side(recipe: RecipeConfig, epoch: int) -> int:
    """Compute the side of the training images of an epoch, in pixels; see `RecipeConfig.resolution_start`.

    The last epoch always has the full resolution, even in a run of one or two epochs.

    Args:
        recipe: The recipe.
        epoch: The epoch, from 0.
    """
    start, end = recipe.resolution_start, recipe.resolution
    ramp = min(RESIZING_SHARE * recipe.epochs, recipe.epochs - 1)
    if start is None or epoch >= ramp:
        return end
    return start + RESIZING_PIXELS * math.floor((end - start) * epoch / ramp / RESIZING_PIXELS)


def epochs_at(recipe: RecipeConfig, side: int) -> int:
    """Count the epochs of a recipe whose training images have the given side, in pixels."""
    return sum(input_side(recipe, epoch) == side for epoch in range(recipe.epochs))
