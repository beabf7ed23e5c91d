"""Starts and ends a Ray node for one job, which shares no port, folder or process with other jobs on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from reproduce.files.temporary_folders import TemporaryFolder, temporary_folder
from slurm.job.node.allocation import Allocation
from slurm.job.node.network import NetworkAddress

START_TIMEOUT_S = 300  # a node may have to read Ray from a cold network file system
POLL_S = 0.2
KILL_TIMEOUT_S = 5
LAST_WORDS = 500  # characters
STARTED: Final = "Ray runtime started"
"""What `ray start --block` prints once its processes run and it has joined the cluster."""
REFUSED: Final = "AuthenticationError"
"""The exception of `ray start` in whose traceback a cluster refuses the token."""
ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")
DUMP: Final = re.compile(r"@\s+0x|\*\*\*|\[state-dump\]|File \"|\^+$|StackTrace|~+\^")
"""Lines of the stack dumps of Ray's native processes, of their dumps of state, and of tracebacks."""

NODE_LOCAL: Final = ("/tmp", "/var/tmp")
"""Where a Ray node's private folder is created. Where $TMPDIR leads, there may be no sockets, as on shared storage."""
LONGEST_FOLDER: Final = 107 - len("/ray/session_2026-11-27_02-17-26_175251_1234567/sockets/plasma_store")
"""The most bytes of the path of that folder: Linux allows 107 for the path of a socket, and Ray adds this to it."""

BLOCKED_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Signals that SLURM or Ctrl-C sends to every process of a job step. They are blocked in Ray, which would end at once:
the launcher decides when Ray ends."""


def block_signals() -> None:
    """Block `BLOCKED_SIGNALS` in the calling process and its future children.

    It is meant for a child process between fork and exec (`preexec_fn` of `subprocess.Popen`).
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)


class RayNodeError(RuntimeError):
    """Raised if Ray has ended on this node."""


class RayStartError(RayNodeError):
    """Raised if Ray did not come up on this node, for example because a cluster refuses its token."""


