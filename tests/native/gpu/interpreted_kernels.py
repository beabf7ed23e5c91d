"""The kernels in Triton against float64 and against torch, on a CPU by Triton's interpreter.

test_interpreted.py runs this file in a process of its own, because Triton decides when it is imported whether it
interprets. Run it alone with `TRITON_INTERPRET=1 pytest tests/native/gpu/interpreted_kernels.py`.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from torch import Tensor, nn
from torch.nn import functional as F
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from reproduce.models import GoogLeNet
from reproduce.models.inception import Inception, Widths
from reproduce.native import agreement, kernels
from reproduce.native.backend import Window, part_of
from reproduce.native.gpu import normalisation, pooling, sums, tiles
from reproduce.native.gpu.backend import TRITON
from reproduce.native.kernels import MaxPool, norm_relu
from reproduce.spec import NetworkConfig
from tests.native.sums import check_sum

STEM, REDUCING, BRANCH = Window(3, 2, 0, True), Window(2, 2, 0, True), Window(3, 1, 1, False)
SIDES = (32, 47, 64, 96, 97, 128, 160, 192, 223, 224)


@pytest.fixture(autouse=True)
def rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round to bfloat16 as GPUs do, to the nearest and to even; the interpreter of triton 3.8 cuts bits off."""
    as_released = InterpreterBuilder.cast_impl

    def cast(self: Any, source: Any, to: Any) -> Any:
        kinds = source.dtype.scalar, to.scalar
        if kinds == (tl.float32, tl.bfloat16):
            rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16()
            return TensorHandle(rounded.view(torch.int16).numpy().view(np.uint16), to.scalar)
        if kinds == (tl.bfloat16, tl.float32):
            return TensorHandle((source.data.astype(np.uint32) << 16).view(np.float32), to.scalar)
        return as_released(self, source, to)

    for name in ("create_fp_trunc", "create_fp_ext"):
        monkeypatch.setattr(InterpreterBuilder, name, cast)


@pytest.fixture
def as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this CPU pass for a GPU, whose kernels the interpreter runs."""
    monkeypatch.setenv("DEEPER_KERNELS", "native")
    monkeypatch.setitem(kernels.BACKENDS, "cpu", TRITON)
    monkeypatch.setattr(agreement, "_found", {})


@pytest.fixture
def wide_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that hold more, since the interpreter takes some 15 ms for each."""
    monkeypatch.setattr(tiles, "ELEMENTS", 2**16)
    monkeypatch.setattr(tiles, "WIDEST", 1024)
    monkeypatch.setattr(normalisation, "COMBINING", tiles.Tile(pixels=16, channels=1024))


def maps(*shape: int, dtype: torch.dtype, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale + shift
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last)


def check_pool(x: Tensor, window: Window) -> None:
    """The maps are equal, and the gradient is that of float64, rounded once from a sum in float32."""
    x.requires_grad_()
    exact = x.detach().double().requires_grad_()
    y = pooling.max_pool(x, window)
    expected = F.max_pool2d(exact, *window[:3], ceil_mode=window.ceil_mode)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y.double(), expected)
    with torch.no_grad():
        assert torch.equal(pooling.max_pool(x, window), y)
    grad = maps(*y.shape, dtype=y.dtype, seed=1)
    y.backward(grad)
    expected.backward(grad.double())
    assert x.grad is not None
    assert exact.grad is not None
    rounding = 1e-6 if x.dtype is torch.float32 else 2**-8
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=rounding, atol=1e-6)


def check_norm(x: Tensor, *, training: bool = True) -> None:
    """No result is further from float64 than torch's, beyond the rounding of float32."""
    grad = maps(*x.shape, dtype=x.dtype, seed=1)
    norm = nn.BatchNorm2d(x.shape[1], eps=1e-3).train(training)
    generator = torch.Generator().manual_seed(2)
    nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
    nn.init.normal_(norm.bias, generator=generator)
    if not training:
        norm.running_mean = x.float().mean((0, 2, 3))
        norm.running_var = x.float().var((0, 2, 3))

    def passed(norm: nn.BatchNorm2d, x: Tensor, ours: bool) -> list[Tensor]:
        x = x.clone().requires_grad_()
        y = normalisation.norm_relu(norm, x) if ours else F.relu(norm(x))
        y.backward(grad.to(y.dtype))
        found = (y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var)
        return [value.detach().double() for value in found if value is not None]

    exact = passed(copy.deepcopy(norm).double(), x.double(), ours=False)
    theirs = passed(copy.deepcopy(norm), x, ours=False)
    names = ("y", "x", "weight", "bias", "running mean", "running variance")
    for name, reference, their, our in zip(names, exact, theirs, passed(norm, x, ours=True), strict=True):
        off, their_off = (float((value - reference).abs().max()) for value in (our, their))
        assert off <= 1.1 * their_off + 2e-5 * float(reference.abs().max()), name
    assert norm.num_batches_tracked == int(training)


