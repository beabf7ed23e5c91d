"""Weights of the two public layouts of GoogLeNet.

- `torchvision`: `torchvision.models.googlenet`. Batch normalisation, 3x3 in place of 5x5 and its own pools. Its
  `transform_input`, which re-scales images normalised for ImageNet to the range of TF-slim, is no part of our network:
  outputs agree with those of a torchvision network that has `transform_input=False`. For the published weights,
  which want it, re-scale the images first.
- `plain`: convolutions with biases, no normalisation, 5x5 kernels, the paper's pools (names such as
  `conv1.conv.weight`, `inception3a.branch2.0.conv.weight`, `aux1.fc1.weight`).

Both are reduced networks for 224x224 images with global average pooling, and ours has their names of parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from reproduce.errors import UserError
from reproduce.models.googlenet import GoogLeNet
from reproduce.spec import Auxiliary, NetworkConfig

Layout = Literal["torchvision", "plain"]

LAYOUTS: dict[Layout, dict[str, Any]] = {
    "torchvision": {"norm": "batch", "large_kernel": "3x3", "pooling": "port", "dropout": 0.2, "aux_dropout": 0.7},
    "plain": {"norm": "none", "large_kernel": "5x5", "pooling": "paper"},
}
"""What a layout says about the network, where its weights do not."""

NAMED_AT_MOST = 5  # of each kind of mistake


class InterchangeError(UserError):
    """A state dict that is not of the layout."""


def load(state_dict: Mapping[str, Tensor], *, layout: Layout) -> GoogLeNet:
    """The network of a state dict, in training mode, float32, on the CPU; the weights are copied.

    Classes and auxiliary heads follow from the state dict. Outputs agree to 1e-5 in float32 with the network that the
    weights come from, in training (apart from dropout, whose rates a state dict does not hold: they are torchvision's
    own or our defaults) and evaluation. The global generator is left as it is.

    Raises `InterchangeError` naming the keys that are missing, unknown or of a wrong shape.
    """
    if layout not in LAYOUTS:
        raise InterchangeError(f"layout: {layout!r} is unknown; known are {', '.join(LAYOUTS)}")
    with torch.device("meta"):
        network = GoogLeNet(_config(state_dict, layout))
    network = network.to_empty(device="cpu")
    # Weights saved before torch 0.4.1 lack the batch counters, which play no part in the outputs.
    counters = {
        name: torch.zeros_like(b) for name, b in network.named_buffers() if name.endswith("num_batches_tracked")
    }
    weights = {**counters, **state_dict}
    _check(weights, network.state_dict(), layout)
    network.load_state_dict(weights)
    return network


def _config(state_dict: Mapping[str, Tensor], layout: Layout) -> NetworkConfig:
    weight = state_dict.get("fc.weight")
    if weight is None:
        some = ", ".join(list(state_dict)[:NAMED_AT_MOST]) or "none"
        raise InterchangeError(f"{layout} layout: fc.weight is missing; the keys are {some}, ...")
    if weight.ndim != 2 or len(weight) < 2:
        raise InterchangeError(f"{layout} layout: fc.weight has shape {list(weight.shape)}; [classes, 1024] is needed")
    heads = {head: any(key.startswith(f"{head}.") for key in state_dict) for head in ("aux1", "aux2")}
    aux: Auxiliary = "none"
    if all(heads.values()):
        aux = "both"
    elif heads["aux1"]:
        aux = "aux1"
    elif heads["aux2"]:
        aux = "aux2"
    return NetworkConfig(classes=len(weight), aux=aux, **LAYOUTS[layout])


def _check(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], layout: Layout) -> None:
    shapes = [
        f"{key} {list(given[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    mistakes = {
        "missing": [key for key in wanted if key not in given],
        "unknown": [key for key in given if key not in wanted],
        "wrong shape": shapes,
    }
    told = [f"{kind}: {_some(names)}" for kind, names in mistakes.items() if names]
    if told:
        raise InterchangeError(f"{layout} layout: " + "; ".join(told))


def _some(names: list[str]) -> str:
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
