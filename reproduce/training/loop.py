"""Train one run on one rank: epochs, validation, checkpoints, and stopping.

Every rank calls `train` with the same run. On CPUs, a run that is stopped or killed at any step and then resumed on the
same kind of machine, with the same number of threads, ends with the same weights and metrics (except times), bit for
bit, as an uninterrupted run. Order and augmentation are functions of the epoch and the image. A checkpoint holds the
state of dropout's generators, of the optimiser, of the weight average and of the current epoch's metrics.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from reproduce import schema
from reproduce.data.loading.loaders import ValLoader
from reproduce.execution.process import (
    dropout_seed,
    get_generator_states,
    peak_memory_gib,
    prepare_process,
    set_generator_states,
    timed_kernels,
)
from reproduce.execution.ranks import Ranks
from reproduce.execution.validation import Validation, validate
from reproduce.spec import RunConfig
from reproduce.training import checkpoint
from reproduce.training.averaging import running_statistics
from reproduce.training.epoch_metrics import EpochMetrics, final_metrics
from reproduce.training.graphs.switch import graph_wanted
from reproduce.training.interface import NonFiniteLossError, Observer, RankSetup, TrainingResult
from reproduce.training.loaders import build_train_loader, build_val_loader
from reproduce.training.probes.probe import TrainedNetwork
from reproduce.training.probes.registry import run_probes
from reproduce.training.schedules import epochs_at, input_side, step_learning_rate
from reproduce.training.step import build_step
from reproduce.training.stopping import StopRequested, stop_check

SYNCHRONISE_EVERY = {"cpu": 1, "cuda": 10}
"""Steps between two checks of stop requests, due checkpoints and losses, by type of device. On a GPU a check waits for
the device; on a CPU its cost is negligible beside that of a step."""
PROGRESS_EVERY_S = 1.0
TIMED_FROM_STEPS = 10_000
"""Number of steps at one resolution from which cuDNN times its algorithms to choose them. Timing takes 12 to 18 s for
each resolution and shortens steps of some tens of milliseconds by a few per cent (one H200, 2026-11-26)."""
GRADIENT_NORMS_PER_EPOCH = 10


def train(run: RunConfig, setup: RankSetup, observer: Observer) -> TrainingResult:
    """Train a run to its end or to a stop request, continuing from its checkpoint if there is one.

    Collective: all ranks must call it with the same run. It configures the process for the run (threads, kernels,
    memory limits, torch's global random generators) and leaves these settings in place, see `prepare_process`.

    Args:
        run: The run, the same on every rank.
        setup: The resources and folders of this rank.
        observer: Receives progress, epochs and predictions. It is called on rank 0 only.

    Returns:
        The final metrics of a finished run. After a stop request the function returns normally, with `finished` False
        and a checkpoint in the run's folder.

    Raises:
        NonFiniteLossError: The loss became infinite or NaN.
        CheckpointError: The checkpoint belongs to another run, or the ranks do not see the same one.
        DataError: The data set is missing, damaged or too small.
    """
    return Trainer(run, setup, observer).train()


class Trainer:
    """Trains one run on one rank and holds its state; use the function `train` for a complete training.

    Creating it configures the process, see `prepare_process`, and builds the loaders, the network and the optimiser,
    but reads no checkpoint. All ranks must create it and call its collective methods together.
    """

    def __init__(self, run: RunConfig, setup: RankSetup, observer: Observer) -> None:
        self.run, self.recipe, self.setup, self.observer = run, run.recipe, setup, observer
        self.ranks = Ranks(setup.rank, setup.world_size, setup.device)
        prepare_process(setup.device, setup.threads, deterministic=run.deterministic, gpu_share=setup.gpu_share)

        self.train_loader = build_train_loader(run, setup)
        early, final = self.recipe.early_val_images, self.recipe.final_val_images
        self.val_loader = build_val_loader(run, setup, at_most=final)
        self.early_val_loader = self.val_loader if early == final else build_val_loader(run, setup, at_most=early)
        self.steps = self.train_loader.steps

        self.step = build_step(
            run, device=setup.device, distributed=setup.world_size > 1, compiled=setup.compiled, graphed=graph_wanted()
        )
        self.network, self.average = self.step.network, self.step.average
        self.statistics = running_statistics(self.network)
        if self.average is not None:
            self.statistics += running_statistics(self.average.network)

        self.first_epoch, self.first_step = 0, 0
        self.metrics = EpochMetrics(self.network, setup.device)
        self.history: list[dict[str, float]] = []
        self._warmed_up: set[int] = set()
        """Input sides, in pixels, for which this attempt has run its warm-up."""
        self._saved_at, self._reported_at = time.monotonic(), -math.inf  # so that the first step is reported at once

    # --- the course of a run -----------------------------------------------------------------------

    def train(self) -> TrainingResult:
        """Train the run to its end or to a stop request. Collective; see the function `train`."""
        try:
            return TrainingResult(finished=True, metrics=self._train_to_end())
        except StopRequested:
            return TrainingResult(finished=False, metrics={})

    def _train_to_end(self) -> dict[str, float]:
        state = self.load_checkpoint()
        epochs = self.recipe.epochs
        if state is not None:
            self._restore(state)  # before the warm-up, because a graph keeps the tensors that it was captured with
        if self.first_epoch < epochs:
            self.warm_up(self.first_epoch)
        # The generators come last, because nothing may draw from them in between.
        torch.manual_seed(dropout_seed(self.run.seeds.augmentation, self.setup.rank))
        if state is not None:
            set_generator_states(state["ranks"][self.setup.rank]["generators"], self.setup.device)
        self._report_epochs()

        validation: Validation | None = None
        for epoch in range(self.first_epoch, epochs):
            self.train_epoch(epoch)
            start = time.perf_counter()
            validation = self.validate(epoch)
            self._finish_epoch(epoch, validation, val_s=time.perf_counter() - start)
        if validation is None:  # an earlier attempt finished the last epoch, but perhaps died before it reported all
            validation = self.validate(epochs)
        if self.setup.rank == 0:
            assert validation.predictions is not None
            self.observer.predictions(validation.predictions)
        return final_metrics(self.history) | run_probes(self.run.probes, self._trained_network())

    def warm_up(self, epoch: int) -> None:
        """Load a training batch and warm the step up on it, so that the measured throughput excludes one-time costs.

        FFCV takes seconds to compile its pipelines at the first batch, and a GPU to choose its kernels at the first one
        of each resolution. The first warm-up of an attempt loads a validation batch as well. Images and resolution are
        those of `epoch` (from 0). Weights and generators stay as they are; `metrics.warm_up_s` grows. Collective.
        """
        start, side = time.perf_counter(), input_side(self.recipe, epoch)
        self.network.train()
        with timed_kernels(self._worth_timing(side)), closing(self._batches(epoch, 0)) as batches:
            images, labels = next(batches)
            if not self.step.by_shape:
                images, labels = images[:2], labels[:2]
            self.step.warm_up(images, labels)
        if self.setup.rank == 0 and self.step.graph is not None:
            self.observer.graph(self.step.graph)
        if not self._warmed_up:
            next(iter(self.early_val_loader), None)
        self._warmed_up.add(side)
        if self.setup.device.type == "cuda":
            torch.cuda.synchronize(self.setup.device)
        self.metrics.warm_up_s += time.perf_counter() - start

    def train_epoch(self, epoch: int) -> None:
        """Train an epoch from `first_step` to its end, without validating it. Collective.

        Args:
            epoch: The epoch, from 0.

        Raises:
            StopRequested: A stop was requested. A checkpoint has been written.
            NonFiniteLossError: The loss became infinite or NaN.
        """
        side = input_side(self.recipe, epoch)
        if self.step.by_shape and side not in self._warmed_up:
            self.warm_up(epoch)
        with timed_kernels(self._worth_timing(side)), closing(self._batches(epoch, self.first_step)) as batches:
            self.network.train()
            losses: list[Tensor] = []  # since the last synchronisation
            self.metrics.start_clock()
            for step in range(self.first_step, self.steps):
                losses.append(self.train_step(epoch, step, batches))
                done = step + 1
                if done % SYNCHRONISE_EVERY[self.setup.device.type] == 0 or done == self.steps:
                    self._synchronise(epoch, done, losses)
                    losses.clear()
        self.first_step = 0

    def train_step(self, epoch: int, step: int, batches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
        """Run one optimisation step on the next batch, without waiting for the device. Collective.

        `epoch` and `step` are counted from 0, the latter within the epoch. `batches` yields this rank's images and
        labels. The result is this rank's total loss, 0-d, on the device.
        """
        start = time.perf_counter()
        images, labels = next(batches)
        self.metrics.wait_s += time.perf_counter() - start
        result = self.step(images, labels, self._learning_rate(epoch, step))
        self.metrics.add_step(result, labels)
        if step % max(1, self.steps // GRADIENT_NORMS_PER_EPOCH) == 0:
            self.metrics.add_gradient_norms()
        return result.loss

    def validate(self, epoch: int) -> Validation:
        """Validate the network after an epoch. Collective.

        Args:
            epoch: The epoch that was trained, from 0. The recipe's number of epochs if the checkpoint was finished.

        Returns:
            The result; after the last epoch only it includes predictions, and is of all images in any case.

        Raises:
            StopRequested: A stop was requested. Unless the checkpoint was finished, a new one has been written from
                which the run continues with this validation.
            NonFiniteLossError: The validation loss is infinite or NaN.
        """
        loader = self.val_loader if (last := epoch >= self.recipe.epochs - 1) else self.early_val_loader
        try:
            validation = validate(
                self.evaluated_network,
                loader,
                self.step.normalise,
                self.ranks,
                dtype=self.step.dtype,
                predictions=last,
                before_batch=self._stop_check(loader),
            )
        except StopRequested:
            if epoch < self.recipe.epochs:
                self.save_checkpoint(epoch, self.steps)
            raise
        if not math.isfinite(validation.loss):
            self._fail(epoch, self.steps)
        return validation

    @property
    def evaluated_network(self) -> nn.Module:
        """The network that is validated and probed: the averaged one if the recipe averages, else the trained one."""
        return self.network if self.average is None else self.average.network

    # --- parts of an epoch -------------------------------------------------------------------------

    def _synchronise(self, epoch: int, done: int, losses: list[Tensor]) -> None:
        """Let all ranks agree, after `done` steps of an epoch, whether to fail, to write a checkpoint and to stop."""
        finite = torch.stack(losses).isfinite().tolist()
        stop, checkpoint_due, failed = self.ranks.agree(
            [self.setup.stop_requested(), self._checkpoint_due(), not all(finite)], self.statistics
        )
        if failed:
            self._fail(epoch, done if all(finite) else done - len(losses) + finite.index(False) + 1)
        self.metrics.add_elapsed_time()
        if stop or (checkpoint_due and done < self.steps):
            self.save_checkpoint(epoch, done)
        if stop:
            raise StopRequested
        self.report_progress(epoch, done)

    def _finish_epoch(self, epoch: int, validation: Validation, val_s: float) -> None:
        """Write the checkpoint of a complete epoch, then report the epoch to the observer."""
        trained = self.metrics.compute(self.ranks)
        self.history.append(
            {
                **trained,
                schema.VAL_LOSS: validation.loss,
                schema.VAL_TOP1: validation.top1,
                schema.VAL_TOP5: validation.top5,
                schema.LEARNING_RATE: self._learning_rate(epoch, self.steps - 1),
                schema.RESOLUTION: float(input_side(self.recipe, epoch)),
                schema.EPOCH_SECONDS: trained[schema.TRAIN_SECONDS] + val_s,
                schema.VAL_SECONDS: val_s,
                schema.PEAK_MEMORY_GIB: peak_memory_gib(self.setup.device),
            }
        )
        self.metrics = EpochMetrics(self.network, self.setup.device)
        self.save_checkpoint(epoch + 1, 0)
        self._report_epochs()

    def _batches(self, epoch: int, first_step: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        yield from self.train_loader.epoch(epoch, input_side(self.recipe, epoch), first_step)

    def _learning_rate(self, epoch: int, step: int) -> float:
        return step_learning_rate(self.recipe, epoch=epoch, step=step, steps=self.steps)

    def _worth_timing(self, side: int) -> bool:
        return self.steps * epochs_at(self.recipe, side) >= TIMED_FROM_STEPS

    def _checkpoint_due(self) -> bool:
        return self.setup.rank == 0 and time.monotonic() - self._saved_at > self.setup.checkpoint_every_s

    def _stop_check(self, loader: ValLoader) -> Callable[[int], None]:
        return stop_check(loader, self.ranks, self.setup.stop_requested)

    def _fail(self, epoch: int, step: int) -> NoReturn:
        raise NonFiniteLossError(f"loss is not finite in epoch {epoch + 1}, step {step} of {self.steps}")

    def _trained_network(self) -> TrainedNetwork:
        images = min(self.train_loader.images, self.val_loader.images)
        return TrainedNetwork(
            run=self.run,
            network=self.evaluated_network,
            normalise=self.step.normalise,
            dtype=self.step.dtype,
            ranks=self.ranks,
            val_images=self.val_loader,
            train_images=build_val_loader(self.run, self.setup, "train", at_most=images),
            stop_check=self._stop_check,
        )

    # --- reports to the observer -------------------------------------------------------------------

    def report_progress(self, epoch: int, done: int) -> None:
        """Report `done` completed steps of an epoch (from 0), at most once a second. Does nothing on ranks above 0."""
        now = time.monotonic()
        if self.setup.rank != 0 or now - self._reported_at < PROGRESS_EVERY_S:
            return
        self._reported_at = now
        self.observer.progress(
            epoch=epoch,
            epochs=self.recipe.epochs,
            step=done,
            steps=self.steps,
            images_per_s=self.metrics.images_per_s * self.setup.world_size,
            loss=self.metrics.mean_loss,
            top1=self.history[-1][schema.VAL_TOP1] if self.history else None,
        )

    def _report_epochs(self) -> None:
        if self.setup.rank == 0:
            for epoch in range(self.observer.epochs_recorded, len(self.history)):
                self.observer.epoch(epoch, self.history[epoch])

    # --- checkpoints -------------------------------------------------------------------------------

    def save_checkpoint(self, epoch: int, step: int) -> None:
        """Write a checkpoint from which the run continues with the given step. Collective.

        Rank 0 writes the file. All ranks must call this after the same step and right after `Ranks.agree` has averaged
        their running statistics, because only those of rank 0 are saved.

        Args:
            epoch: The epoch to continue with, from 0. The recipe's number of epochs marks the run as finished.
            step: The next step of that epoch, from 0. The number of steps of an epoch if its validation is next.
        """
        finished = epoch == self.recipe.epochs
        sums = self.metrics.state_dict() if step else None
        ranks = self.ranks.gather({"generators": get_generator_states(self.setup.device), "sums": sums})
        if self.setup.rank == 0:
            averaged = self.average.state_dict() if self.average is not None else None
            content = {
                "key": self.run.key,
                "epoch": epoch,
                "step": step,
                "finished": finished,
                "network": None if finished and averaged else self.network.state_dict(),  # only what was evaluated
                "averaged": averaged,
                "optimiser": None if finished else self.step.optimiser.state_dict(),
                "history": self.history,
                "ranks": ranks,
            }
            checkpoint.save(self.setup.folder, content)
        self._saved_at = time.monotonic()

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Read the newest undamaged checkpoint of this run without applying it. Collective: the ranks compare theirs.

        Returns:
            The checkpoint, see `reproduce.training.checkpoint`. None if there is none.

        Raises:
            CheckpointError: It belongs to another run, or the ranks see checkpoints of different positions.
        """
        state, damaged = checkpoint.load_and_name_damaged(self.setup.folder, self.run.key)
        position = (state["epoch"], state["step"]) if state else (0, 0)
        if any(other != position for other in self.ranks.gather(position)):
            raise checkpoint.CheckpointError(
                f"{self.setup.folder}: the ranks see different checkpoints; the folder must be on storage that all "
                "of them share"
            )
        if self.setup.rank == 0 and state is not None and damaged:
            checkpoint.put_back(self.setup.folder)
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        self.first_epoch, self.first_step = state["epoch"], state["step"]
        self.history = state["history"]
        if state["network"] is not None:
            self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["averaged"])
        if not state["finished"]:
            self.step.optimiser.load_state_dict(state["optimiser"])
        own = state["ranks"][self.setup.rank]
        if own["sums"] is not None:
            self.metrics.load_state_dict(own["sums"])
