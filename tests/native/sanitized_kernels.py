"""Drives the kernels over small maps, forward and backward; run by test_sanitizers.py in a process of its own."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from reproduce.native.c_kernels import TYPES, C
from reproduce.native.kernels import MaxPool, fan_out, norm_relu

POOLS = ((3, 2, 0, True), (3, 1, 1, False), (5, 3, 2, False), (1, 1, 0, False), (C.largest_window, 1, 8, False))
SHAPES = ((1, 3, 7, 5), (2, 70, 9, 14), (1, 1, 16, 16), (3, 64, 1, 1), (5, 65, 1, 129))


def main() -> None:
    for threads in (1, 3):
        torch.set_num_threads(threads)
        for dtype, training, shape, pool in itertools.product(TYPES, (True, False), SHAPES, POOLS):
            use(shape, dtype, training, *pool)
    print("done")


def use(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    training: bool,
    kernel: int,
    stride: int,
    padding: int,
    ceil_mode: bool,
) -> None:
    x = torch.randn(shape).to(dtype, memory_format=torch.channels_last)
    x[0, 0, 0, 0] = float("nan")
    x.requires_grad_()
    y = norm_relu(nn.BatchNorm2d(shape[1]).train(training), x)
    assert y.grad_fn is not None
    assert y.grad_fn.name() == "_NormReLUBackward"
    if kernel <= min(shape[2:]) + 2 * padding:
        y = MaxPool(kernel, stride, padding, ceil_mode=ceil_mode)(y)
        assert y.grad_fn is not None
        assert y.grad_fn.name() == "_MaxPoolBackward"
    y.backward(torch.randn_like(y))
    use_branches(x.detach(), training)


def use_branches(x: Tensor, training: bool) -> None:
    """Normalise in four branches, whose gradients come as some channels of larger maps and are added up."""
    channels = x.shape[1]
    handed = fan_out(x.requires_grad_(), 4)
    norms = [nn.BatchNorm2d(channels).train(training) for _ in handed]
    y = torch.cat([norm_relu(norm, maps) for norm, maps in zip(norms, handed, strict=True)], dim=1)
    y.backward(torch.randn_like(y))


if __name__ == "__main__":
    main()
