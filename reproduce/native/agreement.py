"""Compares each kind of layer that a kernel computes with torch's, when it is first used in a process.

A kernel that disagrees, or that cannot be built, is left out for this kind: torch computes it instead, a warning says
so, and `dropped` lists it for the record. The comparison uses random maps of its own on the layer's device, at most two
images, and draws from generators of its own.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce.native.backend import Backend, Window, part_of

SMALL = (70, 9, 10)
"""Channels, height and width of the maps on which kernels are compared that do not depend on them."""
IMAGES = 2
NORM = "normalisation with ReLU"


class Kind(NamedTuple):
    """A kind of layer: layers of one kind are computed by the same code, but for the number of images."""

    kernels: str
    """The name of the backend."""
    layer: str
    """What is computed, with its parameters."""
    dtype: torch.dtype
    device: torch.device
    map: tuple[int, int, int]
    """Channels, height and width."""

    def __str__(self) -> str:
        sides = " x ".join(map(str, self.map))
        return f"{self.layer} of {sides} maps in {str(self.dtype).removeprefix('torch.')}"


_found: dict[Kind, str] = {}
"""Why each kind that was compared is left to torch; empty if its kernel agrees."""


def dropped() -> tuple[str, ...]:
    """List the kinds of layers that this process has left to torch so far, each in a phrase that says why."""
    return tuple(f"{kind}: {reason}" for kind, reason in _found.items() if reason)


def on_pool(backend: Backend, window: Window, x: Tensor) -> bool:
    """Whether the backend's max pool agrees with torch's for this window and maps like `x`."""
    kernel, stride, padding, ceil_mode = window
    layer = f"max pool {kernel}x{kernel}, stride {stride}, padding {padding}{', ceil mode' if ceil_mode else ''}"
    kind = _kind(backend, layer, x, least=kernel)
    return _agrees(kind, lambda maps: _compare_pool(backend, window, maps))


def on_norm(backend: Backend, norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether the backend's normalisation with ReLU agrees with torch's, in the mode of `norm`, for maps like `x`."""
    training, eps = norm.training, norm.eps
    kind = _kind(backend, NORM if training else f"{NORM} in evaluation", x)
    return _agrees(kind, lambda maps: _compare_norm(backend, maps, training, eps))


def on_sum(backend: Backend, x: Tensor, count: int) -> bool:
    """Whether the backend's sum of `count` maps like `x` agrees with torch's."""
    return _agrees(_kind(backend, f"sum of {count} gradients", x), lambda maps: _compare_sum(backend, maps, count))


def _kind(backend: Backend, layer: str, x: Tensor, least: int = 1) -> Kind:
    channels, height, width = x.shape[1:] if backend.by_map else (SMALL[0], *(max(side, least) for side in SMALL[1:]))
    return Kind(backend.name, layer, x.dtype, x.device, (channels, height, width))


def _agrees(kind: Kind, compare: Callable[[Tensor], str]) -> bool:
    reason = _found.get(kind)
    if reason is None:
        if kind.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False  # a comparison waits for the device, which a graph that is being captured cannot
        reason = _found[kind] = _reason(kind, compare)
        if reason:
            warnings.warn(f"torch computes {kind}: {reason}", stacklevel=2)
    return not reason


def _reason(kind: Kind, compare: Callable[[Tensor], str]) -> str:
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(kind.device.type, enabled=False),
        _any_algorithm(),
    ):
        drawn = torch.randn(IMAGES, *kind.map, generator=torch.Generator().manual_seed(0))
        maps = (drawn * 8 + 4).round() / 4  # with equal values in most windows, and a mean that is not zero
        try:
            return compare(maps.to(kind.device, kind.dtype).contiguous(memory_format=torch.channels_last))
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a kernel under test or its compiler raises is the reason
            first_line = next(iter(str(error).splitlines()), "")
            return f"the kernel in {kind.kernels} failed: {type(error).__name__}: {first_line}"


