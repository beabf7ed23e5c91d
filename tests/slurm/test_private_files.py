"""Files and folders that other users can neither read nor replace."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from reproduce.errors import UserError
from slurm.job.private_files import make_private_folder, make_temporary_folder, write_private_file

ANOTHER_USER = 12345


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def folder_of_another_user(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("giving a folder to another user needs root")
    folder = tmp_path / "ours"
    folder.mkdir()
    os.chown(folder, ANOTHER_USER, ANOTHER_USER)
    return folder


def test_a_private_file_is_private_from_its_creation_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _: modes.extend(mode(path) for path in tmp_path.iterdir()))
    old_umask = os.umask(0)
    try:
        write_private_file(tmp_path / "token", b"secret")
    finally:
        os.umask(old_umask)
    assert set(modes) == {0o600}
    assert (tmp_path / "token").read_bytes() == b"secret"


def test_a_private_file_replaces_a_planted_link_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched", encoding="utf-8")
    (tmp_path / "token").symlink_to(tmp_path / "victim")
    write_private_file(tmp_path / "token", b"secret")
    assert not (tmp_path / "token").is_symlink()
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "untouched"
    assert {path.name for path in tmp_path.iterdir()} == {"token", "victim"}


def test_a_private_folder_is_made_and_used_again(tmp_path: Path) -> None:
    folder = make_private_folder(tmp_path / "ours", "scratch")
    assert mode(folder) == 0o700
    assert make_private_folder(tmp_path / "ours", "scratch") == folder


def test_a_planted_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "ours").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=r"scratch: .*/ours is a symbolic link, so its content is not used; remove it"):
        make_private_folder(tmp_path / "ours", "scratch")


def test_a_folder_of_another_user_is_refused(folder_of_another_user: Path) -> None:
    with pytest.raises(UserError, match=f"ours belongs to the user with id {ANOTHER_USER}"):
        make_private_folder(folder_of_another_user, "scratch")


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours").chmod(0o777)
    with pytest.raises(UserError, match="ours can be written by other users"):
        make_private_folder(tmp_path / "ours", "scratch")


def test_a_temporary_folder_is_private_and_its_name_cannot_be_guessed(tmp_path: Path) -> None:
    parents = [tmp_path / "a", tmp_path / "b"]
    for parent in parents:
        parent.mkdir()
    folders = [make_temporary_folder(parent, "job-") for parent in parents]
    assert len({folder.name for folder in folders}) == 2
    assert {mode(folder) for folder in folders} == {0o700}


def test_only_this_users_leftovers_are_removed(tmp_path: Path, folder_of_another_user: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").touch()
    (tmp_path / "job-link").symlink_to(tmp_path / "victim")
    folder_of_another_user.rename(tmp_path / "job-theirs")
    leftover = make_temporary_folder(tmp_path, "job-")
    (leftover / "log").touch()
    new = make_temporary_folder(tmp_path, "job-")
    assert not leftover.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"victim", "job-link", "job-theirs", new.name}
    assert (tmp_path / "victim" / "file").exists()
