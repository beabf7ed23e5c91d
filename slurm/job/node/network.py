"""Finds the address and the network interface at which the other nodes of a job reach this one."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address

import psutil

from reproduce.errors import UserError

LOOPBACK = "127.0.0.1"
ANY_PORT = 9  # no packet is sent to it


@dataclass(frozen=True)
class NetworkAddress:
    """An IPv4 address of this node and the network interface that has it."""

    address: str
    """The address in dotted notation."""
    interface: str
    """Name of the interface, e.g. ib0."""


def find_address(peer: str | None, interface: str | None = None) -> NetworkAddress:
    """Find the address at which other nodes reach this one.

    It is the source address of the route to `peer`. The name of this host is not looked up, since it may resolve to
    127.0.1.1 (Debian) or to an address on a management network. No packet is sent to the peer.

    Args:
        peer: Name or address of another node; None if there is none, in which case the loopback address is returned.
        interface: Network interface to use. Its first IPv4 address is returned, and `peer` is ignored.

    Raises:
        UserError: The interface does not exist or has no IPv4 address, or there is no route to the peer.
    """
    addresses = _ipv4_addresses()
    if interface is not None:
        if not addresses.get(interface):
            usable = ", ".join(sorted(name for name, found in addresses.items() if found))
            raise UserError(f"interface: {interface!r} has no IPv4 address on {socket.gethostname()}; use {usable}")
        return NetworkAddress(addresses[interface][0], interface)
    own = LOOPBACK if peer is None else _source_address(peer)
    if IPv4Address(own).is_loopback:
        return NetworkAddress(own, "lo")
    return NetworkAddress(own, next(name for name, found in addresses.items() if own in found))


def _ipv4_addresses() -> dict[str, list[str]]:
    """Return the IPv4 addresses of each network interface, by its name."""
    return {
        name: [entry.address for entry in entries if entry.family == socket.AF_INET]
        for name, entries in psutil.net_if_addrs().items()
    }


def _source_address(peer: str) -> str:
    """Return the address from which packets to a peer are sent. Raises `UserError` if there is no route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, ANY_PORT))  # sends nothing: the kernel only looks up the route
        except OSError as error:
            raise UserError(
                f"interface: there is no route from {socket.gethostname()} to {peer} ({error}); "
                "name the interface that leads to the other nodes"
            ) from error
        return str(probe.getsockname()[0])
