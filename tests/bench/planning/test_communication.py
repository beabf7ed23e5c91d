"""The model of communication against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from bench.planning.communication import AllReduceTiming, Link, all_reduce_seconds, fit_link, step_seconds

LINK = Link(latency_s=1e-4, bytes_per_s=1e9)


def test_a_ring_all_reduce_sends_everything_twice_and_a_single_rank_sends_nothing() -> None:
    assert all_reduce_seconds(LINK, ranks=1, bytes=10**9) == 0
    assert all_reduce_seconds(LINK, ranks=2, bytes=10**9) == pytest.approx(2e-4 + 1)
    assert all_reduce_seconds(LINK, ranks=4, bytes=10**9) == pytest.approx(6e-4 + 1.5)


def test_a_fit_finds_the_link_that_the_timings_come_from() -> None:
    timings = [
        AllReduceTiming(ranks, size, all_reduce_seconds(LINK, ranks=ranks, bytes=size))
        for ranks in (2, 4)
        for size in (4096, 10**6, 10**8)
    ]
    found = fit_link(timings)
    assert found.latency_s == pytest.approx(LINK.latency_s)
    assert found.bytes_per_s == pytest.approx(LINK.bytes_per_s)


def test_a_fitted_latency_is_never_negative() -> None:
    found = fit_link([AllReduceTiming(2, 10**6, 0.0005), AllReduceTiming(2, 10**8, 0.1)])
    assert found.latency_s == 0
    assert 1e8 < found.bytes_per_s < 1e10


def test_a_fitted_bandwidth_is_never_negative() -> None:
    found = fit_link([AllReduceTiming(2, 4096, 0.002), AllReduceTiming(2, 10**6, 0.001)])
    assert found.latency_s == pytest.approx(0.0006, rel=0.2)
    assert found.bytes_per_s == math.inf
    assert all_reduce_seconds(found, ranks=2, bytes=10**9) == pytest.approx(2 * found.latency_s)


def test_a_step_lasts_longer_by_what_the_backward_pass_does_not_hide() -> None:
    parameters = 25 * 10**7  # whose gradients take two ranks one second
    given = {"alone_s": 0.9, "ranks": 2, "parameters": parameters}
    assert step_seconds(LINK, **given, overlap=0.0) == pytest.approx(0.9 + 1.0002)
    assert step_seconds(LINK, **given, overlap=1.0) == pytest.approx(0.9 + 1.0002 - 0.6)
    assert step_seconds(LINK, alone_s=3.0, ranks=2, parameters=parameters, overlap=1.0) == 3.0
