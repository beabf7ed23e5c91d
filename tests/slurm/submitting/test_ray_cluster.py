"""A Ray cluster that a job is to join is asked before the job is submitted: a real one, which accepts one token."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster import until

from slurm.queries import SlurmError
from slurm.submitting.ray_cluster import check_ray_cluster

TOKEN = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """HOST:PORT of a Ray cluster with a token. Its folder is short, since the path of a socket must be."""
    folder = Path(f"/tmp/rc-{os.getpid()}")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"]
    command += ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}", "--num-cpus=1", "--include-dashboard=false"]
    command += ["--disable-usage-stats", "--object-store-memory=80000000", "--dashboard-agent-listen-port=0"]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    written = folder / "ray_current_cluster"
    try:
        until(written.exists, "Ray", seconds=300)
        yield written.read_text(encoding="utf-8").strip()
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            member.kill()
        psutil.wait_procs(family, timeout=60)
        subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.mark.long
def test_a_wrong_token_is_refused_and_the_right_one_accepted(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert check_ray_cluster(address) is None
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    with pytest.raises(SlurmError, match="refuses the token of this shell; set RAY_AUTH_MODE=token and"):
        check_ray_cluster(address)
