"""Drives the kernels over small maps, forward and backward; run by test_sanitizers.py in a process of its own."""

from __future__ import annotations

import torch
from torch import nn

from reproduce.native.c_kernels import C
from reproduce.native.kernels import MaxPool, norm_relu

POOLS = ((3, 2, 0, True), (3, 1, 1, False), (5, 3, 2, False), (1, 1, 0, False), (C.largest_window, 1, 8, False))
SHAPES = ((1, 3, 7, 5), (2, 70, 9, 14), (1, 1, 16, 16), (3, 64, 1, 1), (5, 65, 1, 129))


def main() -> None:
    for threads in (1, 3):
        torch.set_num_threads(threads)
        for kernel, stride, padding, ceil_mode in POOLS:
            for shape in SHAPES:
                x = torch.randn(shape).to(torch.bfloat16, memory_format=torch.channels_last)
                x[0, 0, 0, 0] = float("nan")
                x.requires_grad_()
                y = norm_relu(nn.BatchNorm2d(shape[1]), x)
                assert y.grad_fn is not None
                assert y.grad_fn.name() == "_NormReLUBackward"
                if kernel <= min(shape[2:]) + 2 * padding:
                    y = MaxPool(kernel, stride, padding, ceil_mode=ceil_mode)(y)
                    assert y.grad_fn is not None
                    assert y.grad_fn.name() == "_MaxPoolBackward"
                y.backward(torch.randn_like(y))
    print("done")


if __name__ == "__main__":
    main()
