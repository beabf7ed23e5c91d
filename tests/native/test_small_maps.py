"""Convolutions of small maps by matrix products: the same outputs and gradients as torch's, on the maps that pay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reproduce.models.inception import Conv2d
from reproduce.native import small_maps
from reproduce.native.small_maps import convolve, pays

LAYOUTS = [torch.channels_last, torch.contiguous_format]


@pytest.fixture(params=["products", "weights by products"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_maps, "LARGEST_SIDE", 5 if request.param == "products" else 0)
    monkeypatch.setattr(small_maps, "LEAST_CHANNELS_OF_OUTPUT", 0)


def _inputs(rows: int, columns: int, kernel: int, layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(rows + 10 * columns + 100 * kernel)
    shapes = (5, 7, rows, columns), (6, 7, kernel, kernel), (5, 6, rows, columns)
    x, weight, gradient = (torch.randn(shape, generator=random).to(memory_format=layout) for shape in shapes)
    return x.requires_grad_(), weight.requires_grad_(), gradient


@pytest.mark.usefixtures("how")
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 2), (3, 2), (3, 3), (4, 5)])
def test_outputs_and_gradients_are_those_of_float64(
    size: tuple[int, int], kernel: int, layout: torch.memory_format
) -> None:
    x, weight, gradient = _inputs(*size, kernel, layout)
    found = convolve(x, weight)
    found.backward(gradient)
    wide = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    expected = F.conv2d(*wide, padding=kernel // 2)
    expected.backward(gradient.double())
    for ours, theirs in ((found, expected), (x.grad, wide[0].grad), (weight.grad, wide[1].grad)):
        assert ours is not None
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def test_taps_that_see_only_padding_have_a_gradient_of_zero() -> None:
    x, weight, gradient = _inputs(1, 1, 5, torch.channels_last)
    convolve(x, weight).backward(gradient)
    assert weight.grad is not None
    assert weight.grad[:, :, 2, 2].all()
    assert weight.grad.count_nonzero() == weight.grad[:, :, 2, 2].numel()


def test_equal_inputs_give_equal_bits() -> None:
    x, weight, gradient = _inputs(2, 2, 3, torch.channels_last)

    def compute() -> list[Tensor]:
        return [convolve(x, weight), *torch.autograd.grad(convolve(x, weight), (x, weight), gradient)]

    assert all(map(torch.equal, compute(), compute()))


def test_the_gradient_of_the_images_is_not_computed_where_nobody_asks_for_it() -> None:
    x, weight, gradient = _inputs(2, 2, 3, torch.channels_last)
    convolve(x.detach(), weight).backward(gradient)
    assert x.grad is None
    assert weight.grad is not None


def test_products_are_taken_for_small_maps_with_many_channels_or_a_single_tap() -> None:
    def offered(side: int, channels: int, kernel: int, dtype: torch.dtype = torch.float32) -> bool:
        return pays(
            torch.empty(2, channels, side, side, dtype=dtype), torch.empty(128, channels, kernel, kernel).to(dtype)
        )

    assert offered(7, 128, 3)
    assert offered(4, 128, 5)
    assert offered(14, 2, 1)
    assert offered(1, 2, 5)
    assert not offered(7, 2, 3), "calls would cost more than they save"
    assert not offered(14, 128, 3)
    assert not offered(2, 128, 3, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert not offered(2, 128, 3), "the layer would compute in bf16"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", [1, 2, 4])
def test_a_layer_computes_small_maps_as_large_ones(side: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Conv2d(128, 128, 3, padding=1, bias=bias)
    x = torch.randn(4, 128, side, side).to(memory_format=torch.channels_last).requires_grad_()

    def compute() -> list[Tensor]:
        output = layer(x)
        return [output, *torch.autograd.grad(output.square().sum(), (x, *layer.parameters()))]

    found = compute()
    monkeypatch.setattr("reproduce.native.small_maps.LARGEST_REACH", 0)
    for ours, theirs in zip(found, compute(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_an_evaluated_layer_computes_what_torchs_does_to_the_bit() -> None:
    layer = Conv2d(128, 128, 3, padding=1).eval()
    x = torch.randn(4, 128, 2, 2).to(memory_format=torch.channels_last)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))
