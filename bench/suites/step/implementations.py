"""The forms of a training step and of an evaluation that benchmarks compare: a new one is a line in `FORMS`.

Ours as a run takes it (channels_last, bf16 where the device has it, fused SGD; at evaluation `folded`), and
`torchvision.models.googlenet` as one would write it: float32 NCHW, channels_last, bf16 autocast, both, both compiled.
At evaluation neither has heads.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from bench.suites.harness.inputs import LEARNING_RATE, random_batch, run_without_data
from reproduce.models.compiled import compile_parts
from reproduce.models.folding import folded
from reproduce.spec import NetworkConfig
from reproduce.training.step import build_step

Work = Callable[[], object]
"""One step, or one forward pass, given to the device."""


@dataclass(frozen=True)
class Case:
    """What all forms do: one network, in training or at evaluation, on one batch that lies ready on the device."""

    network: NetworkConfig
    images: Tensor
    """uint8 [N, 3, S, S] in channels_last."""
    labels: Tensor
    training: bool

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def batch(self) -> int:
        return len(self.images)


def case(network: NetworkConfig, batch: int, device: torch.device, *, training: bool) -> Case:
    """On random images of the network's resolution."""
    return Case(network, *random_batch(run_without_data(network, batch=batch), device), training)


def port(side: int, **changes: object) -> NetworkConfig:
    """Our network in the port's form, so that it is the same as torchvision's."""
    return NetworkConfig.model_validate(
        {"classes": 1000, "resolution": side, "large_kernel": "3x3", "pooling": "port", **changes}
    )


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to do it."""

    build: Callable[[Case], Work]
    ours: bool = True
    compiled: bool = False
    """Takes long before its first step."""
    takes: Callable[[Case], bool] = lambda _: True
    """Whether there is such a form of a case."""


def _ours(case: Case, compiled: bool = False) -> Work:
    step = build_step(
        run_without_data(case.network, batch=case.batch), device=case.device, compiled=compiled and case.training
    )
    if case.training:
        step.network.train()
        return lambda: step(case.images, case.labels, LEARNING_RATE)
    network: nn.Module = folded(step.network, step.dtype)
    if compiled:
        compile_parts(network)
    return torch.inference_mode()(lambda: network(step.normalise(case.images)))


def _torchvision(case: Case, channels_last: bool = False, autocast: bool = False, compiled: bool = False) -> Work:
    memory = torch.channels_last if channels_last else torch.contiguous_format
    heads = case.training and case.network.aux == "both"
    network: nn.Module = torchvision.models.googlenet(
        num_classes=case.network.classes, aux_logits=heads, init_weights=False
    ).to(device=case.device, memory_format=memory)  # type: ignore[call-overload]
    pixels = torch.randn(case.images.shape, device=case.device).contiguous(memory_format=memory)
    mixed = partial(torch.autocast, case.device.type, dtype=torch.bfloat16) if autocast else nullcontext
    if compiled:
        network.compile(dynamic=False)
    if not case.training:
        network.eval()

        @torch.inference_mode()
        def evaluate() -> Tensor:
            with mixed():
                logits: Tensor = network(pixels)
            return logits

        return evaluate
    optimiser = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4)

    def train() -> None:
        optimiser.zero_grad()
        with mixed():
            outputs = network(pixels)
            main, *others = outputs if heads else [outputs]
            loss = F.cross_entropy(main, case.labels)
            for logits in others:
                loss = loss + 0.3 * F.cross_entropy(logits, case.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return train


def _torchvision_has(case: Case) -> bool:
    network = case.network
    return network.reduction == "reduced" and network.norm == "batch" and network.aux in ("none", "both")


_peer = partial(Form, ours=False, takes=_torchvision_has)
OURS, PEER = "deeper", "torchvision"
FORMS = {
    OURS: Form(build=_ours),
    "deeper, compiled": Form(build=partial(_ours, compiled=True), compiled=True),
    PEER: _peer(build=_torchvision),
    "torchvision, channels_last": _peer(build=partial(_torchvision, channels_last=True)),
    "torchvision, autocast": _peer(build=partial(_torchvision, autocast=True)),
    "torchvision, channels_last, autocast": _peer(build=partial(_torchvision, channels_last=True, autocast=True)),
    "torchvision, channels_last, autocast, compiled": _peer(
        build=partial(_torchvision, channels_last=True, autocast=True, compiled=True), compiled=True
    ),
}
"""By name, ours first."""
PEERS = tuple(name for name, form in FORMS.items() if not form.ours and not form.compiled)


def names(*, compiled: bool) -> tuple[str, ...]:
    """All forms; the compiled ones only where asked."""
    return tuple(name for name, form in FORMS.items() if compiled or not form.compiled)
