"""File systems as mountinfo lists them, and whether locks on them reach other hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.machine import filesystems
from bench.machine.filesystems import FileSystem, filesystem

MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
22 21 0:20 / /tmp rw,nosuid - tmpfs tmpfs rw,size=1000k
30 21 0:40 / /home rw,relatime - autofs systemd-1 rw,fd=46
31 30 0:41 / /home rw,relatime shared:9 - nfs4 server:/home rw,vers=4.2,hard,local_lock=none,addr=10.0.0.1
32 21 0:42 / /old\\040home rw - nfs server:/old rw,vers=3,nolock,local_lock=all
33 21 0:43 / /scratch rw - lustre mgs@o2ib:/scratch rw,checksum,flock,user_xattr
34 33 0:44 / /scratch/quick rw - lustre mgs@o2ib:/quick rw,checksum,localflock
"""


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS, encoding="utf-8")
    monkeypatch.setattr(filesystems, "MOUNTS", tmp_path / "mountinfo")


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize(
    ("path", "kind", "mount_point"),
    [
        ("/srv/records", "ext4", "/"),
        ("/tmp", "tmpfs", "/tmp"),
        ("/tmporary", "ext4", "/"),
        ("/home/me/not/yet", "nfs4", "/home"),
        ("/old home/me", "nfs", "/old home"),
        ("/scratch/quick/me", "lustre", "/scratch/quick"),
    ],
)
def test_a_path_lies_on_the_last_and_innermost_mount_above_it(path: str, kind: str, mount_point: str) -> None:
    found = filesystem(Path(path))
    assert (found.kind, found.mount_point) == (kind, Path(mount_point))


def test_the_mounts_of_this_host_are_read() -> None:
    assert filesystem(Path("/proc/self")).kind == "proc"
    assert filesystem(Path("/proc/self")).mount_point == Path("/proc")


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize(
    ("path", "network", "reaches"),
    [
        ("/srv", False, False),
        ("/home", True, True),
        ("/old home", True, False),
        ("/scratch", True, True),
        ("/scratch/quick", True, False),
    ],
)
def test_mount_options_decide_whether_locks_reach_other_hosts(path: str, network: bool, reaches: bool) -> None:
    found = filesystem(Path(path))
    assert (found.is_network, found.flock_reaches_other_hosts) == (network, reaches)


@pytest.mark.parametrize(
    ("kind", "options", "reaches"),
    [
        ("lustre", {"rw"}, False),
        ("cifs", {"nobrl"}, False),
        ("ceph", {"rw"}, True),
        ("gfs2", {"localflocks"}, False),
        ("beegfs", {"rw"}, None),
        ("gpfs", {"rw"}, None),
    ],
)
def test_a_mount_that_does_not_tell_gives_no_answer(kind: str, options: set[str], reaches: bool | None) -> None:
    assert FileSystem(kind, Path("/shared"), frozenset(options)).flock_reaches_other_hosts is reaches


def test_the_hint_fits_the_file_system() -> None:
    assert "option flock" in FileSystem("lustre", Path("/scratch"), frozenset()).locking_hint
    assert "without nolock" in FileSystem("nfs", Path("/home"), frozenset({"nolock"})).locking_hint
    assert "flock -n FILE" in FileSystem("beegfs", Path("/data"), frozenset()).locking_hint


def test_a_path_on_no_listed_mount_is_on_an_unknown_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_text("1 0 0:1 / /nowhere rw - ext4 disk rw\n", encoding="utf-8")
    monkeypatch.setattr(filesystems, "MOUNTS", tmp_path / "mountinfo")
    found = filesystems.filesystem(tmp_path)
    assert (found.kind, found.is_network) == ("unknown", False)
