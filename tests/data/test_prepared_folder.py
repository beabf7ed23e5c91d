"""The folder that is prepared: what an interruption or a killed job leaves in it, and what is never overwritten."""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
import signal
from pathlib import Path

import pytest

from reproduce.data import (
    DataError,
    Source,
    synthetic,
    verify,
)
from reproduce.data.writing import PrepareConfig, prepare
from reproduce.files.disk import DiskFullError

SMALL = synthetic(classes=2, images=16, size=16)


def test_a_killed_worker_ends_the_job_with_an_error(tmp_path: Path) -> None:
    def kill(split: str, done: int, total: int) -> None:
        for worker in multiprocessing.active_children():
            worker.kill()

    with pytest.raises(DataError, match="worker process died"):
        prepare(synthetic(classes=2, images=2000, size=32), tmp_path, PrepareConfig(workers=2), progress=kill)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_job_keeps_the_finished_split_and_never_looks_finished(tmp_path: Path) -> None:
    source = synthetic(classes=2, images=40, size=16)

    def interrupt(split: str, done: int, total: int) -> None:
        if split == "val" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path, PrepareConfig(workers=1), progress=interrupt)
    assert not (tmp_path / "manifest.json").exists()
    assert not (tmp_path / "val.beton").exists()
    seen = []
    manifest = prepare(
        source, tmp_path, PrepareConfig(workers=1), progress=lambda split, done, total: seen.append((split, done))
    )
    assert seen == [("val", 0), ("val", 20 // 2)]
    assert manifest == verify(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["manifest.json", "train.beton", "val.beton"]


def test_preparing_again_is_a_no_op_and_another_set_is_refused_unless_forced(tmp_path: Path) -> None:
    first = prepare(synthetic(classes=2, images=16, size=16), tmp_path, PrepareConfig(workers=1))
    before = (tmp_path / "train.beton").stat().st_mtime_ns
    assert prepare(synthetic(classes=2, images=16, size=16), tmp_path, PrepareConfig(workers=1)) == first
    assert (tmp_path / "train.beton").stat().st_mtime_ns == before
    other = synthetic(classes=2, images=16, size=16, seed=5)
    with pytest.raises(DataError, match="already holds another data set"):
        prepare(other, tmp_path, PrepareConfig(workers=1))
    assert prepare(other, tmp_path, PrepareConfig(workers=1, force=True)).hash != first.hash


def test_too_little_disk_space_is_told_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match="too little disk space"):
        prepare(synthetic(classes=2, images=16, size=16), tmp_path, PrepareConfig(workers=1))
    assert list(tmp_path.iterdir()) == []


def test_a_replacement_that_cannot_begin_leaves_the_old_data_set_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = prepare(synthetic(classes=2, images=16, size=16), tmp_path, PrepareConfig(workers=1))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match="too little disk space"):
        prepare(synthetic(classes=2, images=32, size=16), tmp_path, PrepareConfig(workers=1, force=True))
    assert verify(tmp_path) == old


def test_a_second_job_in_the_same_folder_is_refused_and_a_killed_ones_lock_is_not(tmp_path: Path) -> None:
    def second(split: str, done: int, total: int) -> None:
        with pytest.raises(DataError, match="another job is preparing data into this folder"):
            prepare(SMALL, tmp_path, PrepareConfig(workers=1))

    prepare(SMALL, tmp_path, PrepareConfig(workers=1), progress=second)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / ".prepare.lock").touch()
    prepare(SMALL, tmp_path, PrepareConfig(workers=1, force=True))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["manifest.json", "train.beton", "val.beton"]


def test_what_a_killed_job_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    for name in (".scratch-ab_cd123", "scratch-ab_cd123", "scratch-of-mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "source.tar").touch()
    for name in ("train.beton.partial", ".manifest.json.42", ".manifest.json.partial.42", "notes.partial"):
        (tmp_path / name).touch()
    prepare(SMALL, tmp_path, PrepareConfig(workers=1))
    kept = ["manifest.json", "notes.partial", "scratch-of-mine", "train.beton", "val.beton"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == kept


def test_a_file_that_no_manifest_describes_is_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "val.beton").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"val\.beton: exists, and no manifest says what it holds; .*--force"):
        prepare(SMALL, tmp_path, PrepareConfig(workers=1))
    assert (tmp_path / "val.beton").read_bytes() == b"mine"
    prepare(SMALL, tmp_path, PrepareConfig(workers=1, force=True))
    verify(tmp_path)


def interrupted(out: Path, *, force: bool = False, during: str = "val") -> str:
    def interrupt(split: str, done: int, total: int) -> None:
        if split == during and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        prepare(SMALL, out, PrepareConfig(workers=1, force=force), progress=interrupt)
    return str(raised.value)


def test_an_interruption_says_what_is_kept(tmp_path: Path) -> None:
    anew = "interrupted before a file was finished; the same command starts anew"
    assert interrupted(tmp_path, during="train") == anew
    assert list(tmp_path.iterdir()) == []
    assert interrupted(tmp_path) == "interrupted; train.beton is kept: the same command goes on"
    assert interrupted(tmp_path) == "interrupted; train.beton is kept: the same command goes on"
    assert "the same command without --force goes on" in interrupted(tmp_path, force=True)


def test_the_finished_file_of_another_interrupted_job_is_not_overwritten_unasked(tmp_path: Path) -> None:
    interrupted(tmp_path)
    other = synthetic(classes=2, images=16, size=16, seed=3)
    with pytest.raises(DataError, match=r"train\.beton: exists, and it is of an unfinished job with another source"):
        prepare(other, tmp_path, PrepareConfig(workers=1))
    prepare(other, tmp_path, PrepareConfig(workers=1, force=True))
    verify(tmp_path)


def test_a_job_killed_between_a_file_and_the_note_of_it_goes_on(tmp_path: Path) -> None:
    interrupted(tmp_path)
    journal = tmp_path / "manifest.json.partial"
    content = json.loads(journal.read_text(encoding="utf-8"))
    journal.write_text(json.dumps({**content, "splits": {}}), encoding="utf-8")
    prepare(SMALL, tmp_path, PrepareConfig(workers=1))
    verify(tmp_path)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file", "file: is a file; name a folder"),
        ("file/inner", "Not a directory"),
        ("loop/inner", "Too many levels of symbolic links"),
        ("x" * 300, "File name too long"),
        ("/proc/prepared", "cannot be written: No such file"),
    ],
)
def test_an_impossible_target_is_refused_before_the_source_is_read(place: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    opened = []
    source = Source("folder", "images", lambda *_: opened.append(1))  # type: ignore[func-returns-value, arg-type]
    with pytest.raises(DataError, match=said):
        prepare(source, tmp_path / place, PrepareConfig(workers=1))
    assert opened == []


def test_a_write_that_fails_ends_the_job_in_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(DiskFullError, match="cannot be written: a file may have at most 20000 bytes here"):
            prepare(synthetic(classes=2, images=64, size=32), tmp_path, PrepareConfig(workers=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
