"""The tests' own SLURM has separate hosts and ends with the process that started it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import HOSTS, Cluster, until


def test_hosts_have_their_own_address_and_tmp_and_see_the_shared_folder(cluster: Cluster) -> None:
    (cluster.shared / "seen").touch()
    addresses = {host: cluster.on(host, "hostname", "-I").stdout.strip() for host in HOSTS}
    assert len(set(addresses.values())) == len(HOSTS)
    assert cluster.on("n1", "getent", "hosts", "n2").stdout.split()[0] == addresses["n2"]

    cluster.on("n1", "touch", "/tmp/only-on-n1", "/dev/shm/only-on-n1")
    for place in ("/tmp", "/dev/shm"):
        assert not Path(place, "only-on-n1").exists()
        assert "only-on-n1" not in cluster.on("n2", "ls", place).stdout
    for host in HOSTS:
        cluster.on(host, sys.executable, "-c", "import bench", timeout=60)
        cluster.on(host, "test", "-e", cluster.shared / "seen")


def test_a_job_runs_on_both_hosts_and_its_exit_code_is_kept(cluster: Cluster) -> None:
    script = "srun --ntasks-per-node=1 hostname; exit 7"
    job = cluster.login("sbatch", "--parsable", "-N2", "--output=both-%j.log", "--wrap", script).stdout.strip()
    assert cluster.wait(job) == "FAILED"
    assert cluster.job(job)["ExitCode"] == "7:0"
    assert sorted((cluster.shared / f"both-{job}.log").read_text(encoding="utf-8").split()) == list(HOSTS)


def test_a_killed_host_is_down_and_comes_back_with_an_empty_tmp(cluster: Cluster) -> None:
    cluster.on("n2", "touch", "/tmp/lost")
    cluster.kill_host("n2")
    until(
        lambda: "down" in cluster.login("sinfo", "--noheader", "--nodes=n2", "--format=%T").stdout, "n2 to be down", 60
    )
    cluster.start_host("n2")
    assert "lost" not in cluster.on("n2", "ls", "/tmp").stdout
    assert cluster.login("srun", "--nodelist=n2", "hostname").stdout.strip() == "n2"


def test_signals_reach_a_command_and_a_slow_command_is_ended(cluster: Cluster) -> None:
    command = cluster.popen("bash", "-c", "trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    assert command.stdout is not None
    assert command.stdout.readline() == "ready\n"
    command.terminate()
    assert (command.communicate(timeout=60)[0], command.returncode) == ("told\n", 3)
    with pytest.raises(AssertionError, match=r"took more than 0\.5 s"):
        cluster.login("sleep", "1000", timeout=0.5)
    late = ("pgrep", "--full", "--exact", "sleep 1000")
    until(lambda: not cluster.login(*late, check=False).stdout, "the late command's end", seconds=60)


def test_a_cluster_ends_with_the_process_that_made_it(cluster: Cluster, tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from cluster import Cluster\n"
    code += "with Cluster(Path(sys.argv[1])): print('up', flush=True); time.sleep(1000)"
    owner = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        encoding="utf-8",
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    assert processes_naming(tmp_path)  # a second cluster, beside the first
    owner.kill()
    owner.wait()
    until(lambda: not processes_naming(tmp_path), "the end of the killed owner's daemons", seconds=60)
    assert cluster.login("sinfo", "--noheader", "--nodes=n1,n2", "--format=%T").stdout


def processes_naming(folder: Path) -> list[int]:
    """Processes of this machine that were started with the folder's slurm.conf."""
    marker = f"SLURM_CONF={folder}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:  # gone meanwhile
            continue
    return found
