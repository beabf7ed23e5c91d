"""Worker processes of preparing: their errors arrive, their state stays small, and none outlives its job."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from reproduce.data import DataError, PrepareOptions
from reproduce.data.encoding import Pixels
from reproduce.data.pool import Encoder, encode_chunks
from reproduce.data.reading.readers import IdxReader, Sample

ROOT = Path(__file__).parent.parent.parent
SAMPLES = [Sample(f"train/{number}", 0, 0, number) for number in range(130)]


class UnsendableError(Exception):
    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


@dataclass(frozen=True)
class FailingReader:
    error: str

    def read(self, sample: Sample) -> Pixels:
        if sample.position == 70:
            match self.error:
                case "user":
                    raise DataError("source: the reader's own sentence")
                case "memory":
                    raise MemoryError
                case "bug":
                    raise ZeroDivisionError("a mistake")
                case _:
                    raise UnsendableError("cannot", "be sent")
        return np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        ("user", DataError, "source: the reader's own sentence"),
        ("memory", DataError, "train/70: too little memory to decode it; try fewer workers"),
        ("bug", ZeroDivisionError, "a mistake"),
        ("unsendable", RuntimeError, "UnsendableError: cannot be sent"),
    ],
)
def test_a_workers_error_arrives_as_itself(error: str, kind: type[Exception], said: str) -> None:
    encoder = Encoder(FailingReader(error), PrepareOptions(), markers=False)
    with pytest.raises(kind) as raised:
        list(encode_chunks(encoder, SAMPLES, workers=2))
    assert said in str(raised.value)
    if error == "bug":
        assert "in read\n    raise ZeroDivisionError" in raised.value.__notes__[0]


def test_a_reader_of_idx_files_is_sent_without_the_images_that_it_holds(tmp_path: Path) -> None:
    for kind, header in (("images-idx3-ubyte", [9000, 28, 28]), ("labels-idx1-ubyte", [9000])):
        content = bytes((0, 0, 8, len(header))) + np.array(header, ">u4").tobytes() + bytes(int(np.prod(header)))
        (tmp_path / f"train-{kind}").write_bytes(content)
    reader = IdxReader(tmp_path)
    assert len(reader.labels("train", 10)) == 9000
    sent = pickle.dumps(reader)
    assert len(sent) < 1000
    assert pickle.loads(sent).read(SAMPLES[3]).shape == (28, 28)


PREPARE = """
import sys
from bench.cli import main
sys.exit(main(["data", "prepare", "synthetic:images=20000,size=200", "--output", sys.argv[1], "--workers", "2"]))
"""


@pytest.fixture
def job(tmp_path: Path):  # type: ignore[no-untyped-def]
    """`deeper data prepare` whose two workers write the training images, which would take a minute or more."""
    started = subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(tmp_path / "out")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    partial = tmp_path / "out/train.beton.partial"
    try:
        deadline = time.monotonic() + 120
        while not (partial.exists() and partial.stat().st_size > 1 << 20):
            assert started.poll() is None, started.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield started
    finally:
        started.kill()
        started.communicate()


def test_workers_of_a_killed_job_are_gone_within_seconds(job: subprocess.Popen[str]) -> None:
    children = psutil.Process(job.pid).children(recursive=True)
    assert len(children) >= 2
    job.send_signal(signal.SIGKILL)
    assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.mark.parametrize(
    ("number", "to_all"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True)],
    ids=["Ctrl-C", "SIGTERM to the job", "SIGTERM to all its processes"],
)
def test_a_stop_ends_the_job_in_one_sentence(
    number: signal.Signals, to_all: bool, job: subprocess.Popen[str], tmp_path: Path
) -> None:
    (os.killpg if to_all else os.kill)(job.pid, number)
    _, said = job.communicate(timeout=60)
    assert said == "deeper: interrupted before a file was finished; the same command starts anew\n"
    assert job.returncode == 75
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("delay", [0.0, 0.3, 0.6])
def test_a_stop_while_workers_start_is_as_quiet(delay: float, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, threading; from reproduce.data import synthetic; "
        "from reproduce.data import writing, pool; "
        "start = pool._Worker.__init__; stop = lambda: os.killpg(0, signal.SIGINT)\n"
        "def started(self, *given):\n"
        f"    threading.Timer({delay}, stop).start(); start(self, *given)\n"
        "pool._Worker.__init__ = started\n"
        "try: writing.prepare(synthetic(images=20000, size=200), __import__('pathlib').Path(sys.argv[1]))\n"
        "except KeyboardInterrupt as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        start_new_session=True,
        timeout=120,
    )
    assert "interrupted before a file was finished" in done.stdout
    assert done.stderr == ""
