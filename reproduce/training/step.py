"""Run one optimisation step: the part of training that a run repeats for every batch and `deeper bench` times alone."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from reproduce.data.loading.normalise import Normalise
from reproduce.execution.precision import autocast, resolve_precision
from reproduce.models import GoogLeNet, Outputs
from reproduce.models.compiled import compile_parts
from reproduce.spec import RunConfig
from reproduce.training.optim import set_learning_rate, sgd


class Span:
    """How long the device works from the object's creation to `stop`, without waiting for it.

    It is measured by the clock on a CPU, and by events in the stream of a GPU.

    Args:
        device: The device that works in between.
    """

    def __init__(self, device: torch.device) -> None:
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device.type == "cuda":
            self._events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self._events[0].record()
        self._start = self._end = time.perf_counter()

    def stop(self) -> None:
        """End the span."""
        if self._events is not None:
            self._events[1].record()
        self._end = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Its length. On a GPU, the device must have been waited for since `stop`."""
        if self._events is not None:
            return float(self._events[0].elapsed_time(self._events[1])) / 1000
        return self._end - self._start


class StepResult(NamedTuple):
    """The losses and logits of one step on one rank, in float32, detached from the graph and on the device."""

    loss: Tensor
    """Weighted sum of the losses of all classifiers, 0-d, the mean over the batch."""
    main: Tensor
    """Loss of the main classifier, 0-d."""
    aux1: Tensor | None
    """Loss of the first auxiliary classifier, 0-d, unweighted. None if the network does not have it."""
    aux2: Tensor | None
    """Loss of the second auxiliary classifier, like `aux1`."""
    logits: Tensor
    """Logits of the main classifier, [N, classes]."""
    forward: Span
    """The forward pass. It needs nothing of other ranks, so it tells a slow one."""


class Losses(NamedTuple):
    """The mean cross-entropy of each classifier over a batch and their weighted sum, 0-d, attached to the graph.

    An auxiliary classifier that is absent has None.
    """

    total: Tensor
    main: Tensor
    aux1: Tensor | None
    aux2: Tensor | None


def losses(outputs: Outputs, labels: Tensor, *, aux_weight: float, label_smoothing: float) -> Losses:
    """Compute the main loss, the auxiliary losses and their weighted sum (Szegedy et al. 2014, section 5).

    Args:
        outputs: Logits of the classifiers, in any floating-point type; the losses are computed in float32.
        labels: Labels, int64 [N].
        aux_weight: Weight of each auxiliary classifier's loss; that of the main classifier is 1.
        label_smoothing: Label smoothing for every classifier, at least 0 and below 1.
    """

    def cross_entropy(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)

    main = cross_entropy(outputs.main)
    auxiliary = [None if logits is None else cross_entropy(logits) for logits in (outputs.aux1, outputs.aux2)]
    total = main
    for loss in auxiliary:
        if loss is not None:
            total = total + aux_weight * loss
    return Losses(total, main, *auxiliary)


