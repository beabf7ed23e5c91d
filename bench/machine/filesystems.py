"""Which kind of file system a path lies on, and what that means for records that several hosts share.

Leases of runs are `flock`s, which some network file systems keep to the host that takes them; the embedded tracking
store is sqlite, which no network file system is safe for (sqlite.org/howtocorrupt, section 2.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")

NFS = frozenset({"nfs", "nfs4"})
CIFS = frozenset({"cifs", "smb3"})
CLUSTER_LOCKS = frozenset({"ceph", "fuse.ceph-fuse", "fuse.glusterfs", "gfs2", "ocfs2"})
"""`flock` reaches all hosts unless a mount option (gfs2's and ocfs2's localflocks) says otherwise."""
OTHER_NETWORK = frozenset(
    {"afs", "beegfs", "fuse.juicefs", "fuse.s3fs", "fuse.sshfs", "gpfs", "orangefs", "panfs", "pvfs2", "wekafs"}
)
"""Configured elsewhere than in the mount options (BeeGFS: tuneUseGlobalFileLocks), so that nothing can be told here."""
NETWORK = NFS | CIFS | CLUSTER_LOCKS | OTHER_NETWORK | {"lustre"}


@dataclass(frozen=True)
class FileSystem:
    """One mount."""

    kind: str
    """As mount(8) names it: ext4, tmpfs, nfs4, lustre, ..."""
    mount_point: Path
    options: frozenset[str]

    @property
    def is_network(self) -> bool:
        return self.kind in NETWORK

    @property
    def in_memory(self) -> bool:
        return self.kind in ("tmpfs", "ramfs")

    @property
    def flock_reaches_other_hosts(self) -> bool | None:
        """None: it cannot be told from the mount."""
        if self.kind in NFS:
            return not self.options & {"nolock", "local_lock=all", "local_lock=flock"}
        if self.kind == "lustre":
            return "flock" in self.options
        if self.kind in CIFS:
            return "nobrl" not in self.options
        if self.kind in CLUSTER_LOCKS:
            return "localflocks" not in self.options
        return None if self.is_network else False

    @property
    def locking_cure(self) -> str:
        """What to do where `flock` does not reach other hosts, or where that cannot be told."""
        if self.kind in NFS:
            return f"have {self.mount_point} mounted without nolock and local_lock, or take another file system"
        if self.kind == "lustre":
            return f"have {self.mount_point} mounted with the option flock, or take another file system"
        if self.flock_reaches_other_hosts is None:
            return "try: hold `flock FILE sleep 60` on one host; `flock -n FILE true` on another has to fail"
        return f"have {self.mount_point} mounted with locks that all hosts see, or take another file system"


def filesystem(path: Path) -> FileSystem:
    """The file system that a path lies on, or would once it exists; unknown where no mount tells, as in a chroot."""
    place = path.resolve()  # walks the path, so that an automounter has done its work before the mounts are read
    found = [
        mount
        for mount in map(_mount, MOUNTS.read_text(encoding="utf-8").splitlines())
        if place.is_relative_to(mount.mount_point)
    ]
    if not found:
        return FileSystem("unknown", Path("/"), frozenset())
    longest = max(len(mount.mount_point.parts) for mount in found)
    # Of two on one mount point the later one lies over the other.
    return [mount for mount in found if len(mount.mount_point.parts) == longest][-1]


def _mount(line: str) -> FileSystem:
    """A line of proc(5)'s mountinfo: id parent device root MOUNT-POINT OPTIONS any... - KIND source OPTIONS."""
    before, _, after = line.partition(" - ")
    fields, (kind, _, own_options) = before.split(" "), after.split(" ", 2)
    mount_point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
    return FileSystem(kind, Path(mount_point), frozenset([*fields[5].split(","), *own_options.split(",")]))