# --- branches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("shape", [(2, 70, 5, 7), (3, 5, 1, 1), (1, 17, 1, 8)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_sum_is_rounded_once_also_of_channels_of_larger_maps(
    shape: tuple[int, ...], count: int, dtype: torch.dtype
) -> None:
    check_sum(sums.sum_maps, shape, count, dtype)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_normalisation_writes_to_some_channels_of_larger_maps(dtype: torch.dtype, training: bool) -> None:
    x, wide = maps(2, 21, 5, 7, dtype=dtype), maps(2, 50, 5, 7, dtype=dtype, seed=1)
    before = wide.clone()
    norm = nn.BatchNorm2d(21).train(training)
    expected = normalisation.norm_relu(copy.deepcopy(norm), x)
    found = normalisation.norm_relu(norm, x.clone().requires_grad_(), part_of(wide, 13, 21))
    assert torch.equal(found, expected)
    assert torch.equal(wide[:, 13:34], expected)
    assert torch.equal(wide[:, :13], before[:, :13])
    assert torch.equal(wide[:, 34:], before[:, 34:])
    assert found.grad_fn is not None


@pytest.mark.usefixtures("as_gpu", "wide_tiles")
@pytest.mark.parametrize("reduction", ["reduced", "naive"])
def test_a_module_computes_what_its_branches_and_a_concatenation_do(reduction: Any) -> None:
    network = NetworkConfig(norm="batch", reduction=reduction)
    module = Inception(24, Widths(19, 24, 32, 8, 16, 17), network).to(memory_format=torch.channels_last)
    other = copy.deepcopy(module)
    ours, theirs = (maps(2, 24, 5, 7, dtype=torch.float32).requires_grad_() for _ in range(2))
    y, expected = module(ours), torch.cat([branch(theirs) for branch in other.children()], dim=1)
    assert y.grad_fn.name() == "_JoinBackward"
    assert torch.equal(y, expected)
    grad = maps(*y.shape, dtype=y.dtype, seed=1)
    y.backward(grad)
    expected.backward(grad)
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert agreement.dropped() == ()


# --- max pooling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((2, 64, 8, 8), STEM),  # even sides: the last window hangs over
        ((1, 70, 9, 7), STEM),  # odd sides, channels that no tile divides
        ((1, 24, 7, 7), REDUCING),
        ((2, 24, 6, 5), BRANCH),
        ((1, 3, 5, 4), Window(3, 2, 1, True)),
        ((1, 16, 7, 8), Window(5, 3, 2, False)),
        ((1, 16, 4, 4), Window(2, 3, 0, True)),  # pixels that no window covers
        ((3, 130, 2, 3), Window(1, 1, 0, False)),
    ],
    ids=str,
)
def test_pools_equal_torchs_and_gradients_those_of_float64(
    shape: tuple[int, ...], window: Window, dtype: torch.dtype
) -> None:
    check_pool(maps(*shape, dtype=dtype), window)


