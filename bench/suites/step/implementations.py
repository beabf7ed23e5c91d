"""Defines the implementations of a training step and of an evaluation that benchmarks compare.

Ours is the step of a run: channels_last, bf16 on devices that support it, fused SGD, and a folded network in
evaluation; on GPUs, training also as a CUDA graph. The baselines are `torchvision.models.googlenet` as a user would
write it: in float32 NCHW, in channels_last, with bf16 autocast, with both, and with both and torch.compile. In
evaluation no network has auxiliary classifiers. The engines of `bench.suites.step.engines` evaluate only. To add an
implementation, add an entry to `STEPS`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from bench.suites.harness.errors import MeasurementError
from bench.suites.harness.inputs import LEARNING_RATE, run_without_data
from bench.suites.step import engines
from bench.suites.step.inputs import StepFunction, StepInputs
from reproduce.models.compiled import compile_parts
from reproduce.models.folding import folded
from reproduce.spec import PrecisionName
from reproduce.training.graphs.captured import captures
from reproduce.training.step import build_step

Makers = Literal["deeper", "torchvision", "engines"]
"""Whose implementations those of one worker process are: this project's, torchvision's, or inference engines."""


@dataclass(frozen=True, kw_only=True)
class StepImplementation:
    """One way to train and evaluate the network: how it is built, and which networks it supports."""

    build: Callable[[StepInputs], StepFunction]
    """Builds the network for some inputs, and returns the function that takes one step or forward pass."""
    makers: Makers = "deeper"
    """Whose it is."""
    compiled: bool = False
    """Whether it uses torch.compile, whose first step takes minutes on CPUs."""
    mixed: bool = False
    """Whether it is bf16 by autocast, whatever the precision of ours."""
    supports: Callable[[StepInputs], bool] = lambda _: True
    """Returns whether the implementation can build the network of the inputs."""


def _ours(inputs: StepInputs, compiled: bool = False, graphed: bool = False) -> StepFunction:
    step = build_step(
        run_without_data(inputs.network, batch=inputs.batch, precision=inputs.precision),
        device=inputs.device,
        compiled=compiled and inputs.training,
        graphed=graphed,
    )
    if inputs.training:
        step.network.train()
        if step.graph is not None:
            step.warm_up(inputs.images, inputs.labels)
            if not step.graph.captured:
                raise MeasurementError(step.graph.reason)
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


def _can_be_captured(inputs: StepInputs) -> bool:
    return inputs.training and captures(inputs.device)


def _engine_supports(inputs: StepInputs) -> bool:
    return _torchvision_supports(inputs) and not inputs.training and inputs.device.type == "cpu"


_baseline = partial(StepImplementation, makers="torchvision", supports=_torchvision_supports)
_engine = partial(StepImplementation, makers="engines", supports=_engine_supports)
OURS, GRAPHED, BASELINE = "deeper", "deeper, in a CUDA graph", "torchvision"
COMPILED = "torchvision, channels_last, autocast, compiled"
FLOAT32_COMPILED = "torchvision, channels_last, compiled"
STEPS = {
    OURS: StepImplementation(build=_ours),
    GRAPHED: StepImplementation(build=partial(_ours, graphed=True), supports=_can_be_captured),
    "deeper, compiled": StepImplementation(build=partial(_ours, compiled=True), compiled=True),
    BASELINE: _baseline(build=_torchvision),
    "torchvision, channels_last": _baseline(build=partial(_torchvision, channels_last=True)),
    FLOAT32_COMPILED: _baseline(build=partial(_torchvision, channels_last=True, compiled=True), compiled=True),
    "torchvision, autocast": _baseline(build=partial(_torchvision, autocast=True), mixed=True),
    "torchvision, channels_last, autocast": _baseline(
        build=partial(_torchvision, channels_last=True, autocast=True), mixed=True
    ),
    COMPILED: _baseline(
        build=partial(_torchvision, channels_last=True, autocast=True, compiled=True), compiled=True, mixed=True
    ),
    "onnxruntime": _engine(build=engines.onnxruntime),
    "OpenVINO": _engine(build=engines.openvino),
    "zentorch": _engine(build=engines.zentorch),
}
"""All implementations by name. Ours comes first."""
ENGINES = tuple(name for name, step in STEPS.items() if step.makers == "engines")


def step_names(*, compiled: bool, precision: PrecisionName = "auto", with_engines: bool = False) -> tuple[str, ...]:
    """Return the names in `STEPS`, ours first.

    Args:
        compiled: Whether to include the implementations that use torch.compile.
        with_engines: Whether to include the inference engines.
        precision: The precision of ours. Those in bf16 are left out beside ours in float32, and torchvision's compiled
            network in float32 beside ours in any other precision, where it is never the strongest.
    """
    in_float32 = precision == "float32"
    return tuple(
        name
        for name, step in STEPS.items()
        if (compiled or not step.compiled)
        and (with_engines or step.makers != "engines")
        and not (step.mixed and in_float32)
        and not (name == FLOAT32_COMPILED and not in_float32)
    )
