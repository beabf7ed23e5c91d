"""Maps of one Inception module: where in a picture, and how strongly, the channels of each branch respond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from reproduce.data.encoding import Pixels
from reproduce.errors import UserError, did_you_mean
from reproduce.models import GoogLeNet
from reproduce.models.inception import Inception
from reproduce.prediction.predicting import BATCH, normalised

STRONGEST = 8
"""Channels of a branch that are shown."""


@dataclass(frozen=True)
class BranchMaps:
    """The responses of one branch of a module to one picture."""

    branch: str
    """What the branch does, such as `3x3` or `pool`."""
    channels: int
    """Number of the branch's channels."""
    mean: npt.NDArray[np.float32]
    """The mean over all channels, [H, W]."""
    strongest: tuple[int, ...]
    """The channels with the largest mean response, the strongest first."""
    maps: npt.NDArray[np.float32]
    """Their maps, [len(strongest), H, W]."""


def module_of(network: GoogLeNet, name: str) -> Inception:
    """Find an Inception module by its name, such as `4a` or `inception4a`.

    Raises:
        UserError: The network has no such module.
    """
    known = {
        child.removeprefix("inception"): part for child, part in network.named_children() if isinstance(part, Inception)
    }
    short = name.removeprefix("inception")
    if short not in known:
        raise UserError(f"--maps: {name!r} is no module; use one of {', '.join(known)}{did_you_mean(short, known)}")
    return known[short]


def branches_of(network: GoogLeNet, module: Inception) -> list[tuple[str, nn.Module]]:
    """Name the branches of a module, in the order of their channels in its output."""
    large = network.config.large_kernel
    names = {
        "branch1": "1x1",
        "branch2": "3x3",
        "branch3": "5x5" if large == "5x5" else "3x3 in place of 5x5",
        "branch4": "pool",
        "single": network.config.branches,
    }
    return [(names[name], branch) for name, branch in module.named_children()]


@torch.inference_mode()
def branch_maps(network: GoogLeNet, module: str, pixels: Sequence[Pixels]) -> list[list[BranchMaps]]:
    """Compute the maps of a module's branches for pictures.

    Args:
        network: The network, in float32 and on the CPU. Its mode changes.
        module: Name of the module.
        pixels: N pictures, each uint8 [R, R, 3].

    Returns:
        For each picture, the maps of each branch.

    Raises:
        UserError: The network has no such module.
    """
    branches = branches_of(network, module_of(network, module))
    outputs: dict[str, list[Tensor]] = {name: [] for name, _ in branches}
    hooks = [
        branch.register_forward_hook(lambda _, __, output, name=name: outputs[name].append(output))
        for name, branch in branches
    ]
    try:
        for start in range(0, len(pixels), BATCH):
            network.eval()(normalised(pixels[start : start + BATCH]))
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: torch.cat(parts).contiguous().numpy() for name, parts in outputs.items()}
    return [[_strongest(name, found[name][n]) for name, _ in branches] for n in range(len(pixels))]


def _strongest(branch: str, maps: npt.NDArray[np.float32]) -> BranchMaps:
    order = np.argsort(-maps.mean(axis=(1, 2)), kind="stable")[:STRONGEST]
    return BranchMaps(branch, len(maps), maps.mean(axis=0), tuple(order.tolist()), maps[order])
