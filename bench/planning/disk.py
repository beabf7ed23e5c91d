"""Predicts how many bytes and files the records of an experiment take, while its runs train and afterwards.

Sizes of checkpoints follow from the networks. The other sizes were measured in November 2026 on runs
of 3 and of 30 epochs with 3 925 validation images and a sample of telemetry a second, on a machine without a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.planning.costs import Stored, parameter_size, state_size
from bench.planning.plan import Plan
from reproduce.spec import PlannedRun

TENSOR_BYTES = 500
"""Bytes of a tensor in a checkpoint beside its numbers: its names, headers and alignment."""
EPOCH_BYTES = 950
START_BYTES = 30_000
"""Configuration, environment, log, uncommitted changes, and what Parquet files take without rows."""
IMAGE_BYTES = 5.3
"""Bytes of the predictions for a validation image."""
SECOND_BYTES = 155
"""Bytes of telemetry a second, both of its files, of a host without GPUs."""
RUN_FILES = 11
"""Files of a finished run: configuration, environment, events, checkpoint, predictions, telemetry (2), progress, lock,
lease and log. Code with uncommitted changes adds one."""
TRAINING_FILES = 1
"""Files that a run has only while it trains: the checkpoint before and one that is being written, without the
predictions and the summary of telemetry."""
CHECKPOINTS = 3
"""Checkpoints that a run has for a moment while it trains: the newest, the one before, and one being written."""
EXPERIMENT_FILES = 4
STORE_BYTES = 1_000_000
STORE_FILES = 8
"""MLflow's embedded store without runs (1), the publisher's files (5) and the logs of Ray and the publisher."""
STORE_TRAINING_FILES = 2
"""Files that SQLite has beside the embedded store while the publisher writes to it."""
RUN_STORE_FILES = 6
"""Copies that the embedded store keeps of a run's files, and the publisher's cursor."""


@dataclass(frozen=True)
class DiskUse:
    """The predicted size of the records of some runs."""

    after_bytes: int
    """Bytes when all of them are finished, MLflow's embedded store included."""
    after_files: int
    training_bytes: int
    """The most bytes that one run takes in addition while it trains."""
    training_files: int
    with_telemetry: bool
    """Whether telemetry is included, whose size depends on the duration of the runs."""

    def while_training(self, runs: int) -> tuple[int, int]:
        """Return the most bytes and files of the records while this many runs train at once, the others finished."""
        files = self.after_files + STORE_TRAINING_FILES + runs * self.training_files
        return self.after_bytes + runs * self.training_bytes, files


def predict_disk(plan: Plan, runs: Sequence[PlannedRun], seconds: Mapping[str, float]) -> DiskUse:
    """Predict the size of the records of runs.

    Args:
        plan: The plan of the experiment.
        runs: Runs of the plan.
        seconds: The estimated duration of each run, by its key. Telemetry of a run that is absent is left out.
    """
    after, training = STORE_BYTES + 4000 * len(runs), 0
    for run in {run.key: run for run in runs}.values():
        recipe, trained = run.config.recipe, _bytes(parameter_size(run.config.network))
        weights = _bytes(state_size(run.config.network))
        averages = weights if recipe.averaging != "none" else 0
        telemetry = SECOND_BYTES * seconds.get(run.key, 0)
        images = min(plan.val_images[run.config.data.path], recipe.final_val_images or math.inf)
        after += int(weights + telemetry + EPOCH_BYTES * recipe.epochs + IMAGE_BYTES * images + START_BYTES)
        training = max(training, CHECKPOINTS * (weights + trained + averages) - weights)
    keys = len({run.key for run in runs})
    files = RUN_FILES * keys + RUN_STORE_FILES * keys + EXPERIMENT_FILES + STORE_FILES
    return DiskUse(after, files, training, TRAINING_FILES, all(run.key in seconds for run in runs))


def _bytes(stored: Stored) -> int:
    """The bytes of tensors in a checkpoint."""
    return stored.bytes + TENSOR_BYTES * stored.tensors
