"""One node of a Ray cluster that belongs to this job alone: own ports, own temporary folder, own processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from slurm.job.allocation import Allocation, Place

START_S = 300  # a node may have to read Ray from a cold network file system

SHIELDED = (signal.SIGTERM, signal.SIGINT)
"""What SLURM sends to every process of a step. Ray would end at once; it is the launcher that decides."""


def shield() -> None:
    """Block those signals in a child process, and so in all of its own; to be called between fork and exec."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)


class RayDown(RuntimeError):  # noqa: N818 - reads as a state
    """Ray did not start on this node, or has ended."""


@dataclass(frozen=True)
class RayNode:
    """A raylet, on the head a GCS too, and what they started."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def await_address(self) -> str:
        """Of a head: HOST:PORT, once it listens. Raises `RayDown`."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.alive:
            with contextlib.suppress(FileNotFoundError):
                if address := (self.folder / "ray_current_cluster").read_text(encoding="utf-8").strip():
                    return address
            time.sleep(0.2)
        how = f"does not listen after {START_S} s" if self.alive else "ended before it listened"
        raise RayDown(f"Ray {how}: {self.last_words}")

    @property
    def last_words(self) -> str:
        lines = _log(self.folder).read_text(errors="replace", encoding="utf-8").split("\n")
        return " | ".join(line.strip() for line in lines if line.strip())[-500:]

    def kill(self) -> None:
        """End this node's processes, and only these; what they wrote goes with them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            family = [*parent.children(recursive=True), parent]
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(family, timeout=5)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        _log(self.folder).unlink(missing_ok=True)


def start(granted: Allocation, place: Place, *, head: str | None, object_store_mib: int) -> RayNode:
    """Start Ray on this node: as head, or joining the cluster at `head` (HOST:PORT)."""
    folder = Path("/tmp") / f"deeper-{granted.job}-{granted.rank}"  # short: a socket's path has at most 107 bytes
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += [f"--node-ip-address={place.address}", f"--temp-dir={folder}"]
    command += [f"--num-cpus={granted.cpus}", f"--num-gpus={granted.gpus}"]
    command += [f"--object-store-memory={object_store_mib * 2**20}"]
    if granted.memory_bytes is not None:  # Ray does not see SLURM's limit
        command += [f"--memory={granted.memory_bytes}"]
    # Every port is chosen by the system: Ray's own defaults are the same for all jobs of a node.
    command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
    if head is None:
        command += ["--head", "--port=0", "--include-dashboard=false"]
    else:
        command += [f"--address={head}"]
    environment = {
        **os.environ,
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "GLOO_SOCKET_IFNAME": place.interface,
        "NCCL_SOCKET_IFNAME": place.interface,
    }
    with _log(folder).open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, preexec_fn=shield
        )
    return RayNode(process, folder)


def _log(folder: Path) -> Path:
    return folder.with_suffix(".log")
