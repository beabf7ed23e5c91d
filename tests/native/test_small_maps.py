"""Convolutions of small maps by matrix products: the same outputs and gradients as torch's, on the maps that pay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
    side = 5 if request.param == "products" else 0
    changed = {
        dtype: limits._replace(side=side, side_of_1x1=side, channels_of_output=0)
        for dtype, limits in small_maps.LIMITS.items()
    }
    monkeypatch.setattr(small_maps, "LIMITS", changed)


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
    bias = torch.linspace(-1, 1, 6).requires_grad_()
    found = convolve(x, weight, bias)
    found.backward(gradient)
    wide = [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)]
    expected = F.conv2d(*wide, padding=kernel // 2)
    expected.backward(gradient.double())
    grads = [(ours.grad, theirs.grad) for ours, theirs in zip((x, weight, bias), wide, strict=True)]
    for ours, theirs in ((found, expected), *grads):
        assert ours is not None
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("how")
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4)])
def test_autocast_computes_them_in_bf16_as_accurately_as_torch(size: tuple[int, int], kernel: int) -> None:
    x, weight, gradient = _inputs(*size, kernel, torch.channels_last)
    bias = torch.linspace(-1, 1, 6).requires_grad_()

    def errors(convolution: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[float]:
        with torch.autocast("cpu", torch.bfloat16):
            found = convolution(x, weight, bias)
        assert found.dtype is torch.bfloat16
        computed = [found.detach(), *torch.autograd.grad(found, (x, weight, bias), gradient.bfloat16())]
        return [
            float((ours.double() - theirs).abs().max() / theirs.abs().max())
            for ours, theirs in zip(computed, exact, strict=True)
        ]

    wide = [tensor.detach().bfloat16().double().requires_grad_() for tensor in (x, weight, bias)]
    expected = F.conv2d(*wide, padding=kernel // 2)
    exact = [expected.detach(), *torch.autograd.grad(expected, wide, gradient.bfloat16().double())]
    of_torch = errors(lambda *given: F.conv2d(*given, padding=kernel // 2))
    for ours, theirs in zip(errors(convolve), of_torch, strict=True):
        assert ours <= theirs + 2**-7, "more than a rounding or two"


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


def _offered(side: int, channels: int, kernel: int, dtype: torch.dtype = torch.float32) -> bool:
    weight = torch.empty(128, channels, kernel, kernel, dtype=dtype)
    return pays(torch.empty(2, channels, side, side, dtype=dtype), weight)


def test_products_are_taken_for_small_maps_with_many_channels_or_a_single_tap() -> None:
    assert _offered(7, 128, 3)
    assert _offered(4, 128, 5)
    assert _offered(14, 2, 1)
    assert _offered(1, 2, 5)
    assert not _offered(7, 2, 3), "calls would cost more than they save"
    assert not _offered(14, 128, 3)
    assert not _offered(28, 128, 1)
    assert not _offered(14, 128, 1, torch.float16)


@pytest.fixture
def cpu_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes the CPU one that computes bf16 with some instructions, as torch names them."""

    def make(instructions: str) -> None:
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {instructions: True})
        small_maps._limits.cache_clear()

    yield make
    small_maps._limits.cache_clear()


def test_in_bf16_products_are_taken_for_the_smallest_maps_and_all_1x1_kernels(cpu_with: Callable[[str], None]) -> None:
    cpu_with("amx_bf16")
    assert _offered(56, 2, 1, torch.bfloat16)
    assert _offered(4, 128, 3, torch.bfloat16)
    assert not _offered(7, 128, 3, torch.bfloat16)
    assert not _offered(4, 32, 3, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert _offered(28, 128, 1), "the layer computes in bf16"
        assert not _offered(7, 128, 3)


def test_bf16_that_a_cpu_only_emulates_is_left_to_torch(cpu_with: Callable[[str], None]) -> None:
    cpu_with("avx2")
    assert not _offered(4, 128, 1, torch.bfloat16)
    assert _offered(4, 128, 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", [1, 2, 4])
def test_a_layer_computes_small_maps_as_large_ones(side: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Conv2d(128, 128, 3, padding=1, bias=bias)
    x = torch.randn(4, 128, side, side).to(memory_format=torch.channels_last).requires_grad_()

    def compute() -> list[Tensor]:
        output = F.relu(layer(x), inplace=True)
        return [output, *torch.autograd.grad(output.square().sum(), (x, *layer.parameters()))]

    found = compute()
    monkeypatch.setattr("reproduce.models.inception.small_maps.pays", lambda x, weight: False)
    for ours, theirs in zip(found, compute(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_an_evaluated_layer_computes_what_torchs_does_to_the_bit() -> None:
    layer = Conv2d(128, 128, 3, padding=1).eval()
    x = torch.randn(4, 128, 2, 2).to(memory_format=torch.channels_last)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))
