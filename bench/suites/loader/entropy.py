"""Measures the part of decoding a JPEG that no decoder can leave out or compute in parallel: its entropy coding.

A file without restart markers has to be read from its first bit to the last one that is wanted. Our files have such
markers, so that a crop needs only some of the file; what we deliver may therefore exceed this measure.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from bench.suites.harness.comparison import Measure, Measurement
from bench.suites.harness.errors import MeasurementError
from bench.suites.harness.worker_process import received_requests, worker_process
from reproduce.native import DECODER
from reproduce.native.compiling import Library

ENTROPY = "entropy decoding alone"
SPEED, EFFICIENCY, BYTES = "images/s", "images per CPU-second", "MB of JPEG per CPU-second"
LIBRARY = Library(
    sources=(Path(__file__).with_name("entropy.c"),),
    role="entropy decoder",
    fallback="none",
    variable=DECODER.variable,
    hint=DECODER.hint,
    links=("-ljpeg",),
)
"""libjpeg-turbo, which our decoder uses as well."""


@contextmanager
def started_entropy_decoding(folder: Path, *, seconds: float) -> Iterator[Measure]:
    """Yield a function that measures one thread that undoes the entropy coding of whole files in memory.

    Args:
        folder: The JPEGs, as `train/<class>/*.jpg`.
        seconds: Shortest duration of a repetition, in seconds.

    Yields:
        The `Measure`, with the keys `SPEED`, `EFFICIENCY` and `BYTES`.

    Raises:
        WorkerProcessError: The process ended, because the library cannot be built or a file is damaged.
    """
    with worker_process(ENTROPY, _serve, folder, seconds) as worker:
        yield worker.request


def _serve(pipe: Connection, folder: Path, seconds: float) -> None:
    decode = LIBRARY.load().decode_coefficients
    decode.argtypes = (ctypes.c_char_p, ctypes.c_int64)
    files = {path: path.read_bytes() for path in sorted((folder / "train").rglob("*.jpg"))}
    for path, content in files.items():
        if not decode(content, len(content)):
            raise MeasurementError(f"{path}: libjpeg cannot decode it")
    for _ in received_requests(pipe):
        pipe.send(_measure_repetition(decode, list(files.values()), seconds))


def _measure_repetition(decode: ctypes._FuncPointer, files: list[bytes], seconds: float) -> Measurement:
    images, size = 0, 0
    wall_before, cpu_before = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall_before < seconds:
        for content in files:
            decode(content, len(content))
            size += len(content)
        images += len(files)
    wall, cpu = time.perf_counter() - wall_before, time.process_time() - cpu_before
    return {SPEED: images / wall, EFFICIENCY: images / cpu, BYTES: size / 1e6 / cpu}
