"""Run one optimisation step: the part of training that a run repeats for every batch and `deeper bench` times alone."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from reproduce.data.loading.normalise import Normalise
from reproduce.execution.precision import autocast, resolve_precision
from reproduce.execution.ranks import Ranks
from reproduce.models import GoogLeNet, Outputs
from reproduce.models.compiled import compile_parts
from reproduce.spec import RunConfig
from reproduce.training.averaging import WeightAverage, running_statistics
from reproduce.training.graphs.captured import StepGraphs, captures
from reproduce.training.graphs.switch import GraphUse, obstacle
from reproduce.training.optim import learning_rate_in, momenta, set_learning_rate, sgd


class Span:
    """How long the device works from the object's creation to `stop`, without waiting for it.

    It is measured by the clock on a CPU, and by events in the stream of a GPU. One that is created and stopped while a
    CUDA graph is captured tells how long the last replay took.

    Args:
        device: The device that works in between.
    """

    def __init__(self, device: torch.device) -> None:
        self._events: tuple[torch.cuda.Event, ...] | None = None
        if device.type == "cuda":  # external ones are recorded by each replay of a graph as well
            self._events = tuple(torch.cuda.Event(enable_timing=True, external=True) for _ in range(2))
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
    """The forward pass. It needs nothing of other ranks, so it tells a slow one. Steps that replay the same CUDA graph
    share it."""


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
    """Runs forward pass, backward pass, the optimiser's update and the average of the weights on one batch.

    Images that are still uint8 pixels are normalised on the device first. With `distributed`, calls are collective:
    gradients are averaged over the ranks of the default process group.

    Args:
        network: The network, on its device. Each step changes it in place.
        optimiser: The optimiser of its parameters. Each step sets its learning rate.
        average: The average of the network's weights, which each step updates. None if there is none.
        aux_weight: Weight of each auxiliary classifier's loss; that of the main classifier is 1.
        label_smoothing: Label smoothing for every classifier, at least 0 and below 1.
        dtype: Arithmetic of the forward pass: bfloat16 (by autocast) or float32.
        distributed: Whether to wrap the network in DDP. The process group must be initialised.
        graphed: Whether `warm_up` captures the step in a CUDA graph for each shape of images, which later steps replay.
            On devices other than GPUs this is ignored.
    """

    def __init__(
        self,
        network: GoogLeNet,
        optimiser: Optimizer,
        average: WeightAverage | None = None,
        *,
        aux_weight: float,
        label_smoothing: float,
        dtype: torch.dtype,
        distributed: bool = False,
        graphed: bool = False,
    ) -> None:
        self.network = network
        self.optimiser = optimiser
        self.average = average
        self.dtype = dtype
        self.device = next(network.parameters()).device
        # Rounding normalised pixels to bf16 here is the rounding that autocast would do at the first convolution.
        self.normalise = Normalise(dtype).to(self.device)
        self._aux_weight, self._label_smoothing = aux_weight, label_smoothing
        self._graphed = graphed and captures(self.device)
        self._obstacle = obstacle(dist.get_backend() if distributed else None)
        self._graphs = self._build_graphs(distributed) if self._graphed and not self._obstacle else None
        self._parallel: nn.Module = network
        if distributed:
            # Each rank keeps its own batch-norm statistics here. `Ranks.agree` averages them every few steps and
            # before each validation and checkpoint; broadcasting those of rank 0 would discard all others.
            with nullcontext() if self._graphs is None else self._graphs.stream():  # where DDP then adds up gradients
                self._parallel = DistributedDataParallel(
                    network, forward_sync_buffers=False, gradient_as_bucket_view=True, static_graph=True
                )

    @property
    def graph(self) -> GraphUse | None:
        """Whether steps replay CUDA graphs, and why not, as far as `warm_up` has found out. None if none was asked for.

        Once a capture has failed, no step replays a graph.
        """
        if not self._graphed:
            return None
        reason = self._obstacle if self._graphs is None else self._graphs.reason
        return GraphUse(not reason, reason)

    @property
    def by_shape(self) -> bool:
        """Whether each shape of images needs a `warm_up`: only GPUs choose their kernels by it, and capture graphs."""
        return self.device.type == "cuda" or self._graphed

    def __call__(self, images: Tensor, labels: Tensor, learning_rate: float) -> StepResult:
        """Train the network on one batch, without waiting for the device.

        The gradients remain in the parameters' `grad` until the next call.

        Args:
            images: Images, [N, 3, S, S], uint8 pixels or normalised.
            labels: Labels, int64 [N].
            learning_rate: Learning rate of this step.

        Returns:
            Losses and logits of this rank's batch, which later steps leave as they are.
        """
        set_learning_rate(self.optimiser, learning_rate)
        if self._graphs is not None:
            weight = 0.0 if self.average is None else self.average.next_weight
            replayed = self._graphs.replay(images, labels, learning_rate, weight)
            if replayed is not None:
                if self.average is not None:
                    self.average.steps += 1
                return replayed
        result = self._forward_backward(images, labels)
        self.optimiser.step()
        if self.average is not None:
            self.average.update()
        return result

    def warm_up(self, images: Tensor, labels: Tensor) -> None:
        """Run passes that leave weights, buffers and random generators unchanged, and capture a graph if asked for.

        The first passes choose kernels and determine the order of DDP's buckets. A resumed run must therefore warm up
        like a new one: otherwise its sums over three or more ranks would be rounded differently. Gradients are reset
        to None. Collective if the step is distributed. Unless `by_shape`, two images are enough.

        Args:
            images: Images, as for a step.
            labels: Labels, int64 [N].
        """
        if self._graphs is not None and not self._graphs.reason:
            self._graphs.prepare(images, labels)
            return
        before = [buffer.clone() for buffer in self.network.buffers()]
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            for _ in range(2):  # DDP changes its buckets at the start of the second pass
                self._forward_backward(images, labels)
        self.optimiser.zero_grad(set_to_none=True)
        for buffer, value in zip(self.network.buffers(), before, strict=True):
            buffer.copy_(value)

    def _build_graphs(self, distributed: bool) -> StepGraphs[StepResult]:
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
        return StepGraphs(
            self._whole_step,
            numbers=2,
            state=self._state,
            parameters=list(self.network.parameters()),
            ranks=Ranks(rank, world_size, self.device),
        )

    def _state(self) -> dict[str, list[Tensor]]:
        """List all tensors that a step changes, by what they are."""
        return {
            "weights": list(self.network.parameters()),
            "running statistics": running_statistics(self.network),
            "counts": [buffer for buffer in self.network.buffers() if not buffer.is_floating_point()],
            "momenta": momenta(self.optimiser),
            "averages": [] if self.average is None else self.average.tensors,
        }

    def _whole_step(self, images: Tensor, labels: Tensor, learning_rate: Tensor, weight: Tensor) -> StepResult:
        """Take a step whose numbers are tensors: its learning rate, and the weight of `WeightAverage.lerp`."""
        result = self._forward_backward(images, labels)
        with learning_rate_in(self.optimiser, learning_rate):
            self.optimiser.step()
        if self.average is not None:
            self.average.lerp(weight)
        return result

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


def build_step(
    run: RunConfig,
    *,
    device: torch.device,
    distributed: bool = False,
    compiled: bool = False,
    graphed: bool = False,
) -> Step:
    """Build the step of a run, with the initial weights of its network, a new optimiser and a new average of weights.

    It reseeds torch's global random generators, see `build_network`.

    Args:
        run: The run.
        device: The device that computes.
        distributed: Whether gradients are averaged over the ranks of the default process group.
        compiled: Whether torch.compile compiles the parts of the network. Results then differ by rounding only.
        graphed: Whether a step is captured in CUDA graphs where that is possible, see `Step`.
    """
    network = build_network(run, device)
    if compiled:
        compile_parts(network)
    averaging = run.recipe.averaging
    return Step(
        network,
        sgd(network, run.recipe),
        None if averaging == "none" else WeightAverage(network, averaging, run.recipe.ema_decay),
        aux_weight=run.network.aux_weight,
        label_smoothing=run.recipe.label_smoothing,
        dtype=resolve_precision(run.recipe.precision, device).dtype,
        distributed=distributed,
        graphed=graphed,
    )
