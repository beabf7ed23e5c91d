"""The SLURM that the tests of this folder share. They are skipped if it cannot be started, but fail in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # cluster.py

import accounting
from cluster import COMMANDS, HOSTS, LIMITING_GROUPS, NAMESPACES, THREE_HOSTS, Cluster


def skip_reason() -> str | None:
    """Why no SLURM can be started here, in one line; None if it can."""
    if os.geteuid() != 0:
        return "the SLURM of the tests needs root, since its hosts are namespaces"
    if missing := [command for command in COMMANDS if shutil.which(command) is None]:
        return f"no {', '.join(missing)} on PATH; `make setup-tests` as root on Debian installs them"
    probe = "ip link add end1 type veth peer name end2 && ip link add bridge1 type bridge && mount -t tmpfs tmpfs /run"
    trial = subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "--mount-proc", "sh", "-c", probe],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if trial.returncode != 0:
        return f"namespaces cannot be made here: {trial.stderr.strip().splitlines()[-1]}"
    return None


def require_slurm() -> None:
    """Skip the test if no SLURM can be started here, but fail it in CI."""
    if reason := skip_reason():
        skip_but_in_ci(reason)


def skip_but_in_ci(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM with the hosts n1 and n2. A test that kills a host must start it again."""
    require_slurm()
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def cluster_with_limits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM that limits the memory and the cores of its jobs, which are those of several users."""
    require_slurm()
    for groups in LIMITING_GROUPS:
        if not os.access(groups / "cgroup.procs", os.W_OK):
            pytest.skip(f"no control groups of version 1 at {groups}; those of version 2 would need systemd")
    shared = tmp_path_factory.mktemp("limited")
    shared.chmod(0o755)
    with Cluster(shared, limits=True, tenants=True) as running:
        yield running


@pytest.fixture(scope="module")
def patient_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM of one host with its own default times, also for credentials, which delay a requeued job."""
    require_slurm()
    with Cluster(tmp_path_factory.mktemp("patient"), HOSTS[:1], patient=True) as running:
        yield running


@pytest.fixture(scope="module")
def cluster_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM with the hosts n1, n2 and n3."""
    require_slurm()
    with Cluster(tmp_path_factory.mktemp("three"), THREE_HOSTS) as running:
        yield running


@pytest.fixture(scope="module")
def cluster_with_accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM whose jobs `sacct` knows."""
    require_slurm()
    if missing := [command for command in accounting.COMMANDS if shutil.which(command) is None]:
        skip_but_in_ci(f"no {', '.join(missing)} on PATH; as root on Debian: apt install {accounting.PACKAGES}")
    with Cluster(tmp_path_factory.mktemp("accounts"), accounts=True) as running:
        yield running
