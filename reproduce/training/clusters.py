"""Do channels that go together gather in one branch? Correlations of a network's channels on validation images.

Source: claim S-clustered (Hebb: sparse connections into dense clusters). Channels of a branch also share its
kernel, and with it their receptive field: the permutation baseline does not tell the two causes apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from reproduce import schema
from reproduce.models.inception import Inception

IMAGES = 256
GRID = 4
"""Rows and columns of a module's map that are looked at, evenly spread; all of a smaller map."""
PERMUTATIONS = 200
BAND = 0.975
"""Upper end of a two-sided 95 % band."""
SEED = 2014  # of the permutations, which no seed of a run changes


@torch.inference_mode()
def channel_clusters(network: nn.Module, images: Iterable[Tensor], *, bf16: bool) -> dict[str, float]:
    """`cluster/` metrics of a network in its evaluation mode; `images` are normalised batches [N, 3, S, S].

    Mean |Pearson correlation| over images and positions, of channel pairs of one branch and of two, the mean over
    modules, and what becomes of their difference where channels are dealt out to the branches at random. Sets no mode
    back. Channels that never change have no correlation and are left out.
    """
    network.eval()
    modules = [module for module in network.modules() if isinstance(module, Inception)]
    seen: list[list[Tensor]] = [[] for _ in modules]
    with ExitStack() as hooks:
        for module, kept in zip(modules, seen, strict=True):
            hooks.enter_context(module.register_forward_hook(partial(_keep, kept)))
        for batch in images:
            with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=bf16):
                network(batch)
    random = np.random.Generator(np.random.Philox(SEED))
    found = [
        torch.stack(within_and_across(torch.cat(kept), module.branch_channels, random))
        for module, kept in zip(modules, seen, strict=True)
    ]
    within, across = torch.stack(found).mean(0)
    difference = within - across
    return {
        schema.CLUSTER_WITHIN: float(within[0]),
        schema.CLUSTER_ACROSS: float(across[0]),
        schema.CLUSTER_DIFFERENCE: float(difference[0]),
        schema.CLUSTER_PERMUTED_95: float(difference[1:].quantile(BAND)),
    }


def within_and_across(values: Tensor, branches: tuple[int, ...], random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mean |correlation| of channel pairs within and across branches, [1 + PERMUTATIONS] each: as the branches are,
    then with permuted channels. values: [samples, channels], channels in the order of `branches`' sizes."""
    branch = torch.repeat_interleave(torch.arange(len(branches)), torch.tensor(branches))
    changing = values.std(0) > 0
    values, branch = values[:, changing], branch[changing.cpu()]
    correlation = torch.corrcoef(values.T).abs().fill_diagonal_(0)
    permuted = [branch.numpy(), *(random.permutation(branch.numpy()) for _ in range(PERMUTATIONS))]
    members = nn.functional.one_hot(torch.from_numpy(np.stack(permuted, axis=1)), len(branches)).to(correlation)
    inside = torch.einsum("cpb,cpb->p", torch.einsum("dc,cpb->dpb", correlation, members), members)
    sizes = members[:, 0].sum(0)
    pairs = float((sizes * (sizes - 1)).sum())
    return inside / pairs, (correlation.sum() - inside) / (len(branch) * (len(branch) - 1) - pairs)


def _keep(kept: list[Tensor], _module: nn.Module, _inputs: object, output: Tensor) -> None:
    rows, columns = (((torch.arange(n := min(GRID, side)) + 0.5) * side / n).long() for side in output.shape[2:])
    kept.append(output[:, :, rows[:, None], columns].permute(0, 2, 3, 1).flatten(0, 2).float())
