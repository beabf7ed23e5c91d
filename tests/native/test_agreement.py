"""Kernels are compared with torch's at the first use of a kind: those that agree are used, others left to torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce.execution.kernel_checks import check_kernels, layer_uses
from reproduce.native import Implementation, agreement, kernels
from reproduce.native.backend import Backend, Window
from reproduce.native.kernels import MaxPool, fan_out, norm_relu
from reproduce.spec import NetworkConfig

FLOAT32, CPU = torch.float32, torch.device("cpu")


def pool(x: Tensor, window: Window) -> Tensor:
    return F.max_pool2d(x, *window[:3], ceil_mode=window.ceil_mode)


Norm = Callable[[nn.BatchNorm2d, Tensor], Tensor]


def placing(norm: Norm) -> Callable[[nn.BatchNorm2d, Tensor, Tensor], Tensor]:
    """Let a normalisation write its result to a place, as those of backends do."""

    def placed(layer: nn.BatchNorm2d, x: Tensor, out: Tensor) -> Tensor:
        written: Tensor = Written.apply(out, norm(layer, x))
        return written

    return placed


def norm(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return F.relu(layer(x))


class Written(torch.autograd.Function):
    """Copies maps to a place, as the kernels write them there."""

    @staticmethod
    def forward(_: Any, out: Tensor, y: Tensor) -> Tensor:
        return out.copy_(y)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def total(maps: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(maps)).sum(0)


def pool_with_other_ties(x: Tensor, window: Window) -> Tensor:
    """Gives the gradient to the last of equal values: all maps are right."""
    return pool(x.flip(2, 3), window).flip(2, 3)


def failing_pool(x: Tensor, window: Window) -> Tensor:
    raise RuntimeError("ptxas failed\nwith a long log")


def norm_without_running_statistics(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return F.relu(F.batch_norm(x, None, None, layer.weight, layer.bias, training=True, eps=layer.eps))


def norm_beside_its_place(layer: nn.BatchNorm2d, x: Tensor, out: Tensor) -> Tensor:
    y = norm(layer, x)
    out.as_strided(out.shape, out.stride(), 0).copy_(y)
    return y


Use = Callable[..., None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Makes kernels of the test those for CPUs in float32, with no kind compared yet."""

    def replace(**functions: object) -> None:
        backend = Backend(
            name="double",
            dtypes=(FLOAT32,),
            largest_window=16,
            largest_map=2**62,
            evaluates=False,
            by_map=True,
            implementation=lambda: Implementation("native", "a double"),
            max_pool=pool,
            norm_relu=norm,
            norm_relu_at=placing(norm),
            sum_maps=total,
        )
        monkeypatch.setitem(kernels.BACKENDS, "cpu", dataclasses.replace(backend, **functions))  # type: ignore[arg-type]
        monkeypatch.setattr(agreement, "_found", {})

    return replace


def maps(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("error")
def test_kernels_that_agree_are_compared_once_for_each_kind(use: Use) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(x: Tensor, window: Window) -> Tensor:
        calls.append(tuple(x.shape))
        return pool(x, window)

    use(max_pool=counted)
    for images in (1, 3):
        MaxPool(3, 1, 1)(maps(images, 8, 5, 5))
    assert calls == [(2, 8, 5, 5), (1, 8, 5, 5), (3, 8, 5, 5)], "the first is the comparison"
    norm_relu(nn.BatchNorm2d(8), maps(2, 8, 5, 5))
    assert agreement.dropped() == ()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x, window: pool(x, window) * 1.001, "the kernel in double gives other maps"),
        (lambda x, window: pool(x, window)[:, :, 1:], "the kernel in double gives other maps"),
        (pool_with_other_ties, "the kernel in double gives gradients that differ by"),
        (failing_pool, "the kernel in double failed: RuntimeError: ptxas failed"),
    ],
    ids=["values", "shape", "ties", "does not compile"],
)
def test_a_pool_that_is_wrong_is_left_to_torch_and_said(use: Use, wrong: object, words: str) -> None:
    use(max_pool=wrong)
    x = maps(2, 8, 5, 7)
    with pytest.warns(UserWarning, match="torch computes max pool 3x3, stride 2, padding 0, ceil mode of 8 x 5 x 7"):
        y = MaxPool(3, 2, ceil_mode=True)(x)
    assert torch.equal(y, F.max_pool2d(x, 3, 2, ceil_mode=True))
    (phrase,) = agreement.dropped()
    assert words in phrase
    assert "\n" not in phrase
    assert "float32" in phrase


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda layer, x: F.relu(layer(x)) + 0.01, "maps"),
        (lambda layer, x: layer(x), "maps"),
        (norm_without_running_statistics, "running means"),
        (lambda layer, x: F.relu(layer(x.detach() + 0 * x)), "gradients of maps"),
    ],
    ids=["values", "without ReLU", "without running statistics", "without gradient"],
)
def test_a_normalisation_that_is_wrong_is_left_to_torch_and_said(use: Use, wrong: Norm, words: str) -> None:
    use(norm_relu=wrong, norm_relu_at=placing(wrong))
    x, layer = maps(2, 8, 5, 6), nn.BatchNorm2d(8)
    with pytest.warns(UserWarning, match="torch computes normalisation with ReLU of 8 x 5 x 6 maps in float32"):
        y = norm_relu(layer, x)
    torch.testing.assert_close(y, F.relu(nn.BatchNorm2d(8)(x)))
    assert layer.num_batches_tracked == 1
    assert f"the kernel in double gives {words} that differ by" in agreement.dropped()[0]


