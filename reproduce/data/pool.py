"""Encoding images in worker processes. Every worker imports this module, so it imports neither torch nor FFCV."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NamedTuple

from reproduce.data.encoding import Encoded, UnreadableImageError, encode
from reproduce.data.manifest import DataError, PrepareOptions
from reproduce.data.readers import Reader, Sample

CHUNK = 64  # samples that a worker encodes before it sends the results
AHEAD = 2  # encoded chunks that a worker keeps unsent before it waits for this process; bounds the memory


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
        """Read and encode one sample. An unreadable image is returned as `Unreadable` and raises no exception."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd but harmless metadata
            try:
                return encode(self.reader.read(sample), sample.name, self.options, self.markers)
            except (UnreadableImageError, OSError) as error:
                return Unreadable(sample.name, str(error))

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
        DataError: A worker process died.
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
        with sending:
            self._process = context.Process(target=_encode_and_send, args=(sending, encoder, chunks), daemon=True)
            self._process.start()

    def receive(self) -> list[Encoded | Unreadable]:
        """Wait for the results of the next chunk. Raises `DataError` if the process died."""
        try:
            results: list[Encoded | Unreadable] = self._connection.recv()
        except (EOFError, OSError) as error:
            raise DataError(
                "a worker process died (killed, or out of memory?); try again, with fewer workers if memory is short"
            ) from error
        return results

    def stop(self) -> None:
        """Kill the process and wait until it has ended."""
        self._connection.close()
        self._process.kill()
        self._process.join()


def _encode_and_send(connection: Connection, encoder: Encoder, chunks: Sequence[Sequence[Sample]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which stops its workers
    sent: deque[Future[None]] = deque()
    with contextlib.suppress(BrokenPipeError), connection, ThreadPoolExecutor(1) as sender:  # else the parent is gone
        for chunk in chunks:
            sent.append(sender.submit(connection.send, encoder.encode_all(chunk)))
            if len(sent) > AHEAD:
                sent.popleft().result()
