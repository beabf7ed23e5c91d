"""Runs an implementation in a process of its own, which receives requests and replies to them over a pipe.

Memory, CPU time and the number of threads belong to the process, so that they can be measured and set for one
implementation at a time. It ends with the benchmark, even if that is killed.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import psutil

from bench.machine.children import end_with_parent
from bench.suites.harness.comparison import Measure
from bench.suites.harness.errors import WorkerProcessError


class WorkerProcess:
    """A spawned process that serves the requests of the benchmark; it starts when the object is constructed.

    The process calls `serve(pipe, *arguments)` and ends when `serve` returns. As a rule `serve` replies to each of
    `received_requests(pipe)`, which ends when the benchmark calls `close`. The process ignores Ctrl-C, because the
    benchmark itself handles it. The constructor does not wait until the process is ready.

    Args:
        name: Name of the implementation, which error messages mention.
        serve: A function at the top level of its module. Its first argument is the process's end of the pipe.
        *arguments: The other arguments of `serve`. They are pickled.
    """

    def __init__(self, name: str, serve: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(serve, theirs, *arguments))
        self._process.start()
        theirs.close()

    def send(self, request: Any) -> None:
        """Send a request, which is pickled, without waiting for the reply.

        Raises:
            WorkerProcessError: The process has ended.
        """
        try:
            self.pipe.send(request)
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None

    def receive(self, timeout_s: float | None = None) -> Any:
        """Wait for the next object that the process sends, and return it.

        Args:
            timeout_s: The longest wait in seconds. None waits without a limit.

        Raises:
            WorkerProcessError: The process has ended, and everything that it sent has been received.
            TimeoutError: The process sent nothing within `timeout_s` seconds.
        """
        try:
            if timeout_s is not None and not self.pipe.poll(timeout_s):
                raise TimeoutError
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._ended() from None

    def _ended(self) -> WorkerProcessError:
        self._process.join()
        return WorkerProcessError(f"{self.name}: its process ended with exit code {self._process.exitcode}")

    def request(self, request: Any) -> Any:
        """Send a request, wait for the reply without a time limit, and return it.

        Raises:
            WorkerProcessError: The process ended before it replied.
        """
        self.send(request)
        return self.receive()

    def measure(self, name: str) -> Measure:
        """Return the `Measure` of an implementation, which requests `(name, index of the repetition)` each time."""
        return lambda index: self.request((name, index))

    def close(self) -> None:
        """Close the pipe, which ends `received_requests` in the process. Does not wait for the end of the process.

        All replies should have been received before: the process fails when it replies through a closed pipe.
        """
        self.pipe.close()

    def terminate(self) -> None:
        """Send SIGTERM to the process, without waiting for its end. Processes that it has started do not receive it."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL to the process and all its descendants, without waiting for their end.

        Does nothing if the process has ended already; its descendants then remain.
        """
        if not self._process.is_alive():
            return
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._process.pid)
            for process in (*own.children(recursive=True), own):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the end of the process, for at most `timeout_s` seconds, or without a limit if it is None."""
        self._process.join(timeout_s)


def receive_all(workers: Sequence[WorkerProcess]) -> list[Any]:
    """Wait for one reply of each process, and return the replies in the order of the processes.

    Raises:
        WorkerProcessError: A process ended before it replied. It is raised at once, since the others may wait for it.
    """
    replies: dict[int, Any] = {}
    while waiting := {worker.pipe: index for index, worker in enumerate(workers) if index not in replies}:
        for pipe in wait(waiting):
            index = waiting[cast(Connection, pipe)]
            replies[index] = workers[index].receive()
    return [replies[index] for index in range(len(workers))]


@contextmanager
def worker_process(name: str, serve: Callable[..., None], *arguments: Any) -> Iterator[WorkerProcess]:
    """Run a `WorkerProcess` while the block runs, and wait for its end when the block is left.

    If the block raises, the process is terminated.

    Args:
        name: See `WorkerProcess`.
        serve: See `WorkerProcess`.
        *arguments: See `WorkerProcess`.

    Yields:
        The worker process, which has been started but may not be ready yet.
    """
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
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(*arguments)


def received_requests(pipe: Connection) -> Iterator[Any]:
    """Receive requests in a worker process, and yield them one by one until the benchmark closes the pipe.

    Args:
        pipe: The process's end of the pipe, as `serve` receives it.
    """
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        yield request
