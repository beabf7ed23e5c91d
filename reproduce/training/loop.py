"""The training of one run on one rank: epochs, validation, checkpoints, and when to stop.

Every rank calls `train` with the same run. On CPUs a run that is stopped, killed and resumed at any step gives bit for
bit the weights and metrics (but for times) of one that is not: order and augmentation are counted, not drawn; dropout's
generators, the optimiser, averages and the sums of the epoch so far are in the checkpoint.
"""

from __future__ import annotations

import math
import statistics as stats
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from reproduce import schema
from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig, ValLoader, ValLoaderConfig
from reproduce.data.manifest import Split
from reproduce.execution.process import (
    dropout_seed,
    generators,
    peak_memory_gib,
    prepare_process,
    set_generators,
    timed_kernels,
)
from reproduce.execution.ranks import Ranks
from reproduce.execution.validation import Validation, validate
from reproduce.spec import RunConfig
from reproduce.training import checkpoint, clusters
from reproduce.training.averaging import Average, statistics
from reproduce.training.context import Context, NotFiniteLoss, Observer, Result
from reproduce.training.schedules import epochs_at, input_side, step_learning_rate
from reproduce.training.step import build_step, precision_dtype
from reproduce.training.sums import EpochSums

AGREE_EVERY = {"cpu": 1, "cuda": 10}
"""Steps between two looks at the stop request and the losses. One on CPUs, whose steps take long and where a look
costs nothing; on GPUs a look waits for the device."""
PROGRESS_EVERY_S = 1.0
TIMED_FROM_STEPS = 10_000
"""Steps at one resolution from which cuDNN's timing of its algorithms pays: it takes 12 to 18 s for each resolution
(one H200, 2026-11-26), and spares a few per cent of steps that take some tens of milliseconds."""


def train(run: RunConfig, context: Context, observer: Observer) -> Result:
    """Train a run to its end, or to a stop request, from its checkpoint where there is one.

    Raises `NotFiniteLoss`, `reproduce.data.DataError`, `checkpoint.CheckpointError`.
    """
    return _Training(run, context, observer).result()


