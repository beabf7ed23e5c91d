"""Trains one implementation with one seed, epoch by epoch: by our own loop, or as one would with torchvision alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import closing
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from bench.suites.target.folders import FolderTrainLoader, FolderValLoader
from bench.suites.target.implementations import IMPLEMENTATIONS, Workload, run_config
from reproduce.data.loading.loaders import TrainLoader, ValLoader
from reproduce.execution.process import dropout_seed, get_generator_states, set_generator_states
from reproduce.execution.validation import validate
from reproduce.spec import RunConfig
from reproduce.training.epoch_metrics import EpochMetrics
from reproduce.training.interface import NonFiniteLossError, RankSetup, SilentObserver
from reproduce.training.loaders import build_train_loader, build_val_loader
from reproduce.training.loop import Trainer
from reproduce.training.optim import parameter_groups, set_learning_rate
from reproduce.training.schedules import input_side, step_learning_rate
from reproduce.training.step import build_network

CPU = torch.device("cpu")
HEADS_WEIGHT = 0.3
"""Weight of the loss of each auxiliary classifier (Szegedy et al. 2014, section 5)."""


class Training(ABC):
    """A training between two epochs, which depends on nothing but its run, its state and the number of the epoch."""

    run: RunConfig
    steps: int
    """Number of batches of an epoch."""
    network: nn.Module
    optimiser: Optimizer

    @abstractmethod
    def train_epoch(self, epoch: int) -> float:
        """Train an epoch, counted from 0, and return the mean loss.

        Raises:
            NonFiniteLossError: The loss became infinite or NaN.
        """

    @abstractmethod
    def validate(self) -> float:
        """Return the top-1 of all validation images, 0 to 1."""

    def state(self) -> dict[str, Any]:
        """Return what the next epoch depends on, for a checkpoint: weights, momenta and generators."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generators": get_generator_states(CPU),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        set_generator_states(state["generators"], CPU)


def build_training(name: str, workload: Workload, seed: int) -> Training:
    """Build an implementation with its initial weights, and configure this process for it.

    Args:
        name: Name of the implementation in `IMPLEMENTATIONS`.
        workload: The training.
        seed: The seed.

    Raises:
        DataError: There are too few images for one step.
    """
    parts = IMPLEMENTATIONS[name]
    run = run_config(name, workload, seed)
    return OurTraining(run, workload, parts.loader) if parts.step else TheirTraining(run, workload, parts.loader)


class OurTraining(Training):
    """The suite as it is used: the loop of a run, without Ray and records.

    Args:
        run: The run.
        workload: The training.
        our_loader: Whether FFCV files feed it, or the folder of photographs.
    """

    def __init__(self, run: RunConfig, workload: Workload, our_loader: bool) -> None:
        self.run = run
        self._trainer = trainer = Trainer(run, _rank_setup(workload), SilentObserver())
        if not our_loader:
            # They have the methods that the trainer and `validate` call.
            form = (run.recipe, workload.threads, trainer.step.dtype, torch.channels_last)
            trainer.train_loader = cast(TrainLoader, FolderTrainLoader(workload.photographs, *form))
            trainer.val_loader = cast(ValLoader, FolderValLoader(workload.photographs, *form))
            trainer.early_val_loader, trainer.steps = trainer.val_loader, trainer.train_loader.steps
        self.steps, self.network, self.optimiser = trainer.steps, trainer.network, trainer.step.optimiser
        trainer.warm_up(0)
        torch.manual_seed(dropout_seed(run.seeds.augmentation, 0))

    def train_epoch(self, epoch: int) -> float:
        self._trainer.metrics = EpochMetrics(self._trainer.network, CPU)
        self._trainer.train_epoch(epoch)
        return self._trainer.metrics.mean_loss

    def validate(self) -> float:
        trainer = self._trainer
        return validate(
            trainer.evaluated_network,
            trainer.val_loader,
            trainer.step.normalise,
            trainer.ranks,
            dtype=trainer.step.dtype,
        ).top1


class TheirTraining(Training):
    """`torchvision.models.googlenet` as torchvision's reference scripts train a network: in float32, NCHW, by torch.

    Unlike there, the losses of the auxiliary classifiers are added; the scripts cannot train this network without that.
    The schedule is computed as ours is; within an epoch of StepLR it is constant, as there.

    Args:
        run: The run.
        workload: The training.
        our_loader: Whether FFCV files feed it, or the folder of photographs. In the first case the weights begin with
            those of ours, so that nothing but the step differs from our training.
    """

    def __init__(self, run: RunConfig, workload: Workload, our_loader: bool) -> None:
        torch.set_num_threads(workload.threads)
        self.run, self._recipe = run, run.recipe
        self._train_loader: TrainLoader | FolderTrainLoader
        self._val_loader: ValLoader | FolderValLoader
        if our_loader:
            setup = _rank_setup(workload)
            self._train_loader, self._val_loader = build_train_loader(run, setup), build_val_loader(run, setup)
        else:
            self._train_loader = FolderTrainLoader(workload.photographs, run.recipe, workload.threads)
            self._val_loader = FolderValLoader(workload.photographs, run.recipe, workload.threads)
        self.steps = self._train_loader.steps
        torch.manual_seed(run.seeds.initialisation)
        self.network = torchvision.models.googlenet(
            num_classes=run.network.classes, aux_logits=True, init_weights=not our_loader
        )
        if our_loader:
            self.network.load_state_dict(build_network(run, CPU).state_dict())
            self.network.to(memory_format=torch.contiguous_format)
        self.optimiser = SGD(
            parameter_groups(self.network, run.recipe),
            lr=run.recipe.learning_rate,
            momentum=run.recipe.momentum,
            nesterov=run.recipe.nesterov,
        )
        torch.manual_seed(dropout_seed(run.seeds.augmentation, 0))

    def train_epoch(self, epoch: int) -> float:
        self.network.train()
        total = 0.0
        with closing(self._batches(epoch)) as batches:
            for step, (images, labels) in enumerate(batches):
                rate = step_learning_rate(self._recipe, epoch=epoch, step=step, steps=self.steps)
                total += self._step(images.contiguous(), labels, rate)
        if not math.isfinite(total):
            raise NonFiniteLossError(f"loss is not finite in epoch {epoch + 1}")
        return total / self.steps

    def _batches(self, epoch: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        yield from self._train_loader.epoch(epoch, input_side(self._recipe, epoch))

    def _step(self, images: Tensor, labels: Tensor, learning_rate: float) -> float:
        set_learning_rate(self.optimiser, learning_rate)
        outputs = self.network(images)
        main, aux2, aux1 = (
            cross_entropy(logits, labels, label_smoothing=self._recipe.label_smoothing) for logits in outputs
        )
        loss = main + HEADS_WEIGHT * (aux1 + aux2)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()

    @torch.inference_mode()
    def validate(self) -> float:
        self.network.eval()
        correct = 0
        for images, labels, _ in self._val_loader:
            correct += int((self.network(images.contiguous()).argmax(1) == labels).sum())
        return correct / self._val_loader.images


def _rank_setup(workload: Workload) -> RankSetup:
    return RankSetup(
        rank=0,
        world_size=1,
        device=CPU,
        threads=workload.threads,
        folder=workload.state,
        data_root=workload.prepared.parent,
        stop_requested=lambda: False,
        checkpoint_every_s=math.inf,  # the suite writes its own, with the costs
    )
