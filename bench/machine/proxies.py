"""Keeps connections within this machine away from the proxy that the environment names."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

import psutil

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
EXCEPTIONS = ("no_proxy", "NO_PROXY")
"""The hosts that are reached directly. Programs read one of the two, most of them the first where both are set."""


def except_this_machine(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add the names and addresses of this machine to the exceptions from the proxy, if the environment names a proxy.

    A proxy elsewhere cannot reach a server that listens here at 127.0.0.1. The exceptions hold for this process, for
    the clients that it uses (urllib, and requests in MLflow's) and for the processes that it starts. Ray and the
    sockets of SLURM jobs need none, because they ignore proxies. Other hosts are reached as the environment says.

    Args:
        environment: The environment variables.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in PROXIES):
        return
    given = [entry.strip() for name in EXCEPTIONS for entry in environment.get(name, "").split(",")]
    if "*" in given:
        return
    names = ",".join(dict.fromkeys(filter(None, [*given, *_own_names()])))
    environment.update(dict.fromkeys(EXCEPTIONS, names))


def _own_names() -> list[str]:
    addresses = [
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
    return ["localhost", "127.0.0.1", "::1", socket.gethostname(), *addresses]
