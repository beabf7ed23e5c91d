"""Max pooling, batch normalisation with ReLU, and branches: by kernels of ours where there are some, else by torch.

CPUs have kernels in C (`reproduce.native.c_kernels`), GPUs have kernels in Triton (`reproduce.native.gpu`), both for
bfloat16 and float32. The environment variable `DEEPER_KERNELS` selects `native` or `torch`. If it is unset, those
for CPUs are used in bfloat16 wherever they can be built, and the others are not used. Each kind of layer is compared
with torch's when it is first used, and left to torch where they disagree (`reproduce.native.agreement`).

`fan_out` and `Joint` hand maps to the parallel branches of a module and join their outputs. Where there are kernels,
the gradients of the branches are added up in one pass instead of by pairs, and on GPUs the last layer of a branch
writes its output to where a concatenation would copy it. On CPUs that was no faster than the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from reproduce.native import agreement
from reproduce.native.backend import MOST_MAPS, Backend, Room, Window, part_of
from reproduce.native.c_kernels import C
from reproduce.native.gpu.backend import TRITON

BACKENDS = {"cpu": C, "cuda": TRITON}
"""The kernels for each type of device that has some."""
Place = Callable[[Tensor], Tensor | None]
"""Returns some channels of larger maps in channels_last, to which a result of the shape and type of the given maps is
written; None for maps of its own."""


class MaxPool(nn.MaxPool2d):
    """A replacement for `nn.MaxPool2d` that is faster in channels_last where there are kernels.

    Its output equals that of `nn.MaxPool2d`. Its gradient may differ by the rounding of sums. It uses torch's
    implementation for inputs and parameters that no kernel supports, and while torch.compile or torch.fx traces it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool maps [N, C, H, W] to [N, C, H', W'], with the output size of `nn.MaxPool2d`."""
        backend = backend_of(x)
        if backend is not None:
            window = self._window(x, backend)
            if window is not None and agreement.on_pool(backend, window, x):
                return backend.max_pool(x, window)
        result: Tensor = super().forward(x)
        return result

    def _window(self, x: Tensor, backend: Backend) -> Window | None:
        """Return the window if kernels support it: a square one that fits `x`, no dilation, no indices."""
        kernel, stride, padding = self.kernel_size, self.stride, self.padding
        if (
            isinstance(kernel, int)
            and isinstance(stride, int)
            and isinstance(padding, int)
            and 1 <= kernel <= min(backend.largest_window, min(x.shape[2:]) + 2 * padding)
            and stride >= 1
            and 0 <= 2 * padding <= kernel
            and self.dilation == 1
            and not self.return_indices
        ):
            return Window(kernel, stride, padding, self.ceil_mode)
        return None


def nowhere(maps: Tensor) -> None:
    """The `Place` of a result that is written to maps of its own."""


def norm_relu(norm: nn.BatchNorm2d, x: Tensor, place: Place = nowhere) -> Tensor:
    """Compute relu(norm(x)), and in training mode also update the running statistics of `norm`.

    A kernel computes it for maps in channels_last where there is one that supports `norm`. Its result differs from
    torch's by rounding. In all other cases torch computes it.

    Args:
        norm: The normalisation. Its mode, training or evaluation, applies.
        x: Maps [N, C, H, W], which are not modified.
        place: Says where a kernel writes the result, given `x`. It is called only where there is a kernel that can.

    Returns:
        Maps [N, C, H, W] of the type of `x`.

    Raises:
        MemoryError: There is no memory for the kernels' sums.
    """
    backend = backend_of(x)
    if (
        backend is None
        or not (norm.training or backend.evaluates)
        or not _has_norm_kernel(norm, x)
        or not agreement.on_norm(backend, norm, x)
    ):
        return F.relu(norm(x), inplace=True)
    out = None if backend.norm_relu_at is None else place(x)
    return backend.norm_relu(norm, x) if out is None else backend.norm_relu_at(norm, x, out)  # type: ignore[misc]


def fan_out(x: Tensor, count: int) -> Sequence[Tensor]:
    """Return maps [N, C, H, W] once for each of `count` branches.

    Backwards, a kernel adds up the gradients of the branches in float32 and rounds the sum once, where there is one.
    All of them are in memory until then.
    """
    backend = backend_of(x)
    if (
        backend is None
        or not 2 <= count <= MOST_MAPS
        or not (torch.is_grad_enabled() and x.requires_grad)
        or not agreement.on_sum(backend, x, count)
    ):
        return [x] * count
    handed: tuple[Tensor, ...] = _FanOut.apply(x, count, backend.sum_maps)
    return handed


class Joint:
    """Joins the outputs of branches along their channels, in maps to which the branches may write them.

    Args:
        channels: The number of channels of each branch's output, in the order of the branches.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        self._channels = channels
        self._maps: Tensor | None = None

    def place(self, branch: int, like: Tensor) -> Tensor | None:
        """Return where a branch writes its output.

        Args:
            branch: The number of the branch, from 0.
            like: Maps of the shape and type of the output. Those of the first call decide the sides and the type.

        Returns:
            A part of the joined maps, which is no view for autograd; None if `like` does not fit there.
        """
        images, _, height, width = like.shape
        if self._maps is None:
            self._maps = torch.empty(
                *(images, sum(self._channels), height, width),
                dtype=like.dtype,
                device=like.device,
                memory_format=torch.channels_last,
            )
        part = part_of(self._maps, sum(self._channels[:branch]), self._channels[branch])
        return part if (part.shape, part.dtype, part.device) == (like.shape, like.dtype, like.device) else None

    def join(self, outputs: Sequence[Tensor]) -> Tensor:
        """Concatenate the outputs of the branches along the channels. Those at their place are not copied."""
        whole = self._maps
        if whole is None or any(maps.dtype != whole.dtype or maps.shape[2:] != whole.shape[2:] for maps in outputs):
            return torch.cat(tuple(outputs), dim=1)
        joined: Tensor = _Join.apply(Room(whole), *outputs)
        return joined


def backend_of(x: Tensor) -> Backend | None:
    """Return the kernels that support a tensor, if any: non-empty maps in channels_last, outside of tracing."""
    if type(x) is not Tensor:
        return None
    backend = BACKENDS.get(x.device.type)
    if (
        backend is not None
        and x.dim() == 4
        and 0 < x.numel() < backend.largest_map
        and backend.takes(x.dtype)
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
        and backend.implementation().native
    ):
        return backend
    return None


def _has_norm_kernel(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether kernels support this normalisation: float32 weights and running averages for each channel of x."""
    channels = x.shape[1]
    tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return (
        norm.momentum is not None
        and x.numel() > channels
        and all(
            tensor is not None
            and tensor.dtype is torch.float32
            and tensor.device == x.device
            and tensor.shape == (channels,)
            and tensor.is_contiguous()
            for tensor in tensors
        )
    )


class _FanOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, sum_maps: Callable[[Sequence[Tensor]], Tensor]) -> tuple[Tensor, ...]:
        ctx.sum_maps = sum_maps
        ctx.set_materialize_grads(False)
        return tuple(x.view_as(x) for _ in range(count))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        given = [gradient for gradient in gradients if gradient is not None]
        if len(given) > 1:
            return ctx.sum_maps(given), None, None
        return given[0] if given else None, None, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, room: Room, *outputs: Tensor) -> Tensor:
        ctx.channels = [maps.shape[1] for maps in outputs]
        for maps, part in zip(outputs, room.maps.split(ctx.channels, dim=1), strict=True):
            if maps.data_ptr() != part.data_ptr():
                part.copy_(maps)
        return room.maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *gradient.split(ctx.channels, dim=1)
