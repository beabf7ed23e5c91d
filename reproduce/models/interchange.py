"""Builds networks from weights in the two public layouts of GoogLeNet.

- `torchvision`: the layout of `torchvision.models.googlenet`, with batch normalisation, 3x3 instead of 5x5 kernels, and
  torchvision's pools. torchvision's `transform_input`, which rescales images normalised for ImageNet to TF-slim's
  range, is not part of our network: outputs agree with those of a torchvision network with `transform_input=False`.
  torchvision's published weights expect rescaled images, so callers have to rescale the images themselves.
- `plain`: convolutions with biases, without normalisation, with 5x5 kernels and the paper's pools. Examples of keys are
  `conv1.conv.weight`, `inception3a.branch2.0.conv.weight` and `aux1.fc1.weight`.

Both layouts describe networks for 224x224 images with 1x1 reductions and global average pooling. The parameters of
`GoogLeNet` have the same names in both.
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
"""Fields of `NetworkConfig` that a layout determines and that cannot be read from the weights, by layout."""

MAX_NAMED_KEYS = 5  # for each kind of mistake


class InterchangeError(UserError):
    """Raised by `load` if the layout is unknown, or if a state dict's keys or shapes are not those of its layout."""


def load(state_dict: Mapping[str, Tensor], *, layout: Layout) -> GoogLeNet:
    """Build the network that a state dict belongs to, and copy the weights into it.

    The number of classes and the auxiliary classifiers are read from the state dict. In training and in evaluation, the
    outputs agree to 1e-5 in float32 with those of the network that the weights come from. Dropout rates are not stored
    in a state dict: they are torchvision's for the layout "torchvision" and the defaults of `NetworkConfig` for
    "plain". The state of torch's random generators does not change.

    Args:
        state_dict: The weights, which are not changed. If the counters `num_batches_tracked` are missing, they are set
            to 0.
        layout: The layout of the weights.

    Returns:
        The network, in training mode, in float32 and on the CPU.

    Raises:
        InterchangeError: The layout is unknown, or tensors are missing, unknown or of a wrong shape. The message names
            the first of these tensors.
    """
    if layout not in LAYOUTS:
        raise InterchangeError(f"layout: {layout!r} is unknown; use one of {', '.join(LAYOUTS)}")
    with torch.device("meta"):
        network = GoogLeNet(_config(state_dict, layout))
    network = network.to_empty(device="cpu")
    # Weights saved before torch 0.4.1 lack the batch counters, which do not influence the outputs.
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
        some = ", ".join(list(state_dict)[:MAX_NAMED_KEYS]) or "none"
        raise InterchangeError(f"{layout} layout: fc.weight is missing; the keys are {some}, ...")
    if weight.ndim != 2 or len(weight) < 2:
        raise InterchangeError(f"{layout} layout: fc.weight has shape {list(weight.shape)}; [classes, 1024] is needed")
    aux1, aux2 = (any(key.startswith(f"{name}.") for key in state_dict) for name in ("aux1", "aux2"))
    aux: Auxiliary = "none"
    if aux1 and aux2:
        aux = "both"
    elif aux1:
        aux = "aux1"
    elif aux2:
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
    sentences = [f"{kind}: {_first_names(names)}" for kind, names in mistakes.items() if names]
    if sentences:
        raise InterchangeError(f"{layout} layout: " + "; ".join(sentences))


def _first_names(names: list[str]) -> str:
    more = len(names) - MAX_NAMED_KEYS
    return ", ".join(names[:MAX_NAMED_KEYS]) + (f" and {more} more" if more > 0 else "")
