"""The Inception module (Szegedy et al. 2014, Fig. 2) and the convolution block that the whole network is built of."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce.native import small_maps
from reproduce.native.kernels import Joint, MaxPool, Place, backend_of, fan_out, norm_relu, nowhere
from reproduce.spec import NetworkConfig

BATCH_NORM_EPS = 1e-3  # that of TF-slim and torchvision, which their weights need


class Widths(NamedTuple):
    """Output channels of the convolutions of one Inception module, in the order of Szegedy et al. 2014, Table 1.

    `one`, `three` and `five` belong to the convolutions with 1x1, 3x3 and 5x5 kernels, `three_reduce` and `five_reduce`
    to the 1x1 reductions before the 3x3 and 5x5 kernels, and `pool` to the 1x1 convolution after the max pool.
    """

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int

    @property
    def convolved(self) -> int:
        """Number of output channels of the three convolutional branches together."""
        return self.one + self.three + self.five

    def single_reduce(self, in_channels: int, kernel: int) -> int:
        """Compute the channels of the 1x1 reduction in a single branch that replaces the three convolutional ones.

        The single branch consists of the reduction and one convolution to `convolved` channels. With the returned
        number of channels, at least 1, it has as many multiply-adds as the three branches of Fig. 2b together, up to
        rounding to whole channels.

        Args:
            in_channels: Input channels of the module.
            kernel: Side of the kernel of the single convolution.
        """
        mixed = (
            in_channels * (self.one + self.three_reduce + self.five_reduce)
            + 3 * 3 * self.three_reduce * self.three
            + 5 * 5 * self.five_reduce * self.five
        )
        return max(1, round(mixed / (in_channels + kernel * kernel * self.convolved)))


class Conv2d(nn.Conv2d):
    """A convolution with a padding of half its kernel, which is cropped to the taps that can meet the map.

    Where a map is smaller than the reach of the kernel, the outer taps see nothing but padding: of a 5x5 kernel on a
    1x1 map, only the middle one counts. Without them the output is the same up to rounding, and their gradient is
    exactly 0. In place of these zeros oneDNN, as of 3.12, may leave memory that nobody has written there, in bf16 and
    with many input channels (results/README.md).

    In training mode on CPUs, small maps and 1x1 kernels are left to `reproduce.native.small_maps`, whose results differ
    by rounding. In evaluation mode they are not, so that torchvision's network computes the same bits.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.training and self.stride == (1, 1) and small_maps.pays(input, weight):
            return small_maps.convolve(input, weight, bias)
        (height, width), (rows, columns) = self.kernel_size, input.shape[2:]
        top, left = max(0, height // 2 + 1 - rows), max(0, width // 2 + 1 - columns)
        if self.stride == (1, 1) and (top or left):
            weight = weight[:, :, top : height - top, left : width - left]
            return F.conv2d(input, weight, bias, padding=(height // 2 - top, width // 2 - left))
        output: Tensor = super()._conv_forward(input, weight, bias)
        return output


class Convolution(nn.Module):
    """A convolution block: a convolution, batch normalisation or a bias, and ReLU.

    [N, in_channels, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)]. The weights have He's uniform
    initialisation over the fan-in, which preserves the variance of the activations from layer to layer even without
    normalisation. Biases start at zero.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the square kernel, an odd number. The padding on each side is `kernel // 2`.
        norm: True for batch normalisation and no bias, False for a bias and no normalisation.
        stride: Stride of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, norm: bool, stride: int = 1) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS) if norm else None
        nn.init.kaiming_uniform_(self.conv.weight, nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, place: Place = nowhere) -> Tensor:
        """Compute the block. `place` returns where the output may be written, see `norm_relu`."""
        x = self.conv(x)
        if self.bn is not None:
            return norm_relu(self.bn, x, place)
        return F.relu(x, inplace=True)  # the gradient of a convolution does not need its output


class Branch(nn.Sequential):
    """Layers one after the other, the last of which may write its output to a given place."""

    def forward(self, input: Tensor, place: Place = nowhere) -> Tensor:
        """Compute the layers. `place` returns where the output may be written, see `norm_relu`."""
        *layers, last = self
        for layer in layers:
            input = layer(input)
        output: Tensor = last(input, place) if isinstance(last, Convolution) else last(input)
        return output


class Inception(nn.Module):
    """An Inception module: parallel branches whose outputs are concatenated along the channels.

    [N, in_channels, H, W] -> [N, out_channels, H, W]. The four branches are convolutions with 1x1, 3x3 and 5x5 kernels
    and a 3x3 max pool of stride 1. Three fields of `NetworkConfig` change them: `large_kernel` may replace 5x5 by 3x3,
    `reduction` decides where 1x1 convolutions reduce the channels, and `branches` may replace the three convolutional
    branches by a single one.

    Args:
        in_channels: Channels of the input.
        widths: Output channels of the convolutions. Those of convolutions that `config` leaves out are not used.
        config: Config of the network.
    """

    def __init__(self, in_channels: int, widths: Widths, config: NetworkConfig) -> None:
        super().__init__()
        norm = config.norm == "batch"
        kernels = {"1x1": 1, "3x3": 3, "5x5": 5}

        def spatial(reduce: int, out: int, kernel: int) -> Branch:
            if config.reduction != "reduced":
                return Branch(Convolution(in_channels, out, kernel, norm=norm))
            return Branch(Convolution(in_channels, reduce, 1, norm=norm), Convolution(reduce, out, kernel, norm=norm))

        if config.branches == "mixed":
            self.branch1 = Convolution(in_channels, widths.one, 1, norm=norm)
            self.branch2 = spatial(widths.three_reduce, widths.three, 3)
            self.branch3 = spatial(widths.five_reduce, widths.five, kernels[config.large_kernel])
        else:
            kernel = kernels[config.branches]
            self.single = spatial(widths.single_reduce(in_channels, kernel), widths.convolved, kernel)
        self.branch4 = Branch(MaxPool(3, stride=1, padding=1))
        if config.reduction != "naive":
            self.branch4.append(Convolution(in_channels, widths.pool, 1, norm=norm))
        pooled = in_channels if config.reduction == "naive" else widths.pool
        convolved = (widths.one, widths.three, widths.five) if config.branches == "mixed" else (widths.convolved,)
        self.branch_channels = (*convolved, pooled)
        """Number of output channels of each branch, in the order of the concatenation."""
        self.out_channels = sum(self.branch_channels)

    def forward(self, x: Tensor) -> Tensor:
        branches = list(self.children())
        if backend_of(x) is None:
            return torch.cat([branch(x) for branch in branches], dim=1)
        joint = Joint(self.branch_channels)
        handed = zip(branches, fan_out(x, len(branches)), strict=True)
        return joint.join([branch(maps, partial(joint.place, number)) for number, (branch, maps) in enumerate(handed)])
