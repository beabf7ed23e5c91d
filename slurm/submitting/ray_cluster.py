"""Checks, before a job is submitted, that its nodes may join the Ray cluster of `--address`."""

from __future__ import annotations

import socket
import subprocess
import sys

from slurm.queries import SlurmError

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0  # most of it is to import Ray from a cold file system
ASK = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    sys.exit(3)
"""
"""Connects to Ray's control service, which refuses a wrong token at once. A process of its own, since a service that
does not answer holds Ray's native code for 40 seconds."""
REFUSED = 3


def check_ray_cluster(address: str) -> str | None:
    """Check that a Ray cluster accepts connections and this user's token.

    Args:
        address: HOST:PORT of the cluster's control service.

    Returns:
        None if it does; otherwise a sentence on why this cannot be said from this machine, which is no obstacle: a
        firewall may keep login nodes away from the ports of compute nodes.

    Raises:
        SlurmError: There is no such host, nothing listens there, or the cluster refuses the token.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (ConnectionRefusedError, socket.gaierror) as error:
        raise SlurmError(
            f"--address: {address}: no Ray cluster can be joined there: {error.strerror}; name HOST:PORT of one that "
            "runs, or leave the option out"
        ) from None
    except (OSError, OverflowError) as error:
        return f"--address: {address} cannot be reached from this machine ({error}), so it is not checked"
    try:
        answer = subprocess.run(
            [sys.executable, "-c", ASK, address], capture_output=True, timeout=ANSWER_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"--address: {address} accepts connections, and whether it is Ray is not known: it gave no answer"
    if answer.returncode == REFUSED:
        raise SlurmError(
            f"--address: {address}: the Ray cluster refuses the token of this shell; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN to those of the cluster"
        )
    return None if answer.returncode == 0 else f"--address: {address} accepts connections, and Ray gave no answer"
