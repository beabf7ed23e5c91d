"""Captures a training step in a CUDA graph, compares it with the step itself, and replays it.

What a graph reads and writes stays where it was when it was captured. Images, labels and numbers that change from step
to step, such as the learning rate, therefore have tensors of their own, and results are copied from a replay's before
the next one overwrites them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from reproduce.execution.ranks import Ranks

log = logging.getLogger(__name__)

R = TypeVar("R", bound=tuple[Any, ...])

PASSES = 3
"""Passes before a capture, in which torch loads kernels and chooses algorithms."""
PASSES_OF_DDP = 11
"""The same under DDP, which measures itself in the first ten (torch's notes on CUDA graphs)."""
TOLERANCE = 0.1
"""Largest distance of what a replay changes from what the step changes, as a share of the latter. Atomic additions
differ by far less; another dropout or a forgotten update by far more."""


def captures(device: torch.device) -> bool:
    """Whether steps on this device can be captured."""
    return device.type == "cuda"


class StepGraphs(Generic[R]):
    """The CUDA graphs of a step, one for each shape of its images, in one pool of memory.

    The graph of a shape is captured by `prepare`, in a stream of its own, which `stream` makes the current one. If that
    fails on any rank, or a graph does not compute what the step computes, all graphs are dropped, and `reason` says
    why.

    Args:
        compute: Computes a whole step from images, labels and numbers, 0-d float32 tensors on the device. It must not
            wait for the device. Its result is a named tuple.
        numbers: How many numbers it takes.
        state: Lists all tensors that a step changes, by what they are. Once a graph is captured, they must not be
            replaced by others; values are put into them in place.
        parameters: The parameters whose `grad` a step leaves behind.
        ranks: The ranks that take the step together.
    """

    def __init__(
        self,
        compute: Callable[..., R],
        *,
        numbers: int,
        state: Callable[[], Mapping[str, Sequence[Tensor]]],
        parameters: Sequence[nn.Parameter],
        ranks: Ranks,
    ) -> None:
        self.reason = ""
        """Why steps are not captured; empty if they are, or while none has been tried."""
        self._compute, self._state, self._parameters, self._ranks = compute, state, parameters, ranks
        self._numbers = [torch.zeros((), device=ranks.device) for _ in range(numbers)]
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(ranks.device)
        self._captured: dict[Any, _CapturedStep[R]] = {}

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Make the stream of the captures the current one within a block, after all work queued before."""
        outside = torch.cuda.current_stream(self._ranks.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def prepare(self, images: Tensor, labels: Tensor) -> None:
        """Warm up and capture the step for images of this shape, unless it is captured. Collective.

        State and random generators stay as they are. Gradients are reset to None.

        Args:
            images: A batch of images.
            labels: Its labels.
        """
        if _shape(images) in self._captured:
            return
        images, labels = images.clone(), labels.clone()
        passes = PASSES if self._ranks.world_size == 1 else PASSES_OF_DDP
        with self.stream():
            for _ in range(passes):
                expected = self._changes(lambda: self._compute(images, labels, *self._numbers))
        captured: _CapturedStep[R] | None = None
        reason = ""
        try:
            captured = self._capture(images, labels)
        except Exception as error:
            reason = f"capturing it failed: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        if self._succeeded(reason) and captured is not None:  # only then may all ranks replay together
            found = self._changes(captured.replay)
            reason = _difference(expected, found)
            self._succeeded(reason)
        self._clear_gradients()
        if self.reason:
            self._captured.clear()
            captured = None
            torch.cuda.empty_cache()
            log.warning("steps are launched kernel by kernel, not as a CUDA graph: %s", self.reason)
        elif captured is not None:
            self._captured[_shape(images)] = captured

    def replay(self, images: Tensor, labels: Tensor, *numbers: float) -> R | None:
        """Take a step by its graph, without waiting for the device.

        Args:
            images: A batch of images.
            labels: Its labels.
            numbers: The numbers of this step.

        Returns:
            The results, which stay as they are. None if there is no graph for images of this shape; nothing has been
            done then.
        """
        captured = self._captured.get(_shape(images))
        if captured is None:
            return None
        for tensor, number in zip(self._numbers, numbers, strict=True):
            tensor.fill_(number)
        captured.images.copy_(images, non_blocking=True)
        captured.labels.copy_(labels, non_blocking=True)
        return captured.replay()

    def _capture(self, images: Tensor, labels: Tensor) -> _CapturedStep[R]:
        graph = torch.cuda.CUDAGraph()
        self._clear_gradients()  # their memory is free for the graph, which allocates its own
        for number in self._numbers:
            number.fill_(0)  # not what the comparison takes: a graph that keeps this value is found out
        try:
            # Only what this thread does may not wait for the device; the loader's thread goes on.
            with (
                self.stream(),
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                result = self._compute(images, labels, *self._numbers)
        except BaseException:
            graph.reset()
            raise
        return _CapturedStep(graph, images, labels, result, self._parameters)

    def _changes(self, step: Callable[[], R]) -> dict[str, list[Tensor]]:
        """Take a step, and return its results and what it has added to the state, which is then put back."""
        for number in self._numbers:
            number.fill_(0.5)
        state = {name: [tensor.detach() for tensor in tensors] for name, tensors in self._state().items()}
        before = {name: [tensor.clone() for tensor in tensors] for name, tensors in state.items()}
        device = self._ranks.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            result = step()
        changes = {"results": [value.clone() for value in result if isinstance(value, Tensor)]}
        for name, tensors in state.items():
            changes[name] = [tensor - old for tensor, old in zip(tensors, before[name], strict=True)]
            for tensor, old in zip(tensors, before[name], strict=True):
                tensor.copy_(old)
        return changes

    def _succeeded(self, reason: str) -> bool:
        """Let all ranks say whether they have failed, and keep the reason. Collective."""
        if self._ranks.agree([bool(reason)])[0]:
            self.reason = reason or "it failed on another rank"
        return not self.reason

    def _clear_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


class _CapturedStep(Generic[R]):
    """A graph and the tensors that it reads and writes, which live as long as it does."""

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        images: Tensor,
        labels: Tensor,
        result: R,
        parameters: Sequence[nn.Parameter],
    ) -> None:
        self.images, self.labels = images, labels
        self._graph, self._result, self._parameters = graph, result, parameters
        self._gradients = [parameter.grad for parameter in parameters]

    def replay(self) -> R:
        """Compute the step on what `images` and `labels` hold; return copies of its results."""
        self._graph.replay()
        if self._parameters[0].grad is not self._gradients[0]:  # another graph came before
            for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
                parameter.grad = gradient
        copies = (value.clone() if isinstance(value, Tensor) else value for value in self._result)
        return type(self._result)(*copies)


def _shape(images: Tensor) -> tuple[torch.Size, tuple[int, ...], torch.dtype]:
    return images.shape, images.stride(), images.dtype


def _difference(expected: Mapping[str, Sequence[Tensor]], found: Mapping[str, Sequence[Tensor]]) -> str:
    """Say what a replay computes otherwise than the step; an empty string if they agree."""
    for name, changes in expected.items():
        size = _norm(changes)
        off = _norm([other - change for other, change in zip(found[name], changes, strict=True)])
        if not off <= TOLERANCE * size:
            return f"it computes other {name} than the step: they differ by {off:.2g} of {size:.2g}"
    return ""


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([tensor.float().norm() for tensor in tensors]).norm()) if tensors else 0.0