def test_a_normalisation_that_writes_beside_its_place_is_left_to_torch(use: Use) -> None:
    use(norm_relu_at=norm_beside_its_place)
    with pytest.warns(UserWarning, match="torch computes normalisation with ReLU of 8 x 5 x 6 maps"):
        norm_relu(nn.BatchNorm2d(8), maps(2, 8, 5, 6))
    assert "other maps where it writes to some channels of larger ones" in agreement.dropped()[0]


def test_a_sum_that_is_wrong_is_left_to_torch_and_said(use: Use) -> None:
    use(sum_maps=lambda maps: total(maps[:-1]))
    x = maps(2, 8, 5, 6).requires_grad_()
    with pytest.warns(UserWarning, match="torch computes sum of 3 gradients of 8 x 5 x 6 maps in float32"):
        handed = fan_out(x, 3)
    assert all(part is x for part in handed)
    assert "the kernel in double gives sums that differ by" in agreement.dropped()[0]


def test_no_memory_is_not_taken_for_a_kernel_that_fails(use: Use) -> None:
    def without_memory(x: Tensor, window: Window) -> Tensor:
        raise torch.OutOfMemoryError("none left")

    use(max_pool=without_memory)
    with pytest.raises(torch.OutOfMemoryError):
        MaxPool(3, 1, 1)(maps(2, 8, 5, 5))


def test_a_comparison_changes_no_random_generator_and_works_in_any_mode(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[str | int] = []
    set_mode = torch.set_deterministic_debug_mode

    def noted(mode: str | int) -> None:
        modes.append(mode)
        set_mode(mode)

    use()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    set_mode("error")
    monkeypatch.setattr(torch, "set_deterministic_debug_mode", noted)
    try:
        with torch.inference_mode():
            MaxPool(3, 1, 1)(torch.zeros(1, 8, 5, 5).contiguous(memory_format=torch.channels_last))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            norm_relu(nn.BatchNorm2d(8), torch.zeros(1, 8, 5, 5).contiguous(memory_format=torch.channels_last))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        set_mode("default")
    assert torch.equal(torch.get_rng_state(), before)
    assert modes == ["default", 2] * 2, "torch may take any algorithm, until the comparison is over"
    assert agreement.dropped() == ()


@pytest.mark.filterwarnings("ignore:torch computes")
def test_a_run_knows_before_it_starts_what_is_left_to_torch(use: Use) -> None:
    network = NetworkConfig(norm="batch", resolution=32)
    use()
    assert check_kernels(network, (32,), CPU, FLOAT32) == ()
    use(max_pool=failing_pool)
    dropped = check_kernels(network, (32, 48), CPU, FLOAT32)
    pools = {
        (str(kind.layer), kind.shape)
        for side in (32, 48)
        for kind in layer_uses(network, side)
        if isinstance(kind.layer, MaxPool)
        and int(kind.layer.kernel_size) <= min(kind.shape[1:]) + 2 * int(kind.layer.padding)  # others have no kernel
    }
    assert len(dropped) == len(pools)
    assert check_kernels(network, (32,), CPU, torch.bfloat16) == (), "there are no kernels for this type"


def test_the_kinds_of_a_network_are_those_that_its_forward_pass_uses() -> None:
    uses = layer_uses(NetworkConfig(norm="batch"), 224)
    pools = [use for use in uses if isinstance(use.layer, MaxPool)]
    assert sum(use.layers for use in pools) == 13
    assert sum(use.layers for use in uses) == 13 + 59 + 9, "with nine Inception modules"
    assert (pools[0].shape, pools[0].layer.kernel_size) == ((64, 112, 112), 3)
