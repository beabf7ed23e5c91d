"""A process of a benchmark's own, which answers over a pipe: its memory, CPU time and threads are its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any


class Child:
    """Runs `serve(pipe, *arguments)` in a spawned process until `close`; `requests(pipe)` ends there then."""

    def __init__(self, name: str, serve: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *arguments))
        self._process.start()
        theirs.close()

    def send(self, request: Any) -> None:
        self._pipe.send(request)

    def answer(self) -> Any:
        """What it sends next. Raises RuntimeError where it ended instead; what it printed tells why."""
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"{self.name}: its process ended with exit code {self._process.exitcode}") from None

    def ask(self, request: Any) -> Any:
        self.send(request)
        return self.answer()

    def close(self) -> None:
        """Have it end once it has answered what it was asked."""
        self._pipe.close()

    def join(self) -> None:
        self._process.join()


def requests(pipe: Connection) -> Iterator[Any]:
    """In the child: what it is asked, until the benchmark closes the pipe."""
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        yield request
