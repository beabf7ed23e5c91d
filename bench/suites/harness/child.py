"""A process of a benchmark's own, which answers over a pipe: its memory, CPU time and threads are its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import psutil

from bench.suites.harness.comparison import Contestant


class Child:
    """Runs `serve(pipe, *arguments)` in a spawned process until `close`; `requests(pipe)` ends there then.

    Ctrl-C is the benchmark's to answer: the process ignores it.
    """

    def __init__(self, name: str, serve: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(serve, theirs, *arguments))
        self._process.start()
        theirs.close()

    def send(self, request: Any) -> None:
        self._pipe.send(request)

    def answer(self, timeout_s: float | None = None) -> Any:
        """What it sends next. Raises RuntimeError where it ended instead; what it printed tells why.

        Raises TimeoutError where nothing comes for so long.
        """
        try:
            if timeout_s is not None and not self._pipe.poll(timeout_s):
                raise TimeoutError
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"{self.name}: its process ended with exit code {self._process.exitcode}") from None

    def ask(self, request: Any) -> Any:
        self.send(request)
        return self.answer()

    def contestant(self, name: str) -> Contestant:
        """Asks for the figures of (name, round's number)."""
        return lambda index: self.ask((name, index))

    def close(self) -> None:
        """Have it end once it has answered what it was asked."""
        self._pipe.close()

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        """End it at once, with all that it has started."""
        if not self._process.is_alive():
            return
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._process.pid)
            for process in (*own.children(recursive=True), own):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def join(self, timeout_s: float | None = None) -> None:
        self._process.join(timeout_s)


@contextmanager
def child(name: str, serve: Callable[..., None], *arguments: Any) -> Iterator[Child]:
    """A `Child` that ends with the block; at once where that raises."""
    one = Child(name, serve, *arguments)
    try:
        yield one
    except BaseException:
        one.terminate()
        raise
    finally:
        one.close()
        one.join()


def _serve(serve: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(*arguments)


def requests(pipe: Connection) -> Iterator[Any]:
    """In the child: what it is asked, until the benchmark closes the pipe."""
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        yield request
