"""Folders at paths that others could have taken first, and those of a user without a home or a name."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.errors import UserError
from reproduce.files import private_folders
from reproduce.files.private_folders import UnsafeFolderError, local_folder, private_folder, provide_home

ROOT = Path(__file__).parents[2]
ANOTHER_USER = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="being another user needs root")


needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_new_folder_is_closed_to_others_and_used_again(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "ours")
    assert mode(folder) == 0o700
    assert private_folder(tmp_path / "ours") == folder


@pytest.mark.parametrize("before", [0o755, 0o775, 0o777])
def test_a_folder_that_is_there_is_closed_and_keeps_its_content(tmp_path: Path, before: int) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    folder.chmod(before)
    (folder / "file").touch()
    assert mode(private_folder(folder)) == 0o700
    assert (folder / "file").exists()


@needs_root
def test_a_folder_in_which_another_user_has_put_something_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "planted").touch()
    os.chown(folder / "planted", ANOTHER_USER, ANOTHER_USER)
    with pytest.raises(UnsafeFolderError, match=f"planted in it belongs to the user with id {ANOTHER_USER}"):
        private_folder(folder)


@pytest.mark.parametrize("there", [True, False])
def test_a_planted_link_is_refused_and_its_target_untouched(tmp_path: Path, there: bool) -> None:
    target = tmp_path / "target"
    if there:
        target.mkdir(mode=0o755)
    (tmp_path / "ours").symlink_to(target)
    with pytest.raises(UnsafeFolderError, match=f"^scratch: .*/ours is a symbolic link to {target}, so .*; remove it"):
        private_folder(tmp_path / "ours", "scratch")
    assert target.exists() == there
    assert not there or mode(target) == 0o755


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ours").touch()
    with pytest.raises(UnsafeFolderError, match="ours is not a folder"):
        private_folder(tmp_path / "ours")


@needs_root
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    os.chown(tmp_path / "ours", ANOTHER_USER, ANOTHER_USER)
    with pytest.raises(UnsafeFolderError, match=f"ours belongs to the user with id {ANOTHER_USER}"):
        private_folder(tmp_path / "ours")


def test_a_folder_that_cannot_be_created_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^scratch: .*/a/b cannot be created: No such file"):
        private_folder(tmp_path / "a" / "b", "scratch")


def test_the_folder_on_the_local_disk_has_the_users_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_folders, "LOCAL_DISK", tmp_path)
    monkeypatch.setenv("LOGNAME", "me")
    assert local_folder() == tmp_path / "deeper-me"
    assert mode(tmp_path / "deeper-me") == 0o700


AS_NOBODY = """
import sys
from reproduce.files import private_folders
private_folders.LOCAL_DISK = private_folders.Path(sys.argv[1])
from bench import cli
sys.exit(cli.main(sys.argv[2:]))
"""


def as_nobody(folder: Path, code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code as in a container that is started with a number for its user. Its first argument is `folder`.

    The capability lets it read this interpreter.
    """
    folder.chmod(0o777)
    become = ["setpriv", "--reuid", str(ANOTHER_USER), "--clear-groups"]
    become += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    known = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*become, sys.executable, "-c", code, str(folder), *arguments],
        env={**known, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def test_a_home_that_can_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in (tmp_path, tmp_path / "is created later"):
        monkeypatch.setenv("HOME", str(home))
        provide_home()
        assert os.environ["HOME"] == str(home)
        assert "MPLCONFIGDIR" not in os.environ


WHERE_HOME_IS = """
import os, sys
from reproduce.files import private_folders
private_folders.LOCAL_DISK = private_folders.Path(sys.argv[1])
private_folders.provide_home()
print(*map(os.environ.get, ("HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")))
"""


@needs_root
@needs_setpriv
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "{local} None None"),
        ("/usr", "{local} /usr/.config {local}/matplotlib"),
        ("/nonexistent", "{local} /nonexistent/.config {local}/matplotlib"),
    ],
)
def test_libraries_get_a_home_where_the_users_cannot_be_written_or_found(
    tmp_path: Path, given: str | None, expected: str
) -> None:
    done = as_nobody(tmp_path, WHERE_HOME_IS, **({"HOME": given} if given else {}))
    assert done.stdout.strip() == expected.format(local=tmp_path / f"deeper-{ANOTHER_USER}"), done.stderr


@needs_root
@needs_setpriv
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("doctor", 0, "kernels"),
        ("slurm profiles", 0, "one-gpu-node"),
        ("data prepare ~/images --output data", 2, "'~/images': no such folder"),
    ],
)
def test_a_user_without_home_and_name_is_served(tmp_path: Path, command: str, code: int, words: str) -> None:
    done = as_nobody(tmp_path, AS_NOBODY, *command.split())
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
