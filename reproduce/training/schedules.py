"""Learning rate and input side as pure functions of progress: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from reproduce.spec import RecipeConfig

ONE_CYCLE_START = 1 / 25  # of the peak
ONE_CYCLE_RISE = 0.3  # of all epochs, where the recipe names no warm-up
RESIZING_SHARE = 0.75  # of all epochs
RESIZING_PIXELS = 16
PAPER_DECAY, PAPER_DECAY_EPOCHS = 0.96, 8  # P section 6


def learning_rate(recipe: RecipeConfig, epochs_done: float) -> float:
    """Learning rate after `epochs_done` epochs, a fraction within an epoch.

    The warm-up rises linearly from 0 (one-cycle: from 1/25 of the peak, over 30 % of the epochs where the recipe
    names no warm-up). What comes after it spans the epochs that are left; only the epochs of `step` and `paper`
    count from the start of the training, as published recipes have them.

    Sources: paper: P section 6. poly: Caffe's `lr_policy: "poly"`. one-cycle: arXiv:1708.07120, linear both ways.
    """
    peak, warmup = recipe.learning_rate, recipe.warmup_epochs
    start = 0.0
    if recipe.schedule == "one-cycle":
        warmup = warmup or ONE_CYCLE_RISE * recipe.epochs
        start = ONE_CYCLE_START
    if epochs_done < warmup:
        return peak * (start + (1 - start) * epochs_done / warmup)
    left = max(0.0, 1 - (epochs_done - warmup) / (recipe.epochs - warmup))
    match recipe.schedule:
        case "constant":
            return peak
        case "step":
            return peak * recipe.decay ** math.floor(epochs_done / recipe.decay_epochs)
        case "paper":
            return peak * PAPER_DECAY ** math.floor(epochs_done / PAPER_DECAY_EPOCHS)
        case "poly":
            return float(peak * left**recipe.power)
        case "cosine":
            return peak * (1 - math.cos(math.pi * left)) / 2
        case "one-cycle":
            return peak * left


def step_learning_rate(recipe: RecipeConfig, *, epoch: int, step: int, steps: int) -> float:
    """Learning rate of one step (epoch and step from 0): that of its middle, so that neither a warm-up's first
    step nor a decay's last one is wasted at zero."""
    return learning_rate(recipe, epoch + (step + 0.5) / steps)


def input_side(recipe: RecipeConfig, epoch: int) -> int:
    """Side of the training images in pixels (progressive resizing, see `RecipeConfig.resolution_start`).

    The last epoch always has the full side, however few epochs there are.
    """
    start, end = recipe.resolution_start, recipe.resolution
    ramp = min(RESIZING_SHARE * recipe.epochs, recipe.epochs - 1)
    if start is None or epoch >= ramp:
        return end
    return start + RESIZING_PIXELS * math.floor((end - start) * epoch / ramp / RESIZING_PIXELS)


def epochs_at(recipe: RecipeConfig, side: int) -> int:
    """How many epochs train at this input side."""
    return sum(input_side(recipe, epoch) == side for epoch in range(recipe.epochs))