@dataclass(frozen=True)
class RayNode:
    """Ray's processes on this node: `ray start` and its descendants, such as the raylet. The owner must call `kill`."""

    process: subprocess.Popen[bytes]
    """The process of `ray start`, which runs as long as Ray does."""
    private: TemporaryFolder
    """Private folder with Ray's temporary folder and its log, which `kill` removes."""

    @property
    def folder(self) -> Path:
        """The path of the private folder."""
        return self.private.path

    @property
    def is_alive(self) -> bool:
        """Whether the process of `ray start` still runs."""
        return self.process.poll() is None

    @property
    def is_up(self) -> bool:
        """Whether Ray has joined its cluster: `ray start` says so once the cluster's control service knows the node."""
        return STARTED in self._printed

    @property
    def last_words(self) -> str:
        """The last `LAST_WORDS` characters that `ray start` printed, in one line, without colours and stack dumps."""
        lines = [line.strip() for line in ANSI.sub("", self._printed).split("\n")]
        return " | ".join(line for line in lines if line and not DUMP.match(line))[-LAST_WORDS:]

    @property
    def _printed(self) -> str:
        return _log_file(self.folder).read_text(errors="replace", encoding="utf-8")

    def wait_until_up(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until Ray has joined its cluster.

        Args:
            timeout_s: Longest time to wait, in seconds.

        Raises:
            RayStartError: Ray has ended, since the cluster refuses the token or for another reason, or has not joined
                in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_up:
            if not self.is_alive or time.monotonic() > deadline:
                if REFUSED in self._printed:
                    raise RayStartError(
                        "the Ray cluster refuses the token of this job; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to "
                        "those of the cluster"
                    )
                problem = f"has not joined after {timeout_s:.0f} s" if self.is_alive else "ended before it had joined"
                raise RayStartError(f"Ray {problem}: {self.last_words}")
            time.sleep(POLL_S)

    def wait_for_address(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """Wait until Ray listens, on a node that was started as the head node of a Ray cluster.

        Args:
            timeout_s: Longest time to wait, in seconds.

        Returns:
            The address of the Ray cluster as HOST:PORT.

        Raises:
            RayStartError: Ray has ended, or does not listen in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.is_alive:
            with contextlib.suppress(FileNotFoundError):
                if address := _address_file(self.folder).read_text(encoding="utf-8").strip():
                    return address
            time.sleep(POLL_S)
        problem = f"does not listen after {timeout_s:.0f} s" if self.is_alive else "ended before it listened"
        raise RayStartError(f"Ray {problem}: {self.last_words}")

    def kill(self) -> None:
        """Kill `ray start` and its descendants with SIGKILL, wait until they have ended, and remove the folder."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            family = [*parent.children(recursive=True), parent]
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(family, timeout=KILL_TIMEOUT_S)
        self.process.wait()
        self.private.remove()


def start_ray_node(
    allocation: Allocation, own: NetworkAddress, *, head_address: str | None, object_store_mib: int
) -> RayNode:
    """Start Ray on this node, without waiting until it listens.

    Args:
        allocation: The resources of the node that Ray may use, and the job's id.
        own: Address and interface of this node, for Ray, gloo and NCCL.
        head_address: HOST:PORT of the Ray cluster to join; None to start a cluster with this node as its head node.
        object_store_mib: Size of Ray's shared memory on this node, in MiB.

    Returns:
        The Ray node, whose `kill` the caller has to call.
    """
    prefix = f"deeper-{allocation.job}-{allocation.rank}-"
    private = temporary_folder(prefix, longest=LONGEST_FOLDER, parents=NODE_LOCAL)
    command = ray_command(
        allocation, own, head_address=head_address, object_store_mib=object_store_mib, folder=_ray_folder(private.path)
    )
    return start_ray_process(command, own.interface, private)


def start_ray_process(command: Sequence[str], interface: str, private: TemporaryFolder) -> RayNode:
    """Start the command of a Ray node as a child process, without waiting until Ray listens.

    Args:
        command: The command, as `ray_command` returns it.
        interface: Network interface that gloo and NCCL use in the processes that Ray starts.
        private: Private folder of the Ray node, to which the command's output is written.
    """
    environment = {
        **os.environ,
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
    }
    with _log_file(private.path).open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, preexec_fn=block_signals
        )
    return RayNode(process, private)


def ray_command(
    allocation: Allocation, own: NetworkAddress, *, head_address: str | None, object_store_mib: int, folder: Path
) -> list[str]:
    """Return the `ray start` command of this node.

    No port is fixed, since Ray's default ports are the same for all jobs on a machine and would collide.

    Args:
        allocation: The resources of the node that Ray may use.
        own: Address of this node.
        head_address: HOST:PORT of the Ray cluster to join; None to start a cluster with this node as its head node.
        object_store_mib: Size of Ray's shared memory on this node, in MiB.
        folder: Ray's temporary folder.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += [f"--node-ip-address={own.address}", f"--temp-dir={folder}"]
    command += [f"--num-cpus={allocation.cpus}", f"--num-gpus={allocation.gpus}"]
    command += [f"--object-store-memory={object_store_mib * 2**20}"]
    if allocation.memory_bytes is not None:  # Ray does not see SLURM's limit
        command += [f"--memory={allocation.memory_bytes}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
    # No driver asks for the workers' output, and nothing scales this cluster: two processes fewer to start.
    command += ["--include-log-monitor=false"]
    if head_address is None:
        return [*command, "--head", "--port=0", "--include-dashboard=false", "--no-monitor"]
    return [*command, f"--address={head_address}"]


def _ray_folder(folder: Path) -> Path:
    """Return Ray's temporary folder within the private one. Ray makes it writable for every user."""
    return folder / "ray"


def _address_file(folder: Path) -> Path:
    return _ray_folder(folder) / "ray_current_cluster"


def _log_file(folder: Path) -> Path:
    return folder / "ray.log"
