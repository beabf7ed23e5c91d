"""One optimisation step: what a run does thousands of times, and what `deeper bench` times without the rest."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from reproduce.data.loading.normalise import Normalise
from reproduce.models import GoogLeNet, Outputs
from reproduce.models.compiled import compile_parts
from reproduce.spec import RunConfig
from reproduce.training.optim import set_learning_rate, sgd


class StepResult(NamedTuple):
    """Losses (0-d) and main logits [N, classes] in float32, detached, still on the device."""

    loss: Tensor
    main: Tensor
    aux1: Tensor | None
    aux2: Tensor | None
    logits: Tensor


class Losses(NamedTuple):
    """Cross-entropies of the classifiers (0-d) and their weighted sum."""

    total: Tensor
    main: Tensor
    aux1: Tensor | None
    aux2: Tensor | None


def losses(outputs: Outputs, labels: Tensor, *, aux_weight: float, label_smoothing: float) -> Losses:
    """Cross-entropy of the main classifier plus `aux_weight` times that of each auxiliary one (P section 5).

    Labels are int64 [N]; label smoothing counts for every classifier. Reductions are in float32.
    """

    def entropy(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)

    main = entropy(outputs.main)
    heads = [None if logits is None else entropy(logits) for logits in (outputs.aux1, outputs.aux2)]
    total = main
    for head in heads:
        if head is not None:
            total = total + aux_weight * head
    return Losses(total, main, *heads)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether a recipe's `precision` means bf16 autocast on a device.

    auto: where the device has bf16 arithmetic; a CPU that only emulates it is slower with it.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


def precision_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What a recipe's `precision` computes in on a device: bfloat16 or float32, see `uses_bf16`."""
    return torch.bfloat16 if uses_bf16(precision, device) else torch.float32


class Step:
    """Forward, backward and update on one batch; everything that a bare training loop needs but the batches."""

    def __init__(
        self,
        network: GoogLeNet,
        optimiser: Optimizer,
        *,
        aux_weight: float,
        label_smoothing: float,
        bf16: bool,
        distributed: bool = False,
    ) -> None:
        self.network = network
        self.optimiser = optimiser
        self.bf16 = bf16
        self.device = next(network.parameters()).device
        # Rounding normalised pixels to bf16 here is the rounding that autocast would do at the first convolution.
        self.normalise = Normalise(dtype=torch.bfloat16 if bf16 else torch.float32).to(self.device)
        self._aux_weight, self._label_smoothing = aux_weight, label_smoothing
        self._parallel: nn.Module = network
        if distributed:
            # Batch-norm statistics stay with their rank here and are averaged by `Ranks.agree`, every few steps
            # and before each validation and checkpoint: broadcasting rank 0's would throw the others' away.
            self._parallel = DistributedDataParallel(
                network, forward_sync_buffers=False, gradient_as_bucket_view=True, static_graph=True
            )

    def __call__(self, images: Tensor, labels: Tensor, learning_rate: float) -> StepResult:
        """One step on images [N, 3, S, S], uint8 or normalised, and labels (int64 [N]); gradients are left in place."""
        set_learning_rate(self.optimiser, learning_rate)
        result = self._backward(images, labels)
        self.optimiser.step()
        return result

    def warm_up(self, images: Tensor, labels: Tensor) -> None:
        """A few forward and backward passes that leave the network and the generators as they were.

        Kernels get chosen, and DDP orders its buckets by this first pass. A resumed run does the same, so that the
        sums over three or more ranks round alike in it and in one that was never interrupted.
        """
        before = [buffer.clone() for buffer in self.network.buffers()]
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            for _ in range(2):  # DDP changes its buckets at the start of the second pass
                self._backward(images, labels)
        self.optimiser.zero_grad(set_to_none=True)
        for buffer, value in zip(self.network.buffers(), before, strict=True):
            buffer.copy_(value)

    def _backward(self, images: Tensor, labels: Tensor) -> StepResult:
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            outputs: Outputs = self._parallel(self.normalise(images))
        found = losses(outputs, labels, aux_weight=self._aux_weight, label_smoothing=self._label_smoothing)
        found.total.backward()  # type: ignore[no-untyped-call]
        aux1, aux2 = (None if loss is None else loss.detach() for loss in (found.aux1, found.aux2))
        return StepResult(found.total.detach(), found.main.detach(), aux1, aux2, outputs.main.detach().float())


def build_step(run: RunConfig, *, device: torch.device, distributed: bool = False, compiled: bool = False) -> Step:
    """The step of a run with freshly initialised weights, which `seeds.initialisation` alone determines.

    compiled: the network's parts by torch.compile; the same function up to rounding.
    """
    torch.manual_seed(run.seeds.initialisation)
    network = GoogLeNet(run.network).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compiled:
        compile_parts(network)
    return Step(
        network,
        sgd(network, run.recipe),
        aux_weight=run.network.aux_weight,
        label_smoothing=run.recipe.label_smoothing,
        bf16=uses_bf16(run.recipe.precision, device),
        distributed=distributed,
    )
