"""Correlated channels are found in their branches, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from reproduce import schema
from reproduce.models import GoogLeNet
from reproduce.spec import NetworkConfig
from reproduce.training.probes.channel_clusters import (
    BAND_QUANTILE,
    PERMUTATIONS,
    cluster_metrics,
    within_and_across,
)


def random() -> np.random.Generator:
    return np.random.default_rng(1)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_means_agree_with_those_over_single_pairs() -> None:
    values = noise(50, 7)
    branches = [0, 0, 0, 1, 1, 2, 2]
    correlation = np.abs(np.corrcoef(values.numpy().T))
    pairs = [(i, j) for i in range(7) for j in range(i)]
    inside = [correlation[i, j] for i, j in pairs if branches[i] == branches[j]]
    outside = [correlation[i, j] for i, j in pairs if branches[i] != branches[j]]
    within, across = within_and_across(values, (3, 2, 2), random())
    assert within[0] == pytest.approx(np.mean(inside), rel=1e-4)
    assert across[0] == pytest.approx(np.mean(outside), rel=1e-4)
    assert len(within) == len(across) == 1 + PERMUTATIONS


def test_channels_of_a_common_source_stand_out_from_random_branches_and_noise_does_not() -> None:
    sources = noise(400, 2)
    clustered = torch.cat([sources[:, :1] + 0.5 * noise(400, 10), sources[:, 1:] + 0.5 * noise(400, 10).flip(0)], 1)
    for values, stands_out in ((clustered, True), (noise(400, 20), False), (clustered[:, ::2].repeat(1, 2), False)):
        within, across = within_and_across(values, (10, 10), random())
        difference = within - across
        assert (difference[0] > difference[1:].quantile(BAND_QUANTILE)) == stands_out


def test_constant_channels_do_not_count() -> None:
    values = noise(50, 6)
    dead = torch.cat([values[:, :2], torch.ones(50, 3), values[:, 2:]], 1)
    expected, found = (within_and_across(of, sizes, random()) for of, sizes in ((values, (2, 4)), (dead, (5, 4))))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("changes", [{}, {"branches": "1x1"}])
def test_a_network_is_measured_over_its_modules(changes: dict[str, str]) -> None:
    torch.manual_seed(0)
    network = GoogLeNet(NetworkConfig.model_validate({"aux": "none", "resolution": 32, "classes": 2, **changes}))
    found = cluster_metrics(network, [noise(8, 3, 32, 32), noise(4, 3, 32, 32)], dtype=torch.float32)
    assert set(found) == {
        schema.CLUSTER_WITHIN, schema.CLUSTER_ACROSS, schema.CLUSTER_DIFFERENCE, schema.CLUSTER_PERMUTED_95,
    }  # fmt: skip
    assert found[schema.CLUSTER_DIFFERENCE] == pytest.approx(
        found[schema.CLUSTER_WITHIN] - found[schema.CLUSTER_ACROSS], abs=1e-6
    )
    assert 0 < found[schema.CLUSTER_PERMUTED_95] < 0.2
    assert not any(module._forward_hooks for module in network.modules())
