"""The address at which a node is reached."""

from __future__ import annotations

import pytest

from reproduce.errors import UserError
from slurm.job.node.network import NetworkAddress, find_address


def test_a_job_of_one_node_uses_loopback() -> None:
    assert find_address(None) == NetworkAddress("127.0.0.1", "lo")


def test_the_address_is_that_of_the_route_to_the_peer() -> None:
    assert find_address("127.0.0.1") == NetworkAddress("127.0.0.1", "lo")


def test_a_named_interface_is_used_whatever_the_peer() -> None:
    assert find_address(None, "lo") == NetworkAddress("127.0.0.1", "lo")


def test_an_unknown_interface_is_answered_with_the_usable_ones() -> None:
    with pytest.raises(UserError, match=r"interface: 'ib9' has no IPv4 address on .*; use .*lo"):
        find_address(None, "ib9")


def test_a_peer_without_a_route_is_named() -> None:
    with pytest.raises(UserError, match=r"interface: there is no route from .* to no-such-host\.invalid"):
        find_address("no-such-host.invalid")
