"""Finds the file system that a path lies on, and tells whether several hosts can share records there.

Drivers lock runs with `flock`, and some network file systems do not show the locks of one host to others. The embedded
tracking store is an SQLite file, which is safe on no network file system (sqlite.org/howtocorrupt, section 2.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")

NFS = frozenset({"nfs", "nfs4"})
CIFS = frozenset({"cifs", "smb3"})
CLUSTER_LOCKS = frozenset({"ceph", "fuse.ceph-fuse", "fuse.glusterfs", "gfs2", "ocfs2"})
"""File systems whose `flock` reaches all hosts, unless they are mounted with localflocks (gfs2 and ocfs2 only)."""
OTHER_NETWORK = frozenset(
    {"afs", "beegfs", "fuse.juicefs", "fuse.s3fs", "fuse.sshfs", "gpfs", "orangefs", "panfs", "pvfs2", "wekafs"}
)
"""File systems whose mount options do not show whether `flock` reaches other hosts.

BeeGFS, for instance, decides it by tuneUseGlobalFileLocks in its own configuration."""
NETWORK = NFS | CIFS | CLUSTER_LOCKS | OTHER_NETWORK | {"lustre"}


@dataclass(frozen=True)
class FileSystem:
    """A mounted file system."""

    kind: str
    """The type in the spelling of mount(8), such as ext4, tmpfs, nfs4 or lustre; "unknown" if no mount was found."""
    mount_point: Path
    options: frozenset[str]
    """The mount options, those of the mount and those of the file system together."""

    @property
    def is_network(self) -> bool:
        """Whether the file system is one of the known network file systems, `NETWORK`."""
        return self.kind in NETWORK

    @property
    def in_memory(self) -> bool:
        """Whether the files are kept in memory and lost when the host is switched off."""
        return self.kind in ("tmpfs", "ramfs")

    @property
    def flock_reaches_other_hosts(self) -> bool | None:
        """Whether other hosts see the `flock` locks of this host. None if the mount options do not show it.

        False for file systems that are not network file systems.
        """
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
    def locking_hint(self) -> str:
        """Advice for the user if `flock_reaches_other_hosts` is False or None."""
        if self.kind in NFS:
            return f"have {self.mount_point} mounted without nolock and local_lock, or use another file system"
        if self.kind == "lustre":
            return f"have {self.mount_point} mounted with the option flock, or use another file system"
        if self.flock_reaches_other_hosts is None:
            return "try it: run `flock FILE sleep 60` on one host; meanwhile `flock -n FILE true` must fail on another"
        return f"have {self.mount_point} mounted so that all hosts see its locks, or use another file system"


def filesystem(path: Path) -> FileSystem:
    """Return the file system that a path lies on, or would lie on if it existed. Works on Linux only.

    The `kind` of the result is "unknown" if no mount contains the path, as may happen in a chroot.
    """
    resolved = path.resolve()  # walks the path, so that an automounter mounts it before the mounts are read
    found = [
        mount
        for mount in map(_mount, MOUNTS.read_text(encoding="utf-8").splitlines())
        if resolved.is_relative_to(mount.mount_point)
    ]
    if not found:
        return FileSystem("unknown", Path("/"), frozenset())
    longest = max(len(mount.mount_point.parts) for mount in found)
    # Of two mounts at one mount point the later one hides the other.
    return [mount for mount in found if len(mount.mount_point.parts) == longest][-1]


def _mount(line: str) -> FileSystem:
    """Parse a line of mountinfo (proc(5)): id parent device root MOUNT-POINT OPTIONS any... - KIND source OPTIONS."""
    before, _, after = line.partition(" - ")
    fields, (kind, _, own_options) = before.split(" "), after.split(" ", 2)
    mount_point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
    return FileSystem(kind, Path(mount_point), frozenset([*fields[5].split(","), *own_options.split(",")]))
