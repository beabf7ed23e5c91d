"""Probe: measure whether correlated channels gather in one branch of an Inception module.

It measures claim S-clustered (Hebb's principle: sparse connections are approximated by dense clusters of correlated
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
"""Number of rows and of columns, evenly spread, at which a feature map is sampled. A smaller map is used whole."""
PERMUTATIONS = 200
BAND_QUANTILE = 0.975
"""Quantile at the upper end of a two-sided 95 % band."""
PERMUTATION_SEED = 2014
"""Seed of the permutations, the same for all runs whatever their own seeds are."""


def channel_clusters(trained: TrainedNetwork) -> dict[str, float]:
    """Measure how channels cluster in the trained network and in the same network before its first step.

    Every rank measures the same 256 validation images (fewer if there are fewer), so no rank waits for another. The
    probe leaves the network in evaluation mode and reseeds torch's global random generators.

    Returns:
        The metrics of `cluster_metrics` for the trained network, and `CLUSTER_UNTRAINED`, the difference between
        correlations within and across branches in the untrained network.
    """
    untrained = build_network(trained.run, trained.ranks.device)
    after, before = (_clusters_on_sample(network, trained) for network in (trained.network, untrained))
    return {**after, schema.CLUSTER_UNTRAINED: before[schema.CLUSTER_DIFFERENCE]}


def _clusters_on_sample(network: nn.Module, trained: TrainedNetwork) -> dict[str, float]:
    images = (trained.normalise(images) for images, _, _ in trained.val_images.sample(IMAGES))
    return cluster_metrics(network, images, dtype=trained.dtype)


@torch.inference_mode()
def cluster_metrics(network: nn.Module, images: Iterable[Tensor], *, dtype: torch.dtype) -> dict[str, float]:
    """Compare the correlation of channels within branches of Inception modules with that across branches.

    For each pair of channels of a module, the absolute Pearson correlation is taken over all images and over a grid of
    at most 4x4 positions of the feature map. In each module it is averaged over all pairs within a branch, and over
    all pairs across two branches. Channels that never change have no correlation and are left out. The baseline
    assigns the channels to branches at random, with branch sizes kept, in 200 permutations.

    Args:
        network: A network with Inception modules. It is left in evaluation mode.
        images: Normalised batches, [N, 3, S, S].
        dtype: Arithmetic of the network, bfloat16 or float32.

    Returns:
        Means over the modules: `CLUSTER_WITHIN` and `CLUSTER_ACROSS`, the mean correlations (0 to 1);
        `CLUSTER_DIFFERENCE`, the former minus the latter; and `CLUSTER_PERMUTED_95`, the 97.5th percentile of this
        difference over the permutations.
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
    """Compute the mean absolute correlation of channel pairs within branches and across branches of one module.

    Args:
        values: Activations, [samples, channels], with the channels in the order of `branches`.
        branches: Number of channels of each branch.
        random: Generator of the permutations. The call advances it.

    Returns:
        Two tensors [1 + PERMUTATIONS], within and across branches. Element 0 is for the real branches; each of the
        others is for one random assignment of the channels to branches of the same sizes.
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
    """Append a module's activations at a grid of positions to `kept`, [N * positions, channels], in float32."""
    rows, columns = (((torch.arange(n := min(GRID, side)) + 0.5) * side / n).long() for side in output.shape[2:])
    kept.append(output[:, :, rows[:, None], columns].permute(0, 2, 3, 1).flatten(0, 2).float())
