"""Encoding images in worker processes. Every worker imports this module, so it imports neither torch nor FFCV."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import NamedTuple

from reproduce.data.encoding import Encoded, UnreadableImageError, encode
from reproduce.data.manifest import DataError, PrepareOptions
from reproduce.data.reading.readers import Reader, Sample

CHUNK = 64  # samples that a worker encodes before it sends the results
AHEAD = 2  # encoded chunks that a worker keeps unsent before it waits for this process; bounds the memory
STOPPING = (signal.SIGINT, signal.SIGTERM)


class Unreadable(NamedTuple):
    """A sample that could not be read, decoded or stored."""

    name: str
    """Name of the sample, see `Sample.name`."""
    reason: str
    """The error's message."""


@dataclass(frozen=True)
class Encoder:
    """Reads and encodes samples of one source. It is pickled to send it to worker processes."""

    reader: Reader
    options: PrepareOptions
    markers: bool
    """Put restart markers into JPEGs."""

    def encode(self, sample: Sample) -> Encoded | Unreadable:
        """Read and encode one sample. An unreadable image is returned as `Unreadable` and raises no exception.

        Raises:
            DataError: The image needs more memory than there is.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd but harmless metadata
            try:
                return encode(self.reader.read(sample), sample.name, self.options, self.markers)
            except (UnreadableImageError, OSError) as error:
                return Unreadable(sample.name, str(error))
            except MemoryError as error:
                raise DataError(f"{sample.name}: too little memory to decode it; try fewer workers") from error

    def encode_all(self, samples: Sequence[Sample]) -> list[Encoded | Unreadable]:
        """Apply `encode` to each sample, in order."""
        return [self.encode(sample) for sample in samples]


def encode_chunks(
    encoder: Encoder, samples: Sequence[Sample], workers: int
) -> Iterator[tuple[Sequence[Sample], list[Encoded | Unreadable]]]:
    """Encode samples in worker processes, chunk by chunk.

    This is a generator: the processes start at the first `next`, and end when the generator is exhausted or closed.

    Args:
        encoder: Reads and encodes a sample.
        samples: The samples, in the order in which their images are yielded.
        workers: Maximum number of processes. With 1, or if there are at most 64 samples, this process encodes them.

    Yields:
        A chunk of at most 64 consecutive samples, and a list with the encoded image, or `Unreadable`, of each.

    Raises:
        DataError: A worker process died, or as `Encoder.encode`. Any other error of a worker is raised as well.
    """
    chunks = [samples[start : start + CHUNK] for start in range(0, len(samples), CHUNK)]
    if workers == 1 or len(chunks) == 1:
        for chunk in chunks:
            yield chunk, encoder.encode_all(chunk)
        return
    count = min(workers, len(chunks))
    started: list[_Worker] = []
    try:
        for number in range(count):
            started.append(_Worker(encoder, chunks[number::count]))
        for number, chunk in enumerate(chunks):
            yield chunk, started[number % count].receive()
    finally:
        for worker in started:
            worker.stop()


class _Worker:
    """A process that encodes chunks and sends the results in order.

    Only that process holds the sending end of its pipe. If it dies, even while it sends a result, the pipe ends and
    `receive` raises an error. (The standard library's pools keep the sending ends open and would wait for ever.)
    """

    def __init__(self, encoder: Encoder, chunks: Sequence[Sequence[Sample]]) -> None:
        # Spawned, since the caller may have threads (progress bars, torch), whose locks a fork would copy held.
        context = multiprocessing.get_context("spawn")
        self._connection, sending = context.Pipe(duplex=False)
        with sending, _signals_held_back():
            self._process = context.Process(target=_encode_and_send, args=(sending, encoder, chunks), daemon=True)
            self._process.start()

    def receive(self) -> list[Encoded | Unreadable]:
        """Wait for the results of the next chunk. Raises the process's error, or `DataError` if the process died."""
        try:
            results: list[Encoded | Unreadable] | Exception = self._connection.recv()
        except (EOFError, OSError) as error:
            raise DataError(
                "a worker process died (killed, or out of memory?); try again, with fewer workers if memory is short"
            ) from error
        if isinstance(results, Exception):
            raise results
        return results

    def stop(self) -> None:
        """Kill the process and wait until it has ended."""
        self._connection.close()
        self._process.kill()
        self._process.join()


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Hold back the signals that a terminal or a cluster sends to all processes, in this thread and what it starts.

    A worker would otherwise print a traceback if one came while it imports its modules.
    """
    resource_tracker.ensure_running()  # else the first worker starts it, which lets the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _encode_and_send(connection: Connection, encoder: Encoder, chunks: Sequence[Sequence[Sample]]) -> None:
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)  # they reach the parent as well, which stops its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sent: deque[Future[None]] = deque()
    with contextlib.suppress(BrokenPipeError), connection, ThreadPoolExecutor(1) as sender:  # else the parent is gone
        for chunk in chunks:
            sent.append(sender.submit(connection.send, _encoded_or_error(encoder, chunk)))
            if len(sent) > AHEAD:
                sent.popleft().result()


def _encoded_or_error(encoder: Encoder, chunk: Sequence[Sample]) -> list[Encoded | Unreadable] | Exception:
    try:
        return encoder.encode_all(chunk)
    except Exception as error:  # `_Worker.receive` raises it in the parent
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an error of a library that cannot be sent
            return RuntimeError(f"in a worker process:\n{traceback.format_exc()}")
        return error


def _end_with_parent() -> None:
    """Wait until the parent has ended, and end this process at once: a killed parent could not stop its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
