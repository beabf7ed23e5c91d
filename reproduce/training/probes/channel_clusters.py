"""Probe: do correlated channels gather in one branch of an Inception module?

Measures claim S-clustered (Hebb's principle: sparse connections are approximated by dense clusters of correlated
units). The channels of a branch also share its kernel, and with it their receptive field. The permutation baseline does
not separate these two causes.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from reproduce import schema
from reproduce.execution.precision import autocast
from reproduce.models.inception import Inception
from reproduce.training.probes.probe import TrainedNetwork
from reproduce.training.step import build_network

IMAGES = 256
GRID = 4
"""Rows and columns of a module's feature map that are sampled, evenly spread; a smaller map is used as a whole."""
PERMUTATIONS = 200
BAND_QUANTILE = 0.975
"""Upper end of a two-sided 95 % band."""
PERMUTATION_SEED = 2014
"""The same for all runs, whatever their seeds."""


def channel_clusters(trained: TrainedNetwork) -> dict[str, float]:
    """The `cluster/` metrics of the trained network, and the difference for the same network before its first step."""
    untrained = build_network(trained.run, trained.ranks.device)
    after, before = (_clusters_on_sample(network, trained) for network in (trained.network, untrained))
    return {**after, schema.CLUSTER_UNTRAINED: before[schema.CLUSTER_DIFFERENCE]}


def _clusters_on_sample(network: nn.Module, trained: TrainedNetwork) -> dict[str, float]:
    images = (trained.normalise(images) for images, _, _ in trained.val_images.sample(IMAGES))
    return cluster_metrics(network, images, dtype=trained.dtype)


@torch.inference_mode()
def cluster_metrics(network: nn.Module, images: Iterable[Tensor], *, dtype: torch.dtype) -> dict[str, float]:
    """Compare the correlation of channels within branches with that across branches.

    The absolute Pearson correlation of each pair of channels, over images and positions, is averaged over the pairs
    of one branch and over those of two branches, and then over modules. The baseline is the difference of the two when
    channels are assigned to branches at random. Channels that never change have no correlation and are left out.

    Args:
        network: A network with Inception modules. It is left in evaluation mode.
        images: Normalised batches, [N, 3, S, S].
        dtype: What the network computes in, bfloat16 or float32.
    """
    network.eval()
    modules = [module for module in network.modules() if isinstance(module, Inception)]
    samples: list[list[Tensor]] = [[] for _ in modules]
    with ExitStack() as hooks:
        for module, kept in zip(modules, samples, strict=True):
            hooks.enter_context(module.register_forward_hook(partial(_keep_sample, kept)))
        for batch in images:
            with autocast(batch.device, dtype):
                network(batch)
    random = np.random.Generator(np.random.Philox(PERMUTATION_SEED))
    correlations = [
        torch.stack(within_and_across(torch.cat(kept), module.branch_channels, random))
        for module, kept in zip(modules, samples, strict=True)
    ]
    within, across = torch.stack(correlations).mean(0)
    difference = within - across
    return {
        schema.CLUSTER_WITHIN: float(within[0]),
        schema.CLUSTER_ACROSS: float(across[0]),
        schema.CLUSTER_DIFFERENCE: float(difference[0]),
        schema.CLUSTER_PERMUTED_95: float(difference[1:].quantile(BAND_QUANTILE)),
    }


def within_and_across(values: Tensor, branches: tuple[int, ...], random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mean absolute correlation of the pairs of channels within branches, and of those across branches.

    Args:
        values: Activations, [samples, channels], channels in the order of `branches`.
        branches: Number of channels of each branch.
        random: Generator of the permutations.

    Returns:
        Two tensors [1 + PERMUTATIONS]: first for the branches as they are, then for channels assigned at random.
    """
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


def _keep_sample(kept: list[Tensor], _module: nn.Module, _inputs: object, output: Tensor) -> None:
    """Keep the activations of a module at `GRID` x `GRID` positions, [N * positions, channels]."""
    rows, columns = (((torch.arange(n := min(GRID, side)) + 0.5) * side / n).long() for side in output.shape[2:])
    kept.append(output[:, :, rows[:, None], columns].permute(0, 2, 3, 1).flatten(0, 2).float())
