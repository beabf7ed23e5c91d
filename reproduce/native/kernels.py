"""Max pooling, and batch normalisation with ReLU: by kernels of ours where there are some, and by torch otherwise.

CPUs have kernels in C (`reproduce.native.c_kernels`), GPUs have kernels in Triton (`reproduce.native.gpu`), both for
bfloat16 and float32. The environment variable `DEEPER_KERNELS` selects `native` or `torch`. If it is unset, those
for CPUs are used in bfloat16 wherever they can be built, and the others are not used. Each kind of layer is compared
with torch's when it is first used, and left to torch where they disagree (`reproduce.native.agreement`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce.native import agreement
from reproduce.native.backend import Backend, Window
from reproduce.native.c_kernels import C
from reproduce.native.gpu.backend import TRITON

BACKENDS = {"cpu": C, "cuda": TRITON}
"""The kernels for each type of device that has some."""


class MaxPool(nn.MaxPool2d):
    """A replacement for `nn.MaxPool2d` that is faster in channels_last where there are kernels.

    Its output equals that of `nn.MaxPool2d`. Its gradient may differ by the rounding of sums. It uses torch's
    implementation for inputs and parameters that no kernel supports, and while torch.compile or torch.fx traces it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool maps [N, C, H, W] to [N, C, H', W'], with the output size of `nn.MaxPool2d`."""
        backend = _backend(x)
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


def norm_relu(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Compute relu(norm(x)), and in training mode also update the running statistics of `norm`.

    A kernel computes it for maps in channels_last where there is one that supports `norm`. Its result differs from
    torch's by rounding. In all other cases torch computes it.

    Args:
        norm: The normalisation. Its mode, training or evaluation, applies.
        x: Maps [N, C, H, W], which are not modified.

    Returns:
        Maps [N, C, H, W] of the type of `x`.

    Raises:
        MemoryError: There is no memory for the kernels' sums.
    """
    backend = _backend(x)
    if (
        backend is None
        or not (norm.training or backend.evaluates)
        or not _has_norm_kernel(norm, x)
        or not agreement.on_norm(backend, norm, x)
    ):
        return F.relu(norm(x), inplace=True)
    return backend.norm_relu(norm, x)


def _backend(x: Tensor) -> Backend | None:
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
