"""One optimisation step, which a run repeats thousands of times and which `deeper bench` times by itself."""

from __future__ import annotations

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


class StepResult(NamedTuple):
    """Losses (0-d) and main logits [N, classes] in float32, detached from the graph and still on the device."""

    loss: Tensor
    main: Tensor
    aux1: Tensor | None
    aux2: Tensor | None
    logits: Tensor


class Losses(NamedTuple):
    """Cross-entropies of the classifiers (0-d) and their weighted sum; None for a classifier that is absent."""

    total: Tensor
    main: Tensor
    aux1: Tensor | None
    aux2: Tensor | None


def losses(outputs: Outputs, labels: Tensor, *, aux_weight: float, label_smoothing: float) -> Losses:
    """The loss of the main classifier plus the weighted losses of the auxiliary ones (Szegedy et al. 2014, section 5).

    Args:
        outputs: Logits of the classifiers. The losses are computed in float32 whatever their type.
        labels: Labels, int64 [N].
        aux_weight: Weight of each auxiliary classifier's loss; that of the main classifier is 1.
        label_smoothing: Label smoothing of every classifier, from 0 to below 1.
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
    """Forward pass, backward pass and update on one batch: all that a bare training loop needs besides the batches."""

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
        """Run one step; the gradients stay in place.

        Args:
            images: Images, [N, 3, S, S], uint8 or normalised.
            labels: Labels, int64 [N].
            learning_rate: Learning rate of this step.
        """
        set_learning_rate(self.optimiser, learning_rate)
        result = self._forward_backward(images, labels)
        self.optimiser.step()
        return result

    def warm_up(self, images: Tensor, labels: Tensor) -> None:
        """Run a few forward and backward passes that leave the network and the random generators as they were.

        The first passes choose kernels, and DDP orders its buckets by them. A resumed run does the same, so that sums
        over three or more ranks are rounded in it as in a run that was never interrupted.
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
        with autocast(self.device, self.dtype):
            outputs: Outputs = self._parallel(self.normalise(images))
        loss = losses(outputs, labels, aux_weight=self._aux_weight, label_smoothing=self._label_smoothing)
        loss.total.backward()  # type: ignore[no-untyped-call]
        aux1, aux2 = (None if value is None else value.detach() for value in (loss.aux1, loss.aux2))
        return StepResult(loss.total.detach(), loss.main.detach(), aux1, aux2, outputs.main.detach().float())


def build_network(run: RunConfig, device: torch.device) -> GoogLeNet:
    """The network of a run with its initial weights, which `seeds.initialisation` alone determines."""
    torch.manual_seed(run.seeds.initialisation)
    network: GoogLeNet = GoogLeNet(run.network).to(  # type: ignore[call-overload]
        device=device, memory_format=torch.channels_last
    )
    return network


def build_step(run: RunConfig, *, device: torch.device, distributed: bool = False, compiled: bool = False) -> Step:
    """The step of a run with its initial weights.

    Args:
        run: The run.
        device: The device that computes.
        distributed: Whether gradients are averaged over the ranks of the default process group.
        compiled: Whether torch.compile compiles the parts of the network, which changes results by rounding only.
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
