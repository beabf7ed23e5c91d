"""Parsing what nvidia-smi prints, and comparing it with NVML."""

from __future__ import annotations

import pytest

from bench.suites.gpu.probe import BoundCheck, Message, Note, Reporter
from bench.suites.gpu.probes.nvidia_smi import COLUMNS, compare, parse
from bench.suites.harness.errors import MeasurementError

H200 = "GPU-1f0f4b8e-2a7c-5d3e-9b61-0c8d7e6f5a43, 99, 2331, 512.62, 1980, 51\n"
T4 = "GPU-8c1d2e3f-0000-1111-2222-333344445555, [N/A], 4096, [Not Supported], 1590, [Unknown Error]\n"


def test_each_line_is_a_device_with_its_memory_in_gib() -> None:
    assert parse(H200) == {
        "GPU-1f0f4b8e-2a7c-5d3e-9b61-0c8d7e6f5a43": {
            "busy_percent": 99,
            "memory_gib": 2331 / 1024,
            "power_w": 512.62,
            "sm_clock_mhz": 1980,
            "temperature_c": 51,
        }
    }


def test_readings_that_a_device_does_not_have_are_left_out() -> None:
    found = parse(H200 + T4)
    assert len(found) == 2
    assert found["GPU-8c1d2e3f-0000-1111-2222-333344445555"] == {"memory_gib": 4, "sm_clock_mhz": 1590}


def test_an_error_message_is_not_taken_for_a_reading() -> None:
    with pytest.raises(MeasurementError, match="nvidia-smi: 'No devices were found' is not a line of uuid"):
        parse("No devices were found\n")


def test_readings_may_differ_within_their_tolerance() -> None:
    messages: list[Message] = []
    (theirs,) = parse(H200).values()
    compare({**theirs, "power_w": 480.0, "temperature_c": 60.0, "energy_j": 1.0}, theirs, Reporter(messages.append))
    missed = [one.what for one in messages if isinstance(one, BoundCheck) and not one.passed]
    assert missed == ["difference, temperature_c"]
    assert not any(isinstance(one, Note) for one in messages)


def test_readings_that_only_one_of_them_has_are_named() -> None:
    messages: list[Message] = []
    compare({"power_w": 70.0}, {"memory_gib": 4.0}, Reporter(messages.append))
    assert messages[-1] == Note(text=f"not reported by both: {', '.join(COLUMNS)}")
