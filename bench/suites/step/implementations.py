"""Defines the implementations of a training step and of an evaluation that benchmarks compare.

Ours is the step of a run: channels_last, bf16 on devices that support it, fused SGD, and a folded network in
evaluation. The baselines are `torchvision.models.googlenet` as a user would write it: in float32 NCHW, in
channels_last, with bf16 autocast, with both, and with both and torch.compile. In evaluation no network has auxiliary
classifiers. To add an implementation, add an entry to `STEPS`.
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
from reproduce.spec import NetworkConfig, PrecisionName
from reproduce.training.step import build_step

StepFunction = Callable[[], object]
"""Queues one training step or one forward pass on the device, and does not wait for it. On CPUs it does the work."""


@dataclass(frozen=True)
class StepInputs:
    """The network that all implementations train or evaluate, and one batch that is already on the device."""

    network: NetworkConfig
    images: Tensor
    """Images, uint8 [N, 3, S, S] in channels_last."""
    labels: Tensor
    """Labels, int64 [N]."""
    training: bool
    """Whether to train the network instead of evaluating it."""
    precision: PrecisionName = "auto"
    """The precision of ours. Those of torchvision's have their own."""

    @property
    def device(self) -> torch.device:
        """The device that holds the batch and does the work."""
        return self.images.device

    @property
    def batch(self) -> int:
        """Number of images N."""
        return len(self.images)


def step_inputs(
    network: NetworkConfig, batch: int, device: torch.device, *, training: bool, precision: PrecisionName = "auto"
) -> StepInputs:
    """Make inputs with a random batch.

    Args:
        network: The network, which also gives the side of the images (`resolution`) and the number of classes.
        batch: Number of images.
        device: Where the batch is made.
        training: Whether to train the network instead of evaluating it.
        precision: The precision of ours.
    """
    return StepInputs(network, *random_batch(run_without_data(network, batch=batch), device), training, precision)


def port_network(side: int, **changes: object) -> NetworkConfig:
    """Return the config of our network with the layers of torchvision's port and 1000 classes.

    Args:
        side: Side of the images, in pixels.
        **changes: Values of further fields of `NetworkConfig`, or of the fields that this function sets: `classes`,
            `resolution`, `large_kernel` and `pooling`.
    """
    return NetworkConfig.model_validate(
        {"classes": 1000, "resolution": side, "large_kernel": "3x3", "pooling": "port", **changes}
    )


@dataclass(frozen=True, kw_only=True)
class StepImplementation:
    """One way to train and evaluate the network: how it is built, and which networks it supports."""

    build: Callable[[StepInputs], StepFunction]
    """Builds the network for some inputs, and returns the function that takes one step or forward pass."""
    ours: bool = True
    """Whether it is this project's, as opposed to torchvision's."""
    compiled: bool = False
    """Whether it uses torch.compile, whose first step takes minutes on CPUs."""
    mixed: bool = False
    """Whether it is bf16 by autocast, whatever the precision of ours."""
    supports: Callable[[StepInputs], bool] = lambda _: True
    """Returns whether the implementation can build the network of the inputs."""


def _ours(inputs: StepInputs, compiled: bool = False) -> StepFunction:
    step = build_step(
        run_without_data(inputs.network, batch=inputs.batch, precision=inputs.precision),
        device=inputs.device,
        compiled=compiled and inputs.training,
    )
    if inputs.training:
        step.network.train()
        return lambda: step(inputs.images, inputs.labels, LEARNING_RATE)
    network: nn.Module = folded(step.network, step.dtype)
    if compiled:
        compile_parts(network)
    return torch.inference_mode()(lambda: network(step.normalise(inputs.images)))


def _torchvision(
    inputs: StepInputs, channels_last: bool = False, autocast: bool = False, compiled: bool = False
) -> StepFunction:
    memory = torch.channels_last if channels_last else torch.contiguous_format
    has_aux = inputs.training and inputs.network.aux == "both"
    network: nn.Module = torchvision.models.googlenet(
        num_classes=inputs.network.classes, aux_logits=has_aux, init_weights=False
    ).to(device=inputs.device, memory_format=memory)  # type: ignore[call-overload]
    pixels = torch.randn(inputs.images.shape, device=inputs.device).contiguous(memory_format=memory)
    mixed = partial(torch.autocast, inputs.device.type, dtype=torch.bfloat16) if autocast else nullcontext
    if compiled:
        network.compile(dynamic=False)
    if not inputs.training:
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
            main, *others = outputs if has_aux else [outputs]
            loss = F.cross_entropy(main, inputs.labels)
            for logits in others:
                loss = loss + 0.3 * F.cross_entropy(logits, inputs.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return train


def _torchvision_supports(inputs: StepInputs) -> bool:
    network = inputs.network
    return network.reduction == "reduced" and network.norm == "batch" and network.aux in ("none", "both")


_baseline = partial(StepImplementation, ours=False, supports=_torchvision_supports)
OURS, BASELINE = "deeper", "torchvision"
FLOAT32_COMPILED = "torchvision, channels_last, compiled"
STEPS = {
    OURS: StepImplementation(build=_ours),
    "deeper, compiled": StepImplementation(build=partial(_ours, compiled=True), compiled=True),
    BASELINE: _baseline(build=_torchvision),
    "torchvision, channels_last": _baseline(build=partial(_torchvision, channels_last=True)),
    FLOAT32_COMPILED: _baseline(build=partial(_torchvision, channels_last=True, compiled=True), compiled=True),
    "torchvision, autocast": _baseline(build=partial(_torchvision, autocast=True), mixed=True),
    "torchvision, channels_last, autocast": _baseline(
        build=partial(_torchvision, channels_last=True, autocast=True), mixed=True
    ),
    "torchvision, channels_last, autocast, compiled": _baseline(
        build=partial(_torchvision, channels_last=True, autocast=True, compiled=True), compiled=True, mixed=True
    ),
}
"""All implementations by name. Ours comes first."""


def step_names(*, compiled: bool, precision: PrecisionName = "auto") -> tuple[str, ...]:
    """Return the names in `STEPS`, ours first.

    Args:
        compiled: Whether to include the implementations that use torch.compile.
        precision: The precision of ours. Those in bf16 are left out beside ours in float32, and torchvision's compiled
            network in float32 beside ours in any other precision, where it is never the strongest.
    """
    in_float32 = precision == "float32"
    return tuple(
        name
        for name, step in STEPS.items()
        if (compiled or not step.compiled)
        and not (step.mixed and in_float32)
        and not (name == FLOAT32_COMPILED and not in_float32)
    )
