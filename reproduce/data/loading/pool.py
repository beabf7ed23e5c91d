"""Encoding in worker processes. Imports no torch and no FFCV, since every worker loads it."""

from __future__ import annotations

import multiprocessing
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from reproduce.data.encoding import Encoded, UnreadableImageError, encode
from reproduce.data.manifest import DataError, PrepareOptions
from reproduce.data.sources import Reader, Sample

CHUNK = 64  # images a worker gets at once
LOOK_EVERY_S = 5.0  # whether the workers live, while a result is waited for


class Unreadable(NamedTuple):
    """A sample that could not be read, and why."""

    name: str
    reason: str


def encoded_chunks(
    reader: Reader, samples: Sequence[Sample], options: PrepareOptions, markers: bool, workers: int
) -> Iterator[tuple[Sequence[Sample], list[Encoded | Unreadable]]]:
    """Chunks of samples with what became of them, in order; encoded in `workers` processes (one: in this one)."""
    chunks = [samples[start : start + CHUNK] for start in range(0, len(samples), CHUNK)]
    if workers == 1 or len(chunks) == 1:
        for chunk in chunks:
            yield chunk, [encode_sample(reader, sample, options, markers) for sample in chunk]
        return
    # Spawned, since the caller may have threads (progress bars, torch), whose locks a fork would copy held.
    pool = ProcessPoolExecutor(
        min(workers, len(chunks)),
        multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(reader, options, markers),
    )
    waiting: deque[tuple[Sequence[Sample], Future[list[Encoded | Unreadable]]]] = deque()
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_encode_chunk, chunk)))
            if len(waiting) > 2 * workers:  # bounds the memory of results not yet written
                oldest, future = waiting.popleft()
                yield oldest, _result(pool, future)
        while waiting:
            oldest, future = waiting.popleft()
            yield oldest, _result(pool, future)
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died (killed, or out of memory?); try again, with fewer workers if memory is short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _result(pool: ProcessPoolExecutor, future: Future[list[Encoded | Unreadable]]) -> list[Encoded | Unreadable]:
    """What a future holds. Raises `BrokenProcessPool`, also where a worker was killed while it sent a result.

    CPython's pool reads on for the rest of such a result: it holds a writing end of the pipe itself, so that no end
    ever comes (seen in 2 of 29 runs of the test). Once every worker is gone and that end closed, it sees that it is
    broken.
    """
    workers = list(pool._processes.values())  # the pool empties it when it notices by itself
    while True:
        try:
            return future.result(timeout=LOOK_EVERY_S)
        except TimeoutError:
            if all(worker.is_alive() for worker in workers):
                continue
        for worker in workers:
            worker.kill()
            worker.join()
        pool._result_queue._writer.close()  # type: ignore[attr-defined]
        return future.result()


_context: tuple[Reader, PrepareOptions, bool]  # of a worker process, so that it is sent once and not with every chunk


def _start(reader: Reader, options: PrepareOptions, markers: bool) -> None:
    global _context
    _context = (reader, options, markers)


def _encode_chunk(chunk: Sequence[Sample]) -> list[Encoded | Unreadable]:
    reader, options, markers = _context
    return [encode_sample(reader, sample, options, markers) for sample in chunk]


def encode_sample(reader: Reader, sample: Sample, options: PrepareOptions, markers: bool) -> Encoded | Unreadable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's, on odd but harmless metadata
        try:
            return encode(reader.read(sample), sample.name, options, markers)
        except (UnreadableImageError, OSError) as error:
            return Unreadable(sample.name, str(error))
