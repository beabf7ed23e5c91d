"""What nvidia-smi prints, read."""

from __future__ import annotations

import pytest

from bench.suites.gpu.part import Check, Message, Note, Report
from bench.suites.gpu.parts.nvidia_smi import COLUMNS, compare, parse

H200 = "GPU-1f0f4b8e-2a7c-5d3e-9b61-0c8d7e6f5a43, 99, 2331, 512.62, 1980, 51\n"
T4 = "GPU-8c1d2e3f-0000-1111-2222-333344445555, [N/A], 4096, [Not Supported], 1590, [Unknown Error]\n"


def test_a_line_a_device_with_memory_in_gib() -> None:
    assert parse(H200) == {
        "GPU-1f0f4b8e-2a7c-5d3e-9b61-0c8d7e6f5a43": {
            "busy_percent": 99,
            "memory_gib": 2331 / 1024,
            "power_w": 512.62,
            "sm_clock_mhz": 1980,
            "temperature_c": 51,
        }
    }


def test_what_a_device_does_not_tell_is_left_out() -> None:
    found = parse(H200 + T4)
    assert len(found) == 2
    assert found["GPU-8c1d2e3f-0000-1111-2222-333344445555"] == {"memory_gib": 4, "sm_clock_mhz": 1590}


def test_an_error_message_is_no_reading() -> None:
    with pytest.raises(ValueError, match="nvidia-smi: 'No devices were found' is no line of uuid"):
        parse("No devices were found\n")


def test_readings_may_differ_as_far_as_two_moments_do() -> None:
    told: list[Message] = []
    (theirs,) = parse(H200).values()
    compare({**theirs, "power_w": 480.0, "temperature_c": 60.0, "energy_j": 1.0}, theirs, Report(told.append))
    missed = [one.what for one in told if isinstance(one, Check) and not one.passed]
    assert missed == ["difference, temperature_c"]
    assert not any(isinstance(one, Note) for one in told)


def test_what_only_one_of_them_tells_is_named() -> None:
    told: list[Message] = []
    compare({"power_w": 70.0}, {"memory_gib": 4.0}, Report(told.append))
    assert told[-1] == Note(text=f"not told by both: {', '.join(COLUMNS)}")
