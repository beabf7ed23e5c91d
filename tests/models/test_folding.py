"""A network with folded batch normalisation agrees with the network that still has it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reproduce.models import GoogLeNet
from reproduce.models.folding import folded
from reproduce.spec import NetworkConfig


def _trained(config: NetworkConfig, dtype: torch.dtype) -> tuple[GoogLeNet, Tensor]:
    """Images, and a network whose normalisation has non-trivial statistics, scales and shifts."""
    torch.manual_seed(0)
    network = GoogLeNet(config).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(4, 3, 32, 32, dtype=dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * parameter.abs().mean())
        for _ in range(2):
            network(images)
    return network, images


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(classes=7, resolution=32),
        NetworkConfig(classes=7, resolution=32, norm="none", aux="none"),
        NetworkConfig(classes=7, resolution=32, reduction="naive", large_kernel="3x3", pooling="port"),
    ],
    ids=["paper", "no norm", "naive port"],
)
@pytest.mark.parametrize(("dtype", "distance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_a_folded_network_computes_the_same_logits(config: NetworkConfig, dtype: torch.dtype, distance: float) -> None:
    network, images = _trained(config, dtype)
    expected = network.eval()(images).main
    torch.testing.assert_close(folded(network)(images).main, expected, rtol=distance, atol=distance)


def test_a_folded_network_has_no_normalisation_and_leaves_the_network_alone() -> None:
    network, _ = _trained(NetworkConfig(classes=7, resolution=32, aux="none"), torch.float32)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    copy = folded(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    assert network.training
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_in_bf16_a_folded_network_is_no_further_from_float32_than_autocast() -> None:
    network, images = _trained(NetworkConfig(classes=100, resolution=32, aux="none"), torch.float32)
    network.eval()
    with torch.inference_mode():
        exact = network(images).main
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = network(images).main
        ours = folded(network, torch.bfloat16)(images.bfloat16()).main
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).abs().mean() < 1.1 * (autocast - exact).abs().mean()
