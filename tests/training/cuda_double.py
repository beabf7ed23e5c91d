"""A double of CUDA's graphs and streams on a CPU.

A capture keeps every operation of torch between its begin and its end, backward passes included, and a replay repeats
them on the same memory. As with a real graph, nothing has been computed once a capture ends: what was written to
earlier memory is put back, memory that the capture has allocated holds NaN, and no random number has been drawn.
Numbers of Python are constants of the graph, and reading a value of a tensor is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reproduce.training import step as step_module

WAITING = ("aten._local_scalar_dense.default", "aten.equal.default", "aten.nonzero.default", "aten.is_nonzero.default")
"""Operations whose result the CPU needs, which a capture does not permit."""

Operation = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any], list[Tensor]]


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Recording(TorchDispatchMode):
    """Keeps operations, and what they found in memory that is older than the recording."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.own: dict[int, Tensor] = {}
        self.found: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self.generator = torch.get_rng_state()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if str(func) in WAITING:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        inputs = _tensors((args, kwargs))
        for tensor in inputs:
            if _memory(tensor) not in self.own and _memory(tensor) not in self.found:
                storage = tensor.untyped_storage()
                self.found[_memory(tensor)] = storage, storage.clone()
        result = func(*args, **kwargs)
        given = {_memory(tensor) for tensor in inputs}
        fresh = [tensor for tensor in _tensors(result) if _memory(tensor) not in given]
        if fresh or func._schema.is_mutable:  # otherwise it is a view
            self.operations.append((func, args, kwargs, fresh))
        self.own.update((_memory(tensor), tensor) for tensor in fresh)
        return result

    def undo(self) -> None:
        for storage, before in self.found.values():
            storage.copy_(before)
        for tensor in self.own.values():
            if tensor.is_floating_point():
                tensor.detach().fill_(torch.nan)
        torch.set_rng_state(self.generator)


class GraphDouble:
    """`torch.cuda.CUDAGraph`."""

    def __init__(self, device: CudaDouble) -> None:
        self.device = device
        self.recording: Recording | None = None

    @torch.no_grad()
    def replay(self) -> None:
        assert self.recording is not None, "nothing is captured"
        self.device.calls.append("replay")
        for func, args, kwargs, fresh in self.recording.operations:
            given = {_memory(tensor) for tensor in _tensors((args, kwargs))}
            again = [tensor for tensor in _tensors(func(*args, **kwargs)) if _memory(tensor) not in given]
            for tensor, value in zip(fresh, again, strict=True):
                tensor.copy_(value)

    def reset(self) -> None:
        self.device.calls.append("reset")
        self.recording = None


class StreamDouble:
    """`torch.cuda.Stream`; everything on a CPU happens at once."""

    def __init__(self, device: CudaDouble, name: str) -> None:
        self.device, self.name = device, name

    def wait_stream(self, other: StreamDouble) -> None:
        self.device.calls.append(f"{self.name} waits for {other.name}")


class CudaDouble:
    """Stands in for what `torch.cuda` offers to capture a step, and lists the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.capturing: Recording | None = None
        self.broken = ""
        """What a capture raises at its end; empty if it succeeds."""
        self.pools: list[object] = []
        """The pool of each capture."""
        self._stream = StreamDouble(self, "main")

    def count(self, call: str) -> int:
        return self.calls.count(call)

    @contextmanager
    def graph(
        self, graph: GraphDouble, *, pool: object, stream: StreamDouble, capture_error_mode: str
    ) -> Iterator[None]:
        assert stream is self._stream, "the capture's stream is the current one"
        assert capture_error_mode == "thread_local", "a loader's thread goes on"
        self.calls.append("capture")
        self.pools.append(pool)
        self.capturing = Recording()
        try:
            with self.capturing:
                yield
        finally:
            self.capturing.undo()
            graph.recording, self.capturing = self.capturing, None
            self.calls.append("captured")
        if self.broken:
            raise RuntimeError(self.broken)

    @contextmanager
    def stream(self, stream: StreamDouble) -> Iterator[None]:
        outside, self._stream = self._stream, stream
        try:
            yield
        finally:
            self._stream = outside

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the CPU pass for a device that captures."""
        for name, double in {
            "CUDAGraph": lambda: GraphDouble(self),
            "graph": self.graph,
            "graph_pool_handle": object,
            "Stream": lambda _: StreamDouble(self, "side"),
            "stream": self.stream,
            "current_stream": lambda _: self._stream,
            "empty_cache": lambda: self.calls.append("empty cache"),
            "is_current_stream_capturing": lambda: self.capturing is not None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, double)
        monkeypatch.setattr(step_module, "captures", lambda _: True)
