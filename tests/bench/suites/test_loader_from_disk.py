"""`deeper bench loader --cold --memory-limit`: pages that are dropped, memory that is limited, bytes from the disk."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from bench import cli
from bench.machine.filesystems import filesystem
from bench.suites.harness.errors import MeasurementError, WorkerProcessError
from bench.suites.loader import memory_group as groups
from bench.suites.loader import suite as loader
from bench.suites.loader.disk import (
    EFFICIENCY,
    RATE,
    READ,
    RESIDENT,
    SPEED,
    DiskConditions,
    PlainReading,
    started_reading,
)
from bench.suites.loader.from_disk import DATA, READ_FILES, DiskWork, compare_first_epochs, compare_with_limit
from bench.suites.loader.memory_group import MemoryGroup, NoControlGroupError, memory_group
from bench.suites.loader.page_cache import drop_pages, resident_share
from bench.suites.loader.pictures import Pictures, generated, repeated, training_files
from bench.suites.loader.suite import LoaderOptions

MIB = 2**20


@pytest.fixture(autouse=True)
def _on_a_disk(tmp_path: Path) -> None:
    if filesystem(tmp_path).in_memory:
        pytest.skip("temporary files are in memory here")


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    try:
        with memory_group() as made:
            yield made
    except NoControlGroupError as error:
        pytest.skip(f"no control group can be made here: {error}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(48 * MIB))
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return generated(tmp_path_factory.mktemp("generated"), images=8, size=(96, 72))


# --- pages -----------------------------------------------------------------------------------------------------------


def test_dropped_pages_have_left_the_memory_until_the_file_is_read_again(file: Path) -> None:
    assert resident_share([file]) == 1
    drop_pages([file])
    assert resident_share([file]) <= 0.01
    file.read_bytes()
    assert resident_share([file]) == 1


def test_pages_that_this_process_has_mapped_are_dropped_and_stay_readable(file: Path) -> None:
    content = file.read_bytes()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        assert mapping[:] == content
        drop_pages([file])
        assert mapping[:] == content


def test_pages_that_another_process_has_mapped_are_an_error(file: Path) -> None:
    code = (
        "import mmap, sys; file = open(sys.argv[1], 'rb')\n"
        "mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "sum(mapping[::4096]); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(MeasurementError, match="still in memory"):
            drop_pages([file])
        other.communicate()


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_random_order", [False, True])
def test_reading_counts_what_the_disk_delivers(file: Path, in_random_order: bool) -> None:
    reading = PlainReading(images=7, in_random_order=in_random_order)
    with started_reading("reading", reading, DiskConditions(files=[file])) as measure:
        for index in (0, 1):
            measured = measure(index)
            assert measured[READ] == pytest.approx(48 * MIB / 1e6, rel=0.02)
            assert measured[RESIDENT] == 100
            assert measured[SPEED] / 7 == pytest.approx(measured[RATE] / measured[READ])


def test_a_group_keeps_only_what_it_leaves_for_files(file: Path, group: MemoryGroup) -> None:
    conditions = DiskConditions(files=[file], group=group, room=16 * MIB)
    reading = PlainReading(images=1, in_random_order=False)
    with started_reading("reading", reading, conditions) as measure:
        for index in (0, 1):
            measured = measure(index)
            assert measured[RESIDENT] < 40
            assert measured[READ] > 32


def test_a_limit_that_does_not_limit_is_an_error(file: Path, group: MemoryGroup) -> None:
    conditions = DiskConditions(files=[file], group=group, room=1024 * MIB)
    reading = PlainReading(images=1, in_random_order=False)
    with started_reading("reading", reading, conditions) as measure, pytest.raises(WorkerProcessError):
        measure(0)


def test_a_group_is_removed_with_its_last_process(group: MemoryGroup) -> None:
    with memory_group() as other:
        assert other.folder.is_dir()
    assert not other.folder.exists()
    assert group.folder.is_dir()


def test_a_group_of_version_2_without_memory_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("cpu")
    (tmp_path / "cgroup.controllers").write_text("cpu io")
    with pytest.raises(OSError, match="does not limit memory"):
        groups._make_group_in(tmp_path)
    assert not list(tmp_path.glob("deeper-*"))


# --- comparisons -----------------------------------------------------------------------------------------------------


def work(scratch: Path) -> DiskWork:
    return DiskWork(names=("deeper",), scratch=scratch, side=32, batch=4, threads=1, repetitions=1)


def test_every_first_epoch_reads_all_images_from_the_disk(pictures: Pictures, tmp_path: Path) -> None:
    comparison = compare_first_epochs(pictures, work(tmp_path), Console(quiet=True))
    assert comparison.name == "generated-32-first-epoch"
    assert list(comparison.repetitions) == ["deeper", *READ_FILES]
    for name, (measured,) in comparison.repetitions.items():
        assert set(measured) == {SPEED, EFFICIENCY, READ, RATE, RESIDENT}
        assert measured[READ] > 0.8 * comparison.once[name][DATA], name


@pytest.mark.usefixtures("group")
def test_data_larger_than_memory_are_read_again_in_every_epoch(tmp_path: Path) -> None:
    made = generated(tmp_path / "made", images=8, size=(960, 720))
    comparison = compare_with_limit(made, work(tmp_path), 16, Console(quiet=True))
    for name, (measured,) in comparison.repetitions.items():
        assert comparison.once[name][DATA] > 2 * 16 * MIB / 1e6, name
        assert measured[RESIDENT] < 50, name
        assert measured[READ] > 10, name


def test_repeated_pictures_are_files_of_their_own(pictures: Pictures, tmp_path: Path) -> None:
    made = repeated(pictures, tmp_path, times=3)
    files = training_files(made.source("folder"))
    assert made.images == len(files) == len({file.stat().st_ino for file in files}) == 24


def test_without_a_control_group_one_sentence_says_what_was_left_out(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "control_groups", lambda *_: iter(()))
    options = LoaderOptions(images=8, batch=4, memory_limit=16)
    comparisons, left_out = loader._from_disk(pictures, options, tmp_path, Console(quiet=True))
    assert comparisons == []
    assert left_out.endswith("no control group can be made here: this machine has no control groups for memory")


def test_files_that_are_in_memory_only_are_refused(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    assert cli.main(["bench", "loader", "--cold"]) == 2
    assert "cold: files in" in capsys.readouterr().err


def test_a_memory_limit_that_is_too_small_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "loader", "--memory-limit", "8"]) == 2
    assert "memory_limit: 8: use at least 16" in capsys.readouterr().err
