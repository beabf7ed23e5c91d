"""The CPU kernels against torch's: equal pools, normalisation as exact at least, and what they leave to torch."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce.models import GoogLeNet
from reproduce.models.inception import Convolution
from reproduce.native import KERNELS
from reproduce.native.c_kernels import TYPES
from reproduce.native.kernels import MaxPool, norm_relu
from reproduce.spec import NetworkConfig

Pool = tuple[int, int, int, bool]
each_type = pytest.mark.parametrize("dtype", TYPES, ids=TYPES.values())


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS.variable, "native")


@pytest.fixture(params=[1, 3], ids=["1 thread", "3 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def maps(
    *shape: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale + shift
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last)


def by_kernel(result: Tensor, name: str) -> bool:
    return result.grad_fn is not None and result.grad_fn.name() == f"{name}Backward"


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    "pool", [(3, 2, 0, True), (2, 2, 0, True), (3, 1, 1, False), (3, 2, 1, True), (5, 3, 2, False)]
)
@pytest.mark.parametrize("shape", [(2, 64, 16, 16), (3, 70, 9, 14), (1, 3, 7, 5), (2, 832, 3, 3)], ids=str)
@each_type
def test_pools_are_torchs_and_gradients_within_a_rounding(
    shape: tuple[int, ...], pool: Pool, dtype: torch.dtype
) -> None:
    kernel, stride, padding, ceil = pool
    if min(shape[2:]) + 2 * padding < kernel:
        pytest.skip("a map smaller than the window")
    x = maps(*shape, dtype=dtype).requires_grad_()
    y = MaxPool(kernel, stride, padding, ceil_mode=ceil)(x)
    assert by_kernel(y, "_MaxPool")
    assert torch.equal(y, F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil))
    with torch.no_grad():
        assert torch.equal(y, MaxPool(kernel, stride, padding, ceil_mode=ceil)(x))

    grad = maps(*y.shape, seed=1, dtype=dtype)
    exact = x.detach().double().requires_grad_()
    F.max_pool2d(exact, kernel, stride, padding, ceil_mode=ceil).backward(grad.double())
    y.backward(grad)
    assert exact.grad is not None
    assert x.grad is not None
    assert (x.grad - exact.grad).abs().max() <= 2 * torch.finfo(dtype).eps * exact.grad.abs().max()


@each_type
def test_pools_hand_on_nan_infinities_and_the_first_of_equals(dtype: torch.dtype) -> None:
    x = maps(2, 43, 12, 12, dtype=dtype)
    x[0, :, 3, 4] = float("nan")
    x[0, :, 8:, :4] = float("-inf")
    x[1, :, 2, 2] = float("inf")
    x[1, ::2, 6:] = 0.5  # windows full of equals
    x[1, 1::2, 6:9] = -0.0
    x[1, 1::2, 9:] = 0.0
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, reference = MaxPool(3, 2, ceil_mode=True)(ours), F.max_pool2d(theirs, 3, 2, ceil_mode=True)
    assert torch.equal(y.nan_to_num(7), reference.nan_to_num(7))
    assert torch.equal(y.isnan(), reference.isnan())
    y.sum().backward()
    reference.sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("shape", "shift"), [((4, 64, 16, 16), 0.0), ((3, 70, 9, 7), 30.0), ((2, 5, 1, 1), 0.3)])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@each_type
def test_normalisation_is_no_further_from_exact_than_torchs(
    shape: tuple[int, ...], shift: float, training: bool, dtype: torch.dtype
) -> None:
    channels = shape[1]
    x, grad = maps(*shape, scale=2, shift=shift, dtype=dtype), maps(*shape, seed=1, dtype=dtype)
    norm = nn.BatchNorm2d(channels, eps=1e-3).train(training)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    assert norm.running_mean is not None
    nn.init.normal_(norm.running_mean, shift)

    def passed(norm: nn.BatchNorm2d, x: Tensor, ours: bool) -> tuple[Tensor, list[Tensor]]:
        x = x.clone().requires_grad_()
        y = norm_relu(norm, x) if ours else F.relu(norm(x))
        assert by_kernel(y, "_NormReLU") is ours
        y.backward(grad.to(y.dtype))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gradients = [x.grad, norm.weight.grad, norm.bias.grad]
        return y, [*(g for g in gradients if g is not None), norm.running_mean, norm.running_var]

    exact = passed(copy.deepcopy(norm).double(), x.double(), ours=False)
    theirs = passed(copy.deepcopy(norm), x, ours=False)
    ours = passed(norm, x, ours=True)
    for name, *values in zip(
        ("y", "x", "weight", "bias", "running mean", "running variance"),
        (exact[0], *exact[1]),
        (theirs[0], *theirs[1]),
        (ours[0], *ours[1]),
        strict=True,
    ):
        reference, their, our = (value.detach().double() for value in values)
        off, their_off = (float((value - reference).abs().max()) for value in (our, their))
        # Of two pixels, gradients of size 1 cancel, so that their rounding is all that is left.
        assert off <= 1.1 * their_off + 1e-5 * float(reference.abs().max()) + 1e-6, name
    assert norm.num_batches_tracked == training


def test_what_is_not_a_number_stays_so_through_normalisation() -> None:
    x = maps(2, 8, 4, 4)
    x[0, 3, 1, 1] = float("nan")
    y = norm_relu(nn.BatchNorm2d(8), x)
    assert y[:, 3].isnan().all()
    assert not y[:, [0, 1, 2, 4, 5, 6, 7]].isnan().any()


def test_one_value_a_channel_is_refused_as_torch_does() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        norm_relu(nn.BatchNorm2d(8), maps(1, 8, 1, 1))


@pytest.mark.parametrize(
    "x",
    [maps(2, 8, 4, 4, dtype=torch.float64), maps(2, 8, 4, 4).contiguous(), maps(2, 8, 4, 4).to("meta")],
    ids=["float64", "NCHW", "another device"],
)
def test_other_maps_are_left_to_torch(x: Tensor) -> None:
    x.requires_grad_()
    assert not by_kernel(MaxPool(3, 1, 1)(x), "_MaxPool")
    norm = nn.BatchNorm2d(8, device=x.device, dtype=x.dtype if x.dtype is torch.float64 else None)
    assert not by_kernel(norm_relu(norm, x), "_NormReLU")


@pytest.mark.parametrize("pool", [MaxPool(17, 1, 8), MaxPool((3, 2), 1), MaxPool(3, 1, 1, dilation=2)], ids=str)
def test_pools_without_a_kernel_are_left_to_torch(pool: MaxPool) -> None:
    x = maps(2, 8, 20, 20).requires_grad_()
    y = pool(x)
    assert not by_kernel(y, "_MaxPool")
    expected = F.max_pool2d(x, pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    assert torch.equal(y, expected)


def test_the_largest_window_has_a_kernel_and_impossible_ones_are_refused_as_torch_does() -> None:
    x = maps(2, 8, 20, 20).requires_grad_()
    assert by_kernel(MaxPool(16, 1, 8)(x), "_MaxPool")
    with pytest.raises(RuntimeError, match="pad should be at most half"):
        MaxPool(3, 1, 2)(x)
    with pytest.raises(RuntimeError, match="too small"):
        MaxPool(9, 1)(maps(2, 8, 4, 4))


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(8).bfloat16(), nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(8, track_running_stats=False)],
    ids=["bfloat16", "without weights", "without running statistics"],
)
def test_normalisations_without_a_kernel_are_left_to_torch(norm: nn.BatchNorm2d) -> None:
    x = maps(2, 8, 4, 4).requires_grad_()
    y = norm_relu(norm, x)
    assert not by_kernel(y, "_NormReLU")
    assert y.shape == x.shape


def test_maps_of_another_number_of_channels_are_refused_as_torch_does() -> None:
    with pytest.raises(RuntimeError, match="running_mean should contain 4 elements not 8"):
        norm_relu(nn.BatchNorm2d(8), maps(2, 4, 4, 4))


def test_maps_of_no_images_are_left_to_torch() -> None:
    x = maps(0, 8, 4, 4).requires_grad_()
    assert not by_kernel(MaxPool(3, 1, 1)(x), "_MaxPool")
    assert not by_kernel(norm_relu(nn.BatchNorm2d(8), x), "_NormReLU")


def test_kernels_for_float32_are_taken_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KERNELS.variable)
    for dtype in TYPES:
        y = MaxPool(3, 1, 1)(maps(2, 8, 4, 4, dtype=dtype).requires_grad_())
        assert by_kernel(y, "_MaxPool") is (dtype is torch.bfloat16)


def test_torchs_are_taken_when_asked_for_and_when_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    x = maps(2, 8, 4, 4).requires_grad_()
    assert by_kernel(norm_relu(nn.BatchNorm2d(8), x), "_NormReLU")
    block = nn.Sequential(Convolution(8, 8, 3, norm=True), MaxPool(3, 1, 1)).bfloat16()
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    assert compiled(x).shape == x.shape
    monkeypatch.setenv(KERNELS.variable, "torch")
    assert not by_kernel(norm_relu(nn.BatchNorm2d(8), x), "_NormReLU")


@each_type
@pytest.mark.parametrize("steps", [0, 8], ids=["initial", "trained"])
def test_a_networks_gradients_are_as_exact_as_with_torchs(
    dtype: torch.dtype, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = GoogLeNet(NetworkConfig(norm="batch", aux="none", dropout=0.0, classes=10, resolution=64))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = torch.randn(16, 3, 64, 64).contiguous(memory_format=torch.channels_last), torch.arange(16) % 10

    def gradients(network: nn.Module, dtype: torch.dtype) -> Tensor:
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            logits = network(images.double() if dtype is torch.float64 else images).main
        F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels).backward()
        return torch.cat([p.grad.double().flatten() for p in network.parameters() if p.grad is not None])

    for _ in range(steps):
        gradients(network, dtype)
        with torch.no_grad():
            for parameter in network.parameters():
                assert parameter.grad is not None
                parameter -= 0.05 * parameter.grad
    ours = gradients(network, dtype)
    assert torch.equal(ours, gradients(network, dtype)), "a repetition gives the same bits"
    monkeypatch.setenv(KERNELS.variable, "torch")
    theirs = gradients(network, dtype)
    exact = gradients(copy.deepcopy(network).double(), torch.float64)
    assert not torch.equal(ours, theirs)
    # In float32 the last bit decides which pixels a ReLU lets through, and with them errors of a hundredth, by chance.
    bound = 1.05 * (theirs - exact).norm() if dtype is torch.bfloat16 else 0.05 * exact.norm()
    assert (ours - exact).norm() < bound
