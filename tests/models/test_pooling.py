"""Deterministic pools, and training steps that use only deterministic operations with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reproduce.models import GoogLeNet
from reproduce.models.pooling import adaptive_average
from reproduce.spec import NetworkConfig

ATOMIC = {"_adaptive_avg_pool2d_backward", "avg_pool3d_backward", "nll_loss2d_forward", "nll_loss2d_backward"}
"""Operations that raise an error on a GPU if torch has to be deterministic, as far as image networks use them; see the
documentation of `torch.use_deterministic_algorithms`."""


@pytest.fixture
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("height", "width", "grid"), [(14, 14, 4), (7, 9, 4), (2, 3, 4), (5, 5, 5), (6, 4, 1)])
def test_the_deterministic_pool_agrees_with_the_adaptive_one(height: int, width: int, grid: int) -> None:
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.adaptive_avg_pool2d(x, grid)
    weights = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.use_deterministic_algorithms(True)
    try:
        found = adaptive_average(x, grid)
        (ours,) = torch.autograd.grad((found * weights).sum(), x)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours, gradient)


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def operations(network: NetworkConfig, side: int) -> set[str]:
    """The operations of a forward and a backward pass."""
    with Operations() as seen:
        outputs = GoogLeNet(network).train()(torch.randn(2, 3, side, side))
        loss = sum(
            torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]), label_smoothing=0.1)
            for logits in outputs
            if logits is not None
        )
        assert isinstance(loss, torch.Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
    return seen.names


NETWORKS = {
    "paper": NetworkConfig(classes=3, resolution=64),
    "port": NetworkConfig(classes=3, resolution=64, pooling="port"),
    "fc head": NetworkConfig(classes=3, resolution=64, head="fc"),
}


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("side", [48, 64], ids=["while resizing", "at its resolution"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_deterministic_step_uses_nothing_that_adds_atomically(network: NetworkConfig, side: int) -> None:
    assert not operations(network, side) & ATOMIC


def test_a_step_of_the_port_that_need_not_be_deterministic_does() -> None:
    assert operations(NETWORKS["port"], 64) & ATOMIC
