"""A job whose Python runs in a container, here one of bubblewrap: a root of its own, without SLURM's commands."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from cluster import Cluster
from user_folder import OVER_BOTH, UserFolder, user_folder

from reproduce.native import cache

ROOT = Path(__file__).parents[2]
SYSTEM = ("/lib", "/lib64", "/usr/include", "/usr/lib", "/usr/lib64")
TOOLS = ("as", "bash", "cc", "env", "ld", "sh", "uname")


@pytest.fixture(scope="module")
def user(cluster: Cluster) -> UserFolder:
    if shutil.which("bwrap") is None:
        pytest.skip("no bwrap on PATH; as root on Debian: apt install bubblewrap")
    return user_folder(cluster, "container")


def container(user: UserFolder) -> str:
    """The command that begins a container which has the interpreter, this project, and the shared folder."""
    seen = {Path(path) for path in SYSTEM if Path(path).exists()}
    seen |= {ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    binds = [f"--ro-bind {path} {path}" for path in sorted(seen)]
    binds += [f"--ro-bind /bin/{tool} /bin/{tool}" for tool in TOOLS if Path("/bin", tool).exists()]
    binds += [f"--ro-bind {path} {path}" for path in ("/etc/alternatives", "/etc/hosts", "/etc/passwd", "/sys")]
    own = [
        "--tmpfs /tmp",
        "--proc /proc",
        "--dev /dev",
        f"--bind /dev/shm /dev/shm --bind {user.cluster.shared} {user.cluster.shared}",
    ]
    libraries = cache()
    return " ".join(["bwrap", *own, *binds, f"--bind {libraries} {libraries}"])


@pytest.mark.long
def test_a_run_over_two_hosts_trains_in_containers_without_slurm(user: UserFolder) -> None:
    user.write("contained", resources=OVER_BOTH)
    jobs = user.submit("contained", container=container(user), python=sys.executable)
    user.ended("contained", jobs["grid"])
    user.ended("contained", jobs["report"])
    start, *_, end = user.events(user.runs("contained")["both s0"]["key"])
    assert (start["hosts"], end["outcome"]) == (["n1", "n2"], "finished")
    assert (user.records / "reports" / "contained" / "index.html").exists()