@pytest.mark.parametrize("window", [STEM, BRANCH], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_pools_treat_nan_infinities_and_equal_values_as_torch_does(window: Window, dtype: torch.dtype) -> None:
    x = maps(2, 20, 9, 9, dtype=dtype)
    x[0, :, 1:4, 1:4] = float("nan")  # several in a window
    x[0, :, 6:, :4] = float("-inf")  # and nothing else
    x[1, :, 1, 1] = float("inf")
    x[1, ::2, 4:] = 0.5
    x[1, 1::2, 4:6] = -0.0
    x[1, 1::2, 6:] = 0.0
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = pooling.max_pool(ours, window)
    reference = F.max_pool2d(theirs, *window[:3], ceil_mode=window.ceil_mode)
    torch.testing.assert_close(y, reference, rtol=0, atol=0, equal_nan=True)
    grad = torch.ones_like(y)  # whose sums are exact
    y.backward(grad)
    reference.backward(grad)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


def test_gradients_of_a_branch_are_read_within_those_of_the_concatenation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a pool nor a normalisation copies its part before it is read."""
    copied: list[torch.Size] = []
    contiguous = Tensor.contiguous
    monkeypatch.setattr(Tensor, "contiguous", lambda self, **how: copied.append(self.shape) or contiguous(self, **how))
    x = maps(2, 16, 5, 5, dtype=torch.float32)
    grads = maps(2, 48, 5, 5, dtype=torch.float32, seed=3)
    copied.clear()
    for layer in (
        lambda x: pooling.max_pool(x, BRANCH),
        lambda x: normalisation.norm_relu(nn.BatchNorm2d(16), x),
    ):
        found = []
        for grad in (grads[:, 16:32], grads[:, 16:32].clone(memory_format=torch.channels_last)):
            leaf = x.clone().requires_grad_()
            layer(leaf).backward(grad)
            assert leaf.grad is not None
            found.append(leaf.grad)
        assert torch.equal(*found)
    assert copied == []


# --- normalisation --------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("shape", "scale", "shift"),
    [
        ((2, 64, 8, 8), 2.0, 0.0),
        ((1, 70, 9, 7), 2.0, 30.0),  # channels that no tile divides
        ((2, 5, 1, 1), 1.0, 0.3),  # two values a channel
        ((2, 24, 7, 7), 1e-3, 100.0),  # a mean that is large beside the spread
        ((2, 16, 5, 5), 1e-4, 0.0),  # a variance far below eps
    ],
    ids=str,
)
def test_normalisation_is_no_further_from_exact_than_torchs(
    shape: tuple[int, ...], scale: float, shift: float, dtype: torch.dtype, training: bool
) -> None:
    check_norm(maps(*shape, dtype=dtype, scale=scale, shift=shift), training=training)


@pytest.mark.parametrize("programs", [1, 3, 64])
def test_statistics_do_not_depend_on_how_pixels_are_divided(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalisation, "MOST_PROGRAMS", programs)
    monkeypatch.setattr(normalisation, "COMBINING", tiles.Tile(pixels=2, channels=16))
    check_norm(maps(2, 40, 7, 6, dtype=torch.float32, shift=1000.0))


def test_what_is_not_a_number_stays_so_through_normalisation() -> None:
    x = maps(2, 8, 4, 4, dtype=torch.float32)
    x[0, 3, 1, 1] = float("nan")
    y = normalisation.norm_relu(nn.BatchNorm2d(8), x)
    assert y[:, 3].isnan().all()
    assert not y[:, [0, 1, 2, 4, 5, 6, 7]].isnan().any()


# --- the seam -------------------------------------------------------------------------------------


def small_network() -> GoogLeNet:
    torch.manual_seed(0)
    network = GoogLeNet(NetworkConfig(norm="batch", aux="none", dropout=0.0, classes=10, resolution=32))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@pytest.mark.long
@pytest.mark.usefixtures("as_gpu", "wide_tiles")
def test_a_network_computes_with_the_kernels_what_it_computes_with_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    images, labels = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last), torch.arange(4)

    def step() -> tuple[Tensor, Tensor]:
        network.zero_grad()
        logits = network(images).main
        F.cross_entropy(logits, labels).backward()
        return logits.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    monkeypatch.setattr(agreement, "on_pool", lambda *_: True)
    monkeypatch.setattr(agreement, "on_norm", lambda *_: True)
    ours = step()
    monkeypatch.setattr(kernels, "BACKENDS", {})
    theirs = step()
    assert not torch.equal(ours[1], theirs[1]), "other code computed it"
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-3, atol=1e-3)
    assert F.cosine_similarity(ours[1], theirs[1], dim=0) > 0.999


@pytest.mark.usefixtures("as_gpu")
def test_kernels_that_agree_are_used_and_those_of_other_maps_are_left_to_torch() -> None:
    x = maps(1, 8, 5, 5, dtype=torch.float32).requires_grad_()
    used = MaxPool(3, 1, 1)(x), norm_relu(nn.BatchNorm2d(8), x), norm_relu(nn.BatchNorm2d(8).eval(), x)
    assert [type(y.grad_fn).__name__ for y in used] == ["_TritonMaxPoolBackward", *["_TritonNormReLUBackward"] * 2]
    assert agreement.dropped() == ()
    for other in (x.double(), x.contiguous()[:, :, :, ::2]):
        assert not type(MaxPool(3, 1, 1)(other).grad_fn).__name__.startswith("_Triton")
    assert not type(MaxPool(6, 1, 3)(x).grad_fn).__name__.startswith("_Triton")


# --- every shape of the network -------------------------------------------------------------------


def shapes(kind: type[nn.Module]) -> set[tuple[tuple[int, ...], tuple[object, ...]]]:
    """Channels and sides of what enters the layers of a kind, at all sides and in both layouts, with their window."""
    found: set[tuple[tuple[int, ...], tuple[object, ...]]] = set()
    for pooling_rule in ("paper", "port"):
        for side in SIDES:
            config = NetworkConfig(norm="batch", resolution=side, pooling=pooling_rule)  # type: ignore[arg-type]
            with torch.device("meta"):
                network = GoogLeNet(config).train()
                for module in network.modules():
                    if type(module) is kind:
                        window = (
                            (module.kernel_size, module.stride, module.padding, module.ceil_mode)
                            if isinstance(module, MaxPool)
                            else ()
                        )
                        module.register_forward_pre_hook(
                            lambda _, inputs, window=window: found.add((tuple(inputs[0].shape[1:]), window))
                        )
                network(torch.empty(2, 3, side, side))
    return found


@pytest.mark.long
@pytest.mark.usefixtures("wide_tiles")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_every_pool_of_the_network_is_right(dtype: torch.dtype) -> None:
    for shape, window in sorted(shapes(MaxPool), key=str):
        check_pool(maps(1, *shape, dtype=dtype), Window(*window))  # type: ignore[arg-type]


@pytest.mark.long
@pytest.mark.usefixtures("wide_tiles")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_every_normalisation_of_the_network_is_right(dtype: torch.dtype) -> None:
    for (channels, height, width), _ in sorted(shapes(nn.BatchNorm2d), key=str):
        images = 2 if height * width == 1 else 1
        check_norm(maps(images, channels, height, width, dtype=dtype, scale=2, shift=1))