class _Training:
    def __init__(self, run: RunConfig, context: Context, observer: Observer) -> None:
        self.run, self.context, self.observer = run, context, observer
        self.recipe = run.recipe
        self.ranks = Ranks(context.rank, context.world_size, context.device)
        prepare_process(context.device, context.threads, deterministic=run.deterministic, gpu_share=context.gpu_share)

        folder = context.data_root / run.data.path
        batch_size = self.recipe.batch_size // context.world_size
        # A GPU normalises bytes that crossed the bus as such; on CPUs the decoder does it in the same pass.
        on_cpu = context.device.type == "cpu"
        self.pixels = precision_dtype(self.recipe.precision, context.device) if on_cpu else torch.uint8
        self.train_loader = TrainLoader(
            folder,
            TrainLoaderConfig(
                batch_size=batch_size,
                seed_order=run.seeds.order,
                seed_augmentation=run.seeds.augmentation,
                rank=context.rank,
                world_size=context.world_size,
                crop_scale=self.recipe.crop_scale,
                crop_ratio=self.recipe.crop_ratio,
                flip=self.recipe.flip,
                photometric=self.recipe.photometric,
                train_fraction=run.data.train_fraction,
                threads=context.threads,
                device=context.device,
                dtype=self.pixels,
            ),
        )
        self.val_loader = self._val_loader("val")
        self.steps = self.train_loader.steps

        self.step = build_step(
            run, device=context.device, distributed=context.world_size > 1, compiled=context.compiled
        )
        self.network = self.step.network
        self.average: Average | None = None
        if self.recipe.averaging != "none":
            self.average = Average(self.network, self.recipe.averaging, self.recipe.ema_decay)
        self.statistics = statistics(self.network)
        if self.average is not None:
            self.statistics += statistics(self.average.network)
        self.norm_every = max(1, self.steps // 10)

        self.first_epoch, self.first_step = 0, 0
        self.sums = self._new_sums()
        self.warm: set[int] = set()
        """Resolutions whose kernels this attempt has chosen."""
        self.history: list[dict[str, float]] = []
        self.saved, self.told = time.monotonic(), -math.inf  # the first step is told at once

    # --- the way through a run -------------------------------------------------------------------

    def result(self) -> Result:
        state = checkpoint.load(self.context.folder, self.run.key)
        place = (state["epoch"], state["step"]) if state else (0, 0)
        if any(other != place for other in self.ranks.gather(place)):
            raise checkpoint.CheckpointError(
                f"{self.context.folder}: the ranks see different checkpoints; it must lie on storage that all share"
            )
        epochs = self.recipe.epochs
        if place[0] < epochs:
            self._warm_up(place[0])
        # Last, since the generators are restored here and nothing may draw from them in between.
        torch.manual_seed(dropout_seed(self.run.seeds.augmentation, self.context.rank))
        if state:
            self._restore(state)
        self._tell_epochs()

        validation: Validation | None = None
        for epoch in range(self.first_epoch, epochs):
            if not self._train_epoch(epoch):
                return Result(finished=False, metrics={})
            started = time.perf_counter()
            validation = self._validate(epoch)
            if validation is None:
                return Result(finished=False, metrics={})
            self._close_epoch(epoch, validation, time.perf_counter() - started)
        if validation is None:  # finished in an earlier attempt, which may have died before telling all
            validation = self._validate(epochs)
            if validation is None:
                return Result(finished=False, metrics={})
        if self.context.rank == 0:
            assert validation.predictions is not None
            self.observer.predictions(validation.predictions)
        measured = self._measure_the_end()
        if measured is None:
            return Result(finished=False, metrics={})
        return Result(finished=True, metrics=self._final_metrics() | measured)

    @property
    def evaluated(self) -> nn.Module:
        """The network whose weights count at evaluation: the averaged one, where the recipe averages."""
        return self.network if self.average is None else self.average.network

    def _batches(self, epoch: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        yield from self.train_loader.epoch(epoch, input_side(self.recipe, epoch), self.first_step)

    def _train_epoch(self, epoch: int) -> bool:
        """Train what is left of an epoch; False if it was stopped, its checkpoint written."""
        side = input_side(self.recipe, epoch)
        if self.context.device.type == "cuda" and side not in self.warm:
            self._warm_up(epoch)
        with timed_kernels(self._pays_to_time(side)), closing(self._batches(epoch)) as batches:
            complete = self._train_steps(epoch, batches)
        self.first_step = 0
        return complete

    def _train_steps(self, epoch: int, batches: Iterator[tuple[Tensor, Tensor]]) -> bool:
        self.network.train()
        agree_every = AGREE_EVERY[self.context.device.type]
        losses: list[Tensor] = []  # since the last look
        done = self.first_step
        start_s, start_images = self.sums.train_s, self.sums.images
        clock = time.perf_counter()
        for step in range(self.first_step, self.steps):
            asked = time.perf_counter()
            images, labels = next(batches)
            self.sums.wait_s += time.perf_counter() - asked
            result = self.step(
                images, labels, step_learning_rate(self.recipe, epoch=epoch, step=step, steps=self.steps)
            )
            if self.average is not None:
                self.average.update()
            self.sums.add(result, labels)
            if step % self.norm_every == 0:
                self.sums.add_gradient_norms()
            losses.append(result.loss)
            done = step + 1
            if done % agree_every and done < self.steps:
                continue

            bad = self._first_not_finite(losses)
            stop, due, not_finite = self.ranks.agree(
                [self.context.stop_requested(), self._checkpoint_due(), bad is not None], self.statistics
            )
            if not_finite:
                self._fail(epoch, done if bad is None else done - len(losses) + bad + 1)
            losses.clear()
            now = time.perf_counter()
            self.sums.train_s += now - clock
            clock = now
            if stop or (due and done < self.steps):
                self._save(epoch, done)
            if stop:
                return False
            rate = (self.sums.images - start_images) / (self.sums.train_s - start_s)
            self._tell_progress(epoch, done, rate * self.context.world_size)
        return True

    def _validate(self, epoch: int) -> Validation | None:
        """Validate after an epoch; None if it was stopped, with a checkpoint from which validation is next.

        epoch: the recipe's number of epochs for a run whose training is complete and in the checkpoint.
        """
        validation = validate(
            self.evaluated,
            self.val_loader,
            self.step.normalise,
            self.ranks,
            bf16=self.step.bf16,
            predictions=epoch >= self.recipe.epochs - 1,
            stopped=self._stop_in_validation(self.val_loader),
        )
        if validation is None:
            if epoch < self.recipe.epochs:
                self._save(epoch, self.steps)
        elif not math.isfinite(validation.loss):
            self._fail(epoch, self.steps)
        return validation

    def _close_epoch(self, epoch: int, validation: Validation, val_s: float) -> None:
        """Put an epoch on durable record, then tell the observer."""
        trained = self.sums.metrics(self.ranks)
        self.history.append(
            {
                **trained,
                schema.VAL_LOSS: validation.loss,
                schema.VAL_TOP1: validation.top1,
                schema.VAL_TOP5: validation.top5,
                schema.LEARNING_RATE: step_learning_rate(
                    self.recipe, epoch=epoch, step=self.steps - 1, steps=self.steps
                ),
                schema.RESOLUTION: float(input_side(self.recipe, epoch)),
                schema.EPOCH_SECONDS: trained[schema.TRAIN_SECONDS] + val_s,
                schema.VAL_SECONDS: val_s,
                schema.PEAK_MEMORY_GIB: peak_memory_gib(self.context.device),
            }
        )
        self.sums = self._new_sums()
        self._save(epoch + 1, 0)
        self._tell_epochs()

    # --- smaller parts ---------------------------------------------------------------------------

    def _val_loader(self, split: Split, at_most: int | None = None) -> ValLoader:
        return ValLoader(
            self.context.data_root / self.run.data.path,
            ValLoaderConfig(
                batch_size=self.recipe.batch_size // self.context.world_size,
                rank=self.context.rank,
                world_size=self.context.world_size,
                resolution=self.recipe.resolution,
                val_crop=self.recipe.val_crop,
                split=split,
                at_most=at_most,
                threads=self.context.threads,
                device=self.context.device,
                dtype=self.pixels,
            ),
        )

    def _new_sums(self) -> EpochSums:
        return EpochSums(self.network, self.context.device)

    def _warm_up(self, epoch: int) -> None:
        """Take one batch of each loader, and a few passes, outside the clock.

        FFCV compiles its pipelines for seconds at the first batch, and a GPU's kernels are chosen at the first step of
        each resolution; images/s would tell of that otherwise.
        """
        started, side = time.perf_counter(), input_side(self.recipe, epoch)
        self.network.train()
        with timed_kernels(self._pays_to_time(side)), closing(self._batches(epoch)) as batches:
            images, labels = next(batches)
            if self.context.device.type == "cpu":  # a GPU's kernels are chosen for the batch size, a CPU's are not
                images, labels = images[:2], labels[:2]
            self.step.warm_up(images, labels)
        if not self.warm:
            next(iter(self.val_loader), None)
        self.warm.add(side)
        if self.context.device.type == "cuda":
            torch.cuda.synchronize(self.context.device)
        self.sums.warm_up_s += time.perf_counter() - started

    def _pays_to_time(self, side: int) -> bool:
        return self.steps * epochs_at(self.recipe, side) >= TIMED_FROM_STEPS

    def _checkpoint_due(self) -> bool:
        return self.context.rank == 0 and time.monotonic() - self.saved > self.context.checkpoint_every_s

    def _stop_in_validation(self, loader: ValLoader) -> Callable[[int], bool]:
        """Whether to stop before a batch of a loader. Asked of all ranks alike: for as many batches as each one has."""
        common = loader.images // self.context.world_size // (self.recipe.batch_size // self.context.world_size)
        return lambda batch: batch < common and self.ranks.agree([self.context.stop_requested()])[0]

    def _first_not_finite(self, losses: list[Tensor]) -> int | None:
        finite = torch.stack(losses).isfinite().tolist()
        return None if all(finite) else finite.index(False)

    def _fail(self, epoch: int, step: int) -> NoReturn:
        raise NotFiniteLoss(f"loss is not finite in epoch {epoch + 1}, step {step} of {self.steps}")

    def _tell_epochs(self) -> None:
        if self.context.rank == 0:
            for epoch in range(self.observer.epochs_recorded, len(self.history)):
                self.observer.epoch(epoch, self.history[epoch])

    def _tell_progress(self, epoch: int, done: int, images_per_s: float) -> None:
        now = time.monotonic()
        if self.context.rank != 0 or now - self.told < PROGRESS_EVERY_S:
            return
        self.told = now
        loss, _ = self.sums.running()
        self.observer.progress(
            epoch=epoch,
            epochs=self.recipe.epochs,
            step=done,
            steps=self.steps,
            images_per_s=images_per_s,
            loss=loss,
            top1=self.history[-1][schema.VAL_TOP1] if self.history else None,
        )

    def _final_metrics(self) -> dict[str, float]:
        last = self.history[-1]
        speeds = [metrics[schema.IMAGES_PER_S] for metrics in self.history]
        return {
            schema.FINAL_TOP1: last[schema.VAL_TOP1],
            schema.FINAL_TOP5: last[schema.VAL_TOP5],
            schema.FINAL_TRAIN_TOP1: last[schema.TRAIN_TOP1],
            schema.FINAL_VAL_LOSS: last[schema.VAL_LOSS],
            schema.FINAL_IMAGES_PER_S: stats.median(speeds[1:] or speeds),
            schema.FINAL_WARM_UP_S: sum(metrics.get(schema.WARM_UP_SECONDS, 0.0) for metrics in self.history),
        }

    def _measure_the_end(self) -> dict[str, float] | None:
        """What the final weights tell beyond validation: accuracy on training images, clusters of channels.

        None if it was stopped; the next attempt begins with the validation before it.
        """
        network, bf16 = self.evaluated, self.step.bf16
        loader = self._val_loader("train", min(self.train_loader.images, self.val_loader.images))
        stopped = self._stop_in_validation(loader)
        seen = validate(network, loader, self.step.normalise, self.ranks, bf16=bf16, stopped=stopped)
        if seen is None:
            return None
        untrained = build_step(self.run, device=self.context.device).network
        found, before = (self._clusters(of) for of in (network, untrained))
        return {
            schema.FINAL_TRAIN_TOP1_PLAIN: seen.top1,
            **found,
            schema.CLUSTER_UNTRAINED: before[schema.CLUSTER_DIFFERENCE],
        }

    def _clusters(self, network: nn.Module) -> dict[str, float]:
        sample = (self.step.normalise(images) for images, _, _ in self.val_loader.sample(clusters.IMAGES))
        return clusters.channel_clusters(network, sample, bf16=self.step.bf16)

    # --- checkpoints -----------------------------------------------------------------------------

    def _save(self, epoch: int, step: int) -> None:
        """Write the checkpoint from which `step` of `epoch` is next; all ranks at the same step, after `agree`."""
        finished = epoch == self.recipe.epochs
        mine = {"generators": generators(self.context.device), "sums": self.sums.state_dict() if step else None}
        ranks = self.ranks.gather(mine)
        if self.context.rank == 0:
            content = {
                "key": self.run.key,
                "epoch": epoch,
                "step": step,
                "finished": finished,
                "network": self.network.state_dict(),
                "averaged": self.average.state_dict() if self.average is not None else None,
                "optimiser": None if finished else self.step.optimiser.state_dict(),
                "history": self.history,
                "ranks": ranks,
            }
            checkpoint.save(self.context.folder, content)
        self.saved = time.monotonic()

    def _restore(self, state: dict[str, Any]) -> None:
        self.first_epoch, self.first_step = state["epoch"], state["step"]
        self.history = state["history"]
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["averaged"])
        if not state["finished"]:
            self.step.optimiser.load_state_dict(state["optimiser"])
        mine = state["ranks"][self.context.rank]
        if mine["sums"] is not None:
            self.sums.load_state_dict(mine["sums"])
        set_generators(mine["generators"], self.context.device)
