"""A node's part of Ray: how it is started, found and ended. A script stands in for Ray."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from slurm.job.node import ray_node
from slurm.job.node.allocation import Allocation
from slurm.job.node.network import NetworkAddress
from slurm.job.node.ray_node import RayNode, RayNodeError, RayStartError, ray_command, start_ray_node

ALLOCATION = Allocation("17", "17", 0, rank=0, hosts=("n1", "n2"), cpus=8, gpus=2, memory_bytes=1000)
OWN = NetworkAddress("127.0.0.1", "lo")

# As `ray start --block` of Ray 2.60 does: it makes its folder writable for everyone, writes the address of the cluster
# into it once the cluster listens, and goes on until it is killed.
RAY = """#!/bin/bash
for argument; do case $argument in --temp-dir=*) folder=${argument#*=} ;; esac; done
mkdir -p "$folder" && chmod 777 "$folder"
echo "INFO scripts.py:1043 -- Local node IP: 127.0.0.1"
%s
"""
LISTENS = """
printf 127.0.0.1:33775 >"$folder/ray_current_cluster"
sleep 1000 &
echo "SUCC scripts.py:1085 -- Ray runtime started."
wait
"""


@pytest.fixture(autouse=True)
def node_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /tmp of the node."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(ray_node, "NODE_LOCAL", (str(folder),))
    monkeypatch.setattr(ray_node, "LONGEST_FOLDER", 1000)
    return folder


@pytest.fixture
def nodes() -> Iterator[list[RayNode]]:
    started: list[RayNode] = []
    yield started
    for node in started:
        node.kill()


def start(nodes: list[RayNode], folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> RayNode:
    program = folder / "python"
    program.write_text(RAY % script, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    nodes.append(start_ray_node(ALLOCATION, OWN, head_address=None, object_store_mib=512))
    return nodes[-1]


def test_the_head_node_of_ray_tells_its_address(
    nodes: list[RayNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(nodes, tmp_path, monkeypatch, LISTENS)
    assert node.wait_for_address(timeout_s=60) == "127.0.0.1:33775"
    assert node.is_alive


def test_a_ray_that_has_joined_is_up_and_one_that_has_not_is_an_error_without_dumps(
    nodes: list[RayNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(nodes, tmp_path, monkeypatch, LISTENS).wait_until_up(timeout_s=60)
    said = r"\x1b[31mConnectionError: no GCS\x1b[0m\n  File \"node.py\", line 996\n    @  0x7f1 ray\n"
    node = start(nodes, tmp_path, monkeypatch, f"printf '{said}'; exit 1")
    with pytest.raises(RayStartError, match=r"joined: INFO [^|]* \| ConnectionError: no GCS$"):
        node.wait_until_up(timeout_s=60)


def test_a_ray_whose_token_a_cluster_refuses_is_one_sentence(
    nodes: list[RayNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "ray.exceptions.AuthenticationError: Authentication failed"
    node = start(nodes, tmp_path, monkeypatch, f"echo '{said}'; exit 1")
    with pytest.raises(RayStartError, match=r"^the Ray cluster refuses the token of this job; set RAY_AUTH_MODE=token"):
        node.wait_until_up(timeout_s=60)


def test_a_ray_that_ends_before_it_listens_is_an_error_with_its_last_words(
    nodes: list[RayNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(nodes, tmp_path, monkeypatch, "echo 'ConnectionError: no GCS'; exit 1")
    with pytest.raises(RayNodeError, match=r"^Ray ended before it listened: INFO .* \| ConnectionError: no GCS$"):
        node.wait_for_address(timeout_s=60)


def test_a_ray_that_never_listens_is_an_error_after_a_time(
    nodes: list[RayNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(nodes, tmp_path, monkeypatch, "sleep 1000")
    with pytest.raises(RayNodeError, match=r"^Ray does not listen after 1 s"):
        node.wait_for_address(timeout_s=1)


def test_a_killed_node_leaves_neither_processes_nor_files(
    nodes: list[RayNode], tmp_path: Path, node_local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(nodes, tmp_path, monkeypatch, LISTENS)
    node.wait_for_address(timeout_s=60)
    process = psutil.Process(node.process.pid)
    family = [process, *process.children()]
    assert len(family) == 2
    node.kill()
    assert not node.is_alive
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family)
    assert list(node_local.iterdir()) == []


def test_slurms_signals_do_not_end_ray(nodes: list[RayNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = start(nodes, tmp_path, monkeypatch, LISTENS)
    node.wait_for_address(timeout_s=60)
    node.process.terminate()
    time.sleep(0.2)
    assert node.is_alive


def test_no_other_user_can_reach_rays_folder(
    nodes: list[RayNode], tmp_path: Path, node_local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(nodes, tmp_path, monkeypatch, LISTENS).wait_for_address(timeout_s=60)
    [folder] = node_local.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_planted_links_are_neither_followed_nor_removed(
    nodes: list[RayNode], tmp_path: Path, node_local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    for name in ("deeper-17-0", "deeper-17-0-", "deeper-17-0.log"):
        (node_local / name).symlink_to(victim)
    start(nodes, tmp_path, monkeypatch, LISTENS).wait_for_address(timeout_s=60)
    assert [path.name for path in victim.iterdir()] == ["file"]
    assert all((node_local / name).is_symlink() for name in ("deeper-17-0", "deeper-17-0-", "deeper-17-0.log"))


def test_the_folder_of_a_launcher_that_was_killed_is_removed(
    nodes: list[RayNode], tmp_path: Path, node_local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node_local / "deeper-17-0-abandone" / "ray").mkdir(parents=True)
    node = start(nodes, tmp_path, monkeypatch, LISTENS)
    assert list(node_local.iterdir()) == [node.folder]


def test_a_socket_of_ray_fits_into_107_bytes() -> None:
    allocation = "deeper-12345678-1234-abcdefgh"  # job id, rank, and the random end of the name
    session = "ray/session_2026-11-26_22-13-22_738435_4194304/sockets/plasma_store"
    assert len(os.fsencode(f"/tmp/{allocation}/{session}")) <= 107


def test_ray_gets_what_slurm_granted_and_no_port_of_its_own_choice(tmp_path: Path) -> None:
    command = ray_command(ALLOCATION, OWN, head_address=None, object_store_mib=512, folder=tmp_path)
    assert {
        *("--head", "--port=0", "--node-ip-address=127.0.0.1", "--num-cpus=8", "--num-gpus=2", "--memory=1000"),
        *(f"--object-store-memory={512 * 2**20}", "--min-worker-port=0", f"--temp-dir={tmp_path}"),
    } <= set(command)


def test_a_worker_node_joins_the_head_nodes_cluster(tmp_path: Path) -> None:
    command = ray_command(ALLOCATION, OWN, head_address="n1:6379", object_store_mib=512, folder=tmp_path)
    assert command[-1] == "--address=n1:6379"
    assert "--head" not in command
