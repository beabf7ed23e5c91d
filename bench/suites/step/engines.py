"""Defines the inference engines that an evaluation is compared with: those that are made for networks on CPUs.

Each gets torchvision's googlenet with batches of one fixed size and the threads of this process, and chooses kernels
and layouts by itself. They are measured where they are installed, with `pip install` of the extra `peers`.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from bench.suites.harness.errors import NotInstalledError
from bench.suites.step.inputs import StepFunction, StepInputs
from reproduce.execution.precision import resolve_precision

HOW = "not installed; add it with: pip install {} (the extra `peers`)"
INPUT = "images"


def onnxruntime(inputs: StepInputs) -> StepFunction:
    """Build the network for Microsoft's onnxruntime, in float32, which is the only precision that it has on CPUs."""
    try:
        import onnxruntime as engine
    except ImportError as error:
        raise NotInstalledError(HOW.format("onnxruntime onnx onnxscript")) from error
    options = engine.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = engine.InferenceSession(_onnx(inputs), options, providers=["CPUExecutionProvider"])
    pixels = {INPUT: _pixels(inputs).numpy()}
    return lambda: session.run(None, pixels)


def openvino(inputs: StepInputs) -> StepFunction:
    """Build the network for Intel's OpenVINO, with one stream on all threads, in bf16 where ours is."""
    try:
        import openvino as engine
    except ImportError as error:
        raise NotInstalledError(HOW.format("openvino onnx onnxscript")) from error
    core: Any = engine.Core()
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if _is_bf16(inputs) else "f32",
    }
    compiled = core.compile_model(core.read_model(io.BytesIO(_onnx(inputs))), "CPU", settings)
    request, pixels = compiled.create_infer_request(), _pixels(inputs).numpy()
    return lambda: request.infer([pixels], share_inputs=True, share_outputs=True)


def zentorch(inputs: StepInputs) -> StepFunction:
    """Build the network for AMD's zentorch, a backend of torch.compile, with bf16 autocast where ours is bf16."""
    try:
        import zentorch  # noqa: F401 - it registers the backend
    except ImportError as error:
        raise NotInstalledError(HOW.format("zentorch deprecated")) from error
    network, pixels = _network(inputs), _pixels(inputs)
    network.compile(backend="zentorch", dynamic=False)

    @torch.no_grad()
    def evaluate() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=_is_bf16(inputs)):
            logits: Tensor = network(pixels)
        return logits

    return evaluate


def _is_bf16(inputs: StepInputs) -> bool:
    return resolve_precision(inputs.precision, inputs.device).dtype == torch.bfloat16


def _network(inputs: StepInputs) -> nn.Module:
    network: nn.Module = torchvision.models.googlenet(
        num_classes=inputs.network.classes, aux_logits=False, init_weights=False
    )
    return network.eval()


def _pixels(inputs: StepInputs) -> Tensor:
    return torch.randn(inputs.images.shape).contiguous()


def _onnx(inputs: StepInputs) -> bytes:
    """Return the network as an ONNX model for batches of this one size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own code
        program = torch.onnx.export(
            _network(inputs), (_pixels(inputs),), input_names=[INPUT], dynamo=True, verbose=False
        )
    assert program is not None  # as it is with dynamo
    return bytes(program.model_proto.SerializeToString())
