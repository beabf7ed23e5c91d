"""Folders at paths that others could have taken first."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from bench.machine.private_folders import private_folder, temporary_folder
from reproduce.errors import UserError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_closed_to_others(tmp_path: Path) -> None:
    assert mode(private_folder(tmp_path / "folder")) == 0o700


def test_a_folder_that_is_there_is_closed_and_keeps_its_content(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    (folder / "file").touch()
    assert mode(private_folder(folder)) == 0o700
    assert (folder / "file").exists()


def test_a_planted_link_is_refused_and_its_target_untouched(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    (tmp_path / "folder").symlink_to(target)
    with pytest.raises(UserError, match=f"it is a symbolic link to {target}"):
        private_folder(tmp_path / "folder")
    assert mode(target) == 0o755


def test_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="it is a symbolic link"):
        private_folder(tmp_path / "folder")
    assert not (tmp_path / "nothing").exists()


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").touch()
    with pytest.raises(UserError, match="Not a directory"):
        private_folder(tmp_path / "folder")


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)  # a second user cannot be had without root
    with pytest.raises(UserError, match="it belongs to user"):
        private_folder(tmp_path / "folder")


def test_a_temporary_folder_is_private_short_and_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 100)))
    with temporary_folder("deeper-test-", longest=40) as folder:
        assert folder.parent == Path("/tmp")
        assert mode(folder) == 0o700
        (folder / "socket").touch()
    assert not folder.exists()


def test_a_temporary_folder_lies_in_tmpdir_if_that_is_short_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder("deeper-test-", longest=1000) as folder:
        assert folder.parent == tmp_path


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "deeper-test-abandone" / "session").mkdir(parents=True)
    with (
        temporary_folder("deeper-test-", longest=1000) as first,
        temporary_folder("deeper-test-", longest=1000) as second,
    ):
        assert set(tmp_path.iterdir()) == {first, second}