class Step:
    """Runs the forward pass, the backward pass and the optimiser's update on one batch.

    Images that are still uint8 pixels are normalised on the device first. With `distributed`, calls are collective:
    gradients are averaged over the ranks of the default process group.

    Args:
        network: The network, on its device. Each step changes it in place.
        optimiser: The optimiser of its parameters. Each step sets its learning rate.
        aux_weight: Weight of each auxiliary classifier's loss; that of the main classifier is 1.
        label_smoothing: Label smoothing for every classifier, at least 0 and below 1.
        dtype: Arithmetic of the forward pass: bfloat16 (by autocast) or float32.
        distributed: Whether to wrap the network in DDP. The process group must be initialised.
    """

    def __init__(
        self,
        network: GoogLeNet,
        optimiser: Optimizer,
        *,
        aux_weight: float,
        label_smoothing: float,
        dtype: torch.dtype,
        distributed: bool = False,
    ) -> None:
        self.network = network
        self.optimiser = optimiser
        self.dtype = dtype
        self.device = next(network.parameters()).device
        # Rounding normalised pixels to bf16 here is the rounding that autocast would do at the first convolution.
        self.normalise = Normalise(dtype).to(self.device)
        self._aux_weight, self._label_smoothing = aux_weight, label_smoothing
        self._parallel: nn.Module = network
        if distributed:
            # Each rank keeps its own batch-norm statistics here. `Ranks.agree` averages them every few steps and
            # before each validation and checkpoint; broadcasting those of rank 0 would discard all others.
            self._parallel = DistributedDataParallel(
                network, forward_sync_buffers=False, gradient_as_bucket_view=True, static_graph=True
            )

    def __call__(self, images: Tensor, labels: Tensor, learning_rate: float) -> StepResult:
        """Train the network on one batch, without waiting for the device.

        The gradients remain in the parameters' `grad` until the next call.

        Args:
            images: Images, [N, 3, S, S], uint8 pixels or normalised.
            labels: Labels, int64 [N].
            learning_rate: Learning rate of this step.

        Returns:
            Losses and logits of this rank's batch.
        """
        set_learning_rate(self.optimiser, learning_rate)
        result = self._forward_backward(images, labels)
        self.optimiser.step()
        return result

    def warm_up(self, images: Tensor, labels: Tensor) -> None:
        """Run two forward and backward passes that leave weights, buffers and random generators unchanged.

        The first passes choose kernels and determine the order of DDP's buckets. A resumed run must therefore warm up
        like a new one: otherwise its sums over three or more ranks would be rounded differently. Gradients are reset
        to None. Collective if the step is distributed.

        Args:
            images: Images, as for a step.
            labels: Labels, int64 [N].
        """
        before = [buffer.clone() for buffer in self.network.buffers()]
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            for _ in range(2):  # DDP changes its buckets at the start of the second pass
                self._forward_backward(images, labels)
        self.optimiser.zero_grad(set_to_none=True)
        for buffer, value in zip(self.network.buffers(), before, strict=True):
            buffer.copy_(value)

    def _forward_backward(self, images: Tensor, labels: Tensor) -> StepResult:
        self.optimiser.zero_grad(set_to_none=True)
        forward = Span(self.device)
        with autocast(self.device, self.dtype):
            outputs: Outputs = self._parallel(self.normalise(images))
        forward.stop()
        loss = losses(outputs, labels, aux_weight=self._aux_weight, label_smoothing=self._label_smoothing)
        loss.total.backward()  # type: ignore[no-untyped-call]
        aux1, aux2 = (None if value is None else value.detach() for value in (loss.aux1, loss.aux2))
        logits = outputs.main.detach().float()
        return StepResult(loss.total.detach(), loss.main.detach(), aux1, aux2, logits, forward)


def build_network(run: RunConfig, device: torch.device) -> GoogLeNet:
    """Build the network of a run with its initial weights, on a device and in the memory format channels_last.

    Of the run's seeds, only `seeds.initialisation` determines the weights. The function reseeds torch's global random
    generators with it.
    """
    torch.manual_seed(run.seeds.initialisation)
    network: GoogLeNet = GoogLeNet(run.network).to(  # type: ignore[call-overload]
        device=device, memory_format=torch.channels_last
    )
    return network


def build_step(run: RunConfig, *, device: torch.device, distributed: bool = False, compiled: bool = False) -> Step:
    """Build the step of a run, with the initial weights of its network and a new optimiser.

    It reseeds torch's global random generators, see `build_network`.

    Args:
        run: The run.
        device: The device that computes.
        distributed: Whether gradients are averaged over the ranks of the default process group.
        compiled: Whether torch.compile compiles the parts of the network. Results then differ by rounding only.
    """
    network = build_network(run, device)
    if compiled:
        compile_parts(network)
    return Step(
        network,
        sgd(network, run.recipe),
        aux_weight=run.network.aux_weight,
        label_smoothing=run.recipe.label_smoothing,
        dtype=resolve_precision(run.recipe.precision, device).dtype,
        distributed=distributed,
    )