@contextmanager
def _any_algorithm() -> Iterator[None]:
    """Let torch use algorithms within a block that it refuses while only deterministic ones are allowed."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def _compare_pool(backend: Backend, window: Window, x: Tensor) -> str:
    """Return how the results differ: maps have to be equal, and gradients up to the rounding of a sum."""

    def theirs(x: Tensor) -> Tensor:
        return F.max_pool2d(x, window.kernel, window.stride, window.padding, ceil_mode=window.ceil_mode)

    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected = backend.max_pool(ours, window), theirs(exact)
    if y.shape != expected.shape or not torch.equal(y.double(), expected):
        return f"the kernel in {backend.name} gives other maps"
    grad = _like(y)
    y.backward(grad)  # type: ignore[no-untyped-call]
    expected.backward(grad.double())  # type: ignore[no-untyped-call]
    assert ours.grad is not None
    assert exact.grad is not None
    off = float((ours.grad.double() - exact.grad).abs().max())
    terms = max(2, window.kernel)  # rounding of a sum over the windows grows with the root of their number
    allowed = terms * torch.finfo(x.dtype).eps * float(exact.grad.abs().max())
    return "" if off <= allowed else f"the kernel in {backend.name} gives gradients that differ by {off:.2g}"


def _compare_norm(backend: Backend, x: Tensor, training: bool, eps: float) -> str:
    """Return which result is further from float64 than torch's, by more than twice and more than float32's rounding."""
    channels = x.shape[1]
    norm = nn.BatchNorm2d(channels, eps=eps, device=x.device).train(training)
    assert norm.running_mean is not None
    with torch.no_grad():
        for tensor, shift in ((norm.weight, 1.0), (norm.bias, 0.0), (norm.running_mean, 1.0)):
            tensor.copy_(shift + 0.3 * _like(tensor))
    grad, wide = _like(x), torch.cat([x, x], dim=1).contiguous(memory_format=torch.channels_last)

    def results(norm: nn.BatchNorm2d, x: Tensor, ours: bool, out: Tensor | None = None) -> dict[str, Tensor]:
        x = x.clone().requires_grad_()
        if not ours:
            y = F.relu(norm(x))
        else:
            y = backend.norm_relu(norm, x) if out is None else backend.norm_relu_at(norm, x, out)  # type: ignore[misc]
        y.backward(grad.to(y.dtype))  # type: ignore[no-untyped-call]
        found = {
            "maps": y,
            "gradients of maps": x.grad,
            "gradients of weights": norm.weight.grad,
            "gradients of biases": norm.bias.grad,
            "running means": norm.running_mean,
            "running variances": norm.running_var,
        }
        return {name: value.detach().double() for name, value in found.items() if value is not None}

    exact = results(copy.deepcopy(norm).double(), x.double(), ours=False)
    theirs = results(copy.deepcopy(norm), x, ours=False)
    ours = results(copy.deepcopy(norm), x, ours=True)
    if backend.norm_relu_at is not None:
        among_others = results(norm, x, ours=True, out=part_of(wide, channels, channels))
        if not torch.equal(ours["maps"], among_others["maps"]) or not torch.equal(wide[:, :channels], x):
            return f"the kernel in {backend.name} gives other maps where it writes to some channels of larger ones"
    for name, value in ours.items():
        off, their_off = (float((found - exact[name]).abs().max()) for found in (value, theirs[name]))
        if not off <= 2 * their_off + 1e-4 * float(exact[name].abs().max()):
            return f"the kernel in {backend.name} gives {name} that differ by {off:.2g}, torch's by {their_off:.2g}"
    return ""


def _compare_sum(backend: Backend, x: Tensor, count: int) -> str:
    """Return how a sum differs that rounds only once. One of its maps is some channels of larger ones."""
    wide = torch.cat([x, -x], dim=1).contiguous(memory_format=torch.channels_last)
    maps = [wide.narrow(1, 0, x.shape[1]), *(x + number for number in range(1, count))]
    exact = torch.stack([given.double() for given in maps]).sum(0)
    off = float((backend.sum_maps(maps).double() - exact).abs().max())
    allowed = torch.finfo(x.dtype).eps * float(exact.abs().max())
    return "" if off <= allowed else f"the kernel in {backend.name} gives sums that differ by {off:.2g}"


def _like(tensor: Tensor) -> Tensor:
    """Return standard normal numbers with the shape, type, device and strides of a tensor, the same each time."""
    drawn = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    return torch.empty_like(tensor, requires_grad=False).copy_(drawn)
