"""A process that does the work of a benchmark and replies over a pipe.

Its memory, its CPU time and its number of threads are its own, so that they can be measured and set for one
implementation at a time.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import psutil

from bench.suites.harness.comparison import Measure
from bench.suites.harness.errors import WorkerProcessError


class WorkerProcess:
    """Runs `serve(pipe, *arguments)` in a spawned process until `close`, which ends `received_requests(pipe)` there.

    The process ignores Ctrl-C, because the benchmark itself handles it.
    """

    def __init__(self, name: str, serve: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(serve, theirs, *arguments))
        self._process.start()
        theirs.close()

    def send(self, request: Any) -> None:
        """Sends a request and does not wait for the reply."""
        self._pipe.send(request)

    def receive(self, timeout_s: float | None = None) -> Any:
        """Returns the next thing that the process sends.

        Raises:
            WorkerProcessError: The process has ended.
            TimeoutError: Nothing came within `timeout_s` seconds.
        """
        try:
            if timeout_s is not None and not self._pipe.poll(timeout_s):
                raise TimeoutError
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            raise WorkerProcessError(
                f"{self.name}: its process ended with exit code {self._process.exitcode}"
            ) from None

    def request(self, request: Any) -> Any:
        """Sends a request and returns the reply."""
        self.send(request)
        return self.receive()

    def measure(self, name: str) -> Measure:
        """Returns a function that requests `(name, index of the repetition)` and returns the measurement."""
        return lambda index: self.request((name, index))

    def close(self) -> None:
        """Lets the process end once it has replied to all requests."""
        self._pipe.close()

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends the process at once, together with every process that it has started."""
        if not self._process.is_alive():
            return
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._process.pid)
            for process in (*own.children(recursive=True), own):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def join(self, timeout_s: float | None = None) -> None:
        """Waits for the end of the process, for at most `timeout_s` seconds if given."""
        self._process.join(timeout_s)


@contextmanager
def worker_process(name: str, serve: Callable[..., None], *arguments: Any) -> Iterator[WorkerProcess]:
    """Starts a `WorkerProcess` that ends with the block, at once if the block raises."""
    worker = WorkerProcess(name, serve, *arguments)
    try:
        yield worker
    except BaseException:
        worker.terminate()
        raise
    finally:
        worker.close()
        worker.join()


def _serve(serve: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(*arguments)


def received_requests(pipe: Connection) -> Iterator[Any]:
    """In the worker process: yields the requests that arrive, until the benchmark closes the pipe."""
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        yield request
