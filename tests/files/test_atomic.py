"""A file is replaced as a whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reproduce.files.atomic import PRIVATE, replacing, write_atomically


@pytest.mark.parametrize("durable", [True, False])
def test_readers_see_the_old_content_until_the_new_is_complete(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path, durable=durable) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    with replacing(tmp_path / "secret", mode=PRIVATE) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    write_atomically(tmp_path / "secret", b"token", mode=PRIVATE)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_threads_that_replace_one_file_at_once_leave_one_of_their_contents_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 10_000 for number in range(8)]
    start = threading.Barrier(len(contents))

    def write(content: bytes) -> None:
        start.wait()
        for _ in range(20):
            with replacing(path, durable=False) as file:
                file.write(content[:5_000])
                file.write(content[5_000:])

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))
    assert path.read_bytes() in contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_secret_replaces_a_planted_link_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched", encoding="utf-8")
    (tmp_path / "token").symlink_to(tmp_path / "victim")
    write_atomically(tmp_path / "token", b"secret", mode=PRIVATE)
    assert not (tmp_path / "token").is_symlink()
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "untouched"
