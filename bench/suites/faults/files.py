"""Faults of files: damage after the driver was killed, a full disk, and a clock that is set back."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.records.states import EVENTS
from bench.suites.faults.job import DATA, FaultJob
from bench.suites.faults.kind import MissedMomentError, Series, Trial
from bench.suites.faults.processes import left_after_end, signal_driver
from reproduce import schema
from reproduce.training.checkpoint import FILE_NAME as CHECKPOINT

BLOCK = 4096
DISK_BYTES = 2**34
"""More than all runs of a series need. Only what they write takes memory."""
CLOCK_SOURCE = Path(__file__).with_name("clock.c")
CLOCK_BACK_S = -3600.0


def kill_and_damage_checkpoint(trial: Trial, how: str) -> None:
    """Kill the driver, then damage the checkpoint: `flip` a bit, `zero` a block, or `truncate` the file."""
    _kill(trial)
    path = trial.run / CHECKPOINT
    if not path.exists():
        raise MissedMomentError("there is no checkpoint yet")
    damage(path, how, random.Random(trial.moment))


def kill_and_tear_events(trial: Trial) -> None:
    """Kill the driver, then leave half a line at the end of the events, as a crash of the host does."""
    _kill(trial)
    with (trial.run / EVENTS).open("ab") as file:
        file.write(b'{"kind": "epoch", "t": 17')


def kill_and_overwrite(trial: Trial, pattern: str) -> None:
    """Kill the driver, then replace files of the records by bytes that are no text, as a file system may after a crash.

    Args:
        trial: The trial.
        pattern: A pattern of paths below the records, in which KEY stands for the run's key.
    """
    _kill(trial)
    paths = [path for path in trial.job.records.glob(pattern.replace("KEY", trial.key)) if path.is_file()]
    if not paths:
        raise MissedMomentError(f"there is no {pattern} yet")
    for path in paths:
        path.write_bytes(random.Random(trial.moment).randbytes(64))


def kill_and_damage_data(trial: Trial) -> None:
    """Kill the driver, then flip a bit in the file of the training images."""
    _kill(trial)
    damage(_training_file(trial.job), "flip", random.Random(trial.moment))


def refuse_damaged_data(trial: Trial) -> None:
    """Check that `deeper run` refuses the damaged data, then put the file back in place.

    Raises:
        AssertionError: The command did not end with exit code 2.
    """
    code = trial.job.start_run(trial.series.options, trial.series.environment).wait(timeout=120)
    shutil.copy2(_kept(trial.job), _training_file(trial.job))
    if code != 2:
        raise AssertionError(f"deeper run on damaged data ended with exit code {code} in place of 2")


@contextlib.contextmanager
def own_data(series: Series) -> Iterator[None]:
    """Give the series a copy of the data, and keep a second copy of the training images."""
    copy = series.job.folder / "data"
    shutil.copytree(series.job.data, copy)
    series.job = replace(series.job, data=copy)
    shutil.copy2(_training_file(series.job), _kept(series.job))
    yield


def damage(path: Path, how: str, choice: random.Random) -> None:
    """Damage a file in place.

    Args:
        path: The file.
        how: `flip` flips a random bit, `zero` overwrites a random block of 4 KiB, `truncate` cuts the file at a random
            length.
        choice: The source of random numbers.
    """
    size = path.stat().st_size
    offset = choice.randrange(size)
    with path.open("r+b") as file:
        if how == "truncate":
            file.truncate(offset)
        elif how == "zero":
            file.seek(offset // BLOCK * BLOCK)
            file.write(bytes(min(BLOCK, size - offset // BLOCK * BLOCK)))
        else:
            file.seek(offset)
            (value,) = file.read(1)
            file.seek(offset)
            file.write(bytes([value ^ 1 << choice.randrange(8)]))


@contextlib.contextmanager
def small_disk(series: Series) -> Iterator[None]:
    """Keep the records on a file system of their own, whose size can be changed."""
    series.job.records.mkdir()
    options = f"size={DISK_BYTES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "deeper-faults", str(series.job.records)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(series.job.records)], check=True)


def fill_disk(trial: Trial) -> None:
    """Leave the file system of the records no block that is free."""
    while True:
        usage = shutil.disk_usage(trial.job.records)
        if _resize_disk(trial, usage.used) or usage.free == 0:
            return  # it is refused where the run wrote something in between


def free_disk(trial: Trial) -> None:
    """Make room again."""
    _resize_disk(trial, DISK_BYTES)


def _resize_disk(trial: Trial, size: int) -> bool:
    options = f"remount,size={size}"
    return subprocess.run(["mount", "-o", options, str(trial.job.records)], check=False).returncode == 0


def no_mounts() -> str | None:
    """Return why this process cannot mount a file system, or None if it can."""
    return None if os.geteuid() == 0 else "mounting a small file system takes root"


@contextlib.contextmanager
def adjustable_clock(series: Series) -> Iterator[None]:
    """Let all processes of the series read the time of day through `clock.c`, which follows a file."""
    library = series.job.folder / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(CLOCK_SOURCE)], check=True)
    _clock(series.job).write_bytes(struct.pack("d", 0.0))
    series.environment |= {"LD_PRELOAD": str(library), "DEEPER_CLOCK": str(_clock(series.job))}
    yield


def set_clock_back(trial: Trial) -> None:
    """Set the clock of all processes of the series back by another hour."""
    with _clock(trial.job).open("r+b") as file:  # in place: the processes have it mapped
        (offset,) = struct.unpack("d", file.read(8))
        file.seek(0)
        file.write(struct.pack("d", offset + CLOCK_BACK_S))


def no_compiler() -> str | None:
    """Return why the clock cannot be set back, or None if it can."""
    return None if shutil.which("cc") else "there is no C compiler (cc)"


def _kill(trial: Trial) -> None:
    assert trial.series.driver is not None
    started = trial.series.processes()
    signal_driver(signal.SIGKILL, trial)
    trial.series.driver.wait()
    left_after_end(started)  # ranks finish their step, and may write what is to be damaged
    if trial.status == schema.FINISHED:  # nothing resumes from the checkpoint of a finished run
        raise MissedMomentError("the run had finished before")


def _clock(job: FaultJob) -> Path:
    return job.folder / "clock"


def _training_file(job: FaultJob) -> Path:
    return job.data / DATA / "train.beton"


def _kept(job: FaultJob) -> Path:
    return job.folder / "kept.beton"
