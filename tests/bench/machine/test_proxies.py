"""What is reached without a proxy."""

from __future__ import annotations

import socket
import urllib.request

import pytest
import requests

from bench.machine.proxies import except_this_machine

PROXY = "http://proxy.example.org:3128"


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"])
def test_clients_reach_this_machine_directly_and_others_through_the_proxy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, PROXY)
    monkeypatch.setenv("NO_PROXY", "intranet.example.org")
    except_this_machine()
    scheme = "https" if "https" in name.lower() else "http"
    for host in ("127.0.0.1", "localhost", socket.gethostname(), "intranet.example.org"):
        assert urllib.request.proxy_bypass(host), host
        assert requests.utils.get_environ_proxies(f"{scheme}://{host}:5000") == {}, host
    assert not urllib.request.proxy_bypass("server.example.org")
    assert PROXY in requests.utils.get_environ_proxies(f"{scheme}://server.example.org").values()


@pytest.mark.parametrize("given", [{}, {"http_proxy": PROXY, "no_proxy": "*"}])
def test_an_environment_that_needs_no_exception_stays_as_it_is(given: dict[str, str]) -> None:
    environment = dict(given)
    except_this_machine(environment)
    assert environment == given
