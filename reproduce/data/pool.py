"""Encoding images in worker processes. Imports no torch and no FFCV, since every worker loads it."""

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
AHEAD = 2  # chunks that a worker may finish before the first of them is taken; bounds the memory


class Unreadable(NamedTuple):
    """A sample that could not be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Encoder:
    """Reads and encodes samples of one source; picklable."""

    reader: Reader
    options: PrepareOptions
    markers: bool
    """Put restart markers into JPEGs."""

    def encode(self, sample: Sample) -> Encoded | Unreadable:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd but harmless metadata
            try:
                return encode(self.reader.read(sample), sample.name, self.options, self.markers)
            except (UnreadableImageError, OSError) as error:
                return Unreadable(sample.name, str(error))

    def encode_all(self, samples: Sequence[Sample]) -> list[Encoded | Unreadable]:
        return [self.encode(sample) for sample in samples]


def encode_chunks(
    encoder: Encoder, samples: Sequence[Sample], workers: int
) -> Iterator[tuple[Sequence[Sample], list[Encoded | Unreadable]]]:
    """Encode samples in `workers` processes, or in this process if `workers` is 1.

    Yields:
        Chunks of the samples, in order, and for each sample of a chunk its encoded image or why it is unreadable.

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

    Only the process holds the sending end of its pipe, so the pipe ends as soon as the process dies, even within a
    result. (The pools of the standard library hold the sending ends themselves and then wait for the rest.)
    """

    def __init__(self, encoder: Encoder, chunks: Sequence[Sequence[Sample]]) -> None:
        # Spawned, since the caller may have threads (progress bars, torch), whose locks a fork would copy held.
        context = multiprocessing.get_context("spawn")
        self._connection, sending = context.Pipe(duplex=False)
        with sending:
            self._process = context.Process(target=_encode_and_send, args=(sending, encoder, chunks), daemon=True)
            self._process.start()

    def receive(self) -> list[Encoded | Unreadable]:
        """The results of the next chunk. Raises `DataError` if the process died."""
        try:
            results: list[Encoded | Unreadable] = self._connection.recv()
        except (EOFError, OSError) as error:
            raise DataError(
                "a worker process died (killed, or out of memory?); try again, with fewer workers if memory is short"
            ) from error
        return results

    def stop(self) -> None:
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
