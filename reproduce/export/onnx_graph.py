"""Makes an ONNX graph of a network by torch's exporter, with a batch of any size."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch

from reproduce.export.logits import AllLogits
from reproduce.models import GoogLeNet

INPUT = "images"
OPSET = 18
"""Version of ONNX's operators: the first that torch's exporter writes without converting."""


def onnx_bytes(network: GoogLeNet, metadata: Mapping[str, str]) -> bytes:
    """Export a network as an ONNX model.

    Its input `images` is float32 [N, 3, R, R] at the network's resolution, normalised. Its outputs are `logits`, and
    `aux1` and `aux2` if the network has these classifiers.

    Args:
        network: The network, in float32 and on the CPU. Its mode changes.
        metadata: Entries of the model's metadata.
    """
    module, side = AllLogits(network), network.config.resolution
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own code
        program = torch.onnx.export(
            module,
            (torch.zeros(2, 3, side, side),),
            input_names=[INPUT],
            output_names=module.names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # as it is with dynamo
    model = program.model_proto
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=value)
    return bytes(model.SerializeToString())
