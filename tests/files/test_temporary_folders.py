"""Temporary folders: short enough for sockets, private, and removed, also those of killed processes."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from reproduce.errors import UserError
from reproduce.files.temporary_folders import temporary_folder


def test_a_temporary_folder_is_private_short_and_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 100)))
    with temporary_folder("deeper-test-", longest=40) as folder:
        assert folder.parent == Path("/tmp")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders to others")
def test_only_this_users_leftovers_are_removed_and_no_link_is_followed(tmp_path: Path) -> None:
    for name in ("victim", "job-theirs", "job-left"):
        (tmp_path / name).mkdir()
    os.chown(tmp_path / "job-theirs", 65534, 65534)
    (tmp_path / "victim" / "file").touch()
    (tmp_path / "job-link").symlink_to(tmp_path / "victim")
    with temporary_folder("job-", longest=1000, parents=[str(tmp_path)]) as new:
        assert {path.name for path in tmp_path.iterdir()} == {"victim", "job-link", "job-theirs", new.name}
        assert (tmp_path / "victim" / "file").exists()


def test_no_folder_that_is_short_enough_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no folder for temporary files can be written: .* at most$"):
        temporary_folder("job-", longest=20, parents=[str(tmp_path)])
