"""A double of the module `ray`, as far as worker groups use it. Real workers are in the tests of integration."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

PENDING = object()
"""What a call is answered with that does not return."""


class Reference:
    """Stands for Ray's reference to the answer of a call."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer


class Handle:
    """Stands for Ray's handle of an actor: `handle.method.remote(...)` returns a reference at once."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"steps_so_far": 0, "stacks": "in all_reduce", **answers}
        self.calls: dict[str, tuple[Any, ...]] = {}

    def __getattr__(self, method: str) -> Any:
        def remote(*arguments: Any) -> Reference:
            self.calls[method] = arguments
            return Reference(self.answers.get(method))

        return SimpleNamespace(remote=remote)


class PlacementGroup:
    """Stands for Ray's placement group: there is room for it once it has been asked for `rounds` times."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self.removed = False

    def wait(self, timeout_s: float) -> bool:
        self._rounds -= 1
        return self._rounds < 0


class Ray:
    """Stands for the module `ray`, as far as worker groups use it."""

    def __init__(self) -> None:
        self.handles: list[Handle] = []
        """By rank, in advance of the start."""
        self.options: list[dict[str, Any]] = []
        """What each started worker was given."""
        self.killed: list[Handle] = []
        self.placed = PlacementGroup(0)
        self.on_poll: Callable[[], None] = lambda: None
        """Called when `wait` returns without an answer."""
        self._deadline = time.monotonic() + 60
        self.util = SimpleNamespace(get_node_ip_address=lambda: "192.0.2.9")

    def placement_group(self, bundles: list[dict[str, float]], strategy: str) -> PlacementGroup:
        self.bundles = bundles
        return self.placed

    def remove_placement_group(self, placed: PlacementGroup) -> None:
        placed.removed = True

    def remote(self, concurrency_groups: dict[str, int]) -> Any:
        def options(**given: Any) -> Any:
            self.options.append(given)
            return SimpleNamespace(remote=lambda rank, resources: self.handles[rank])

        return lambda worker_class: SimpleNamespace(options=options)

    def wait(
        self, references: list[Reference], *, num_returns: int = 1, timeout: float
    ) -> tuple[list[Reference], list[Reference]]:
        """At most `num_returns` that are answered, and all others."""
        assert time.monotonic() < self._deadline, "the group polls forever"
        done = [reference for reference in references if reference.answer is not PENDING][:num_returns]
        if not done and timeout:
            self.on_poll()
        return done, [reference for reference in references if reference not in done]

    def get(self, references: Reference | list[Reference]) -> Any:
        if isinstance(references, list):
            return [self.get(reference) for reference in references]
        if isinstance(references.answer, Exception):
            raise references.answer
        return references.answer

    def kill(self, handle: Handle) -> None:
        self.killed.append(handle)
