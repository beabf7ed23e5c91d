"""Devices found by name, with a double of NVML that calls itself FAKE (nvml_double.c)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

FIRST, SECOND = "GPU-fa0e0000-0000-0000-0000-000000000000", "GPU-fa1e0000-0000-0000-0000-000000000000"
MIG = "MIG-fa6e0000-0000-0000-0000-000000000000"

UNEQUAL = {"FAKE_NVML_NAMES": "FAKE A,FAKE B"}
SELECTIONS: list[tuple[list[str], dict[str, str], list[str], str]] = [
    (["0", "1"], {}, [FIRST, SECOND], ""),
    (["1"], {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, [SECOND], ""),  # the devices are equal
    (["1"], {**UNEQUAL, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [SECOND], ""),
    (
        ["1"],
        UNEQUAL,
        [],
        "NVML cannot tell which device CUDA calls 1, because the devices differ and CUDA_DEVICE_ORDER",
    ),
    ([SECOND], UNEQUAL, [SECOND], ""),
    (["GPU-fa1"], {}, [SECOND], ""),
    ([SECOND.removeprefix("GPU-")], {}, [SECOND], ""),  # as torch names it
    (["GPU-fa"], {}, [], f"NVML does not know device GPU-fa; it has {FIRST}, {SECOND}"),  # it fits both
    (["0", "2"], {}, [FIRST], f"NVML does not know device 2; it has {FIRST}, {SECOND}"),
    ([MIG], {}, [MIG], ""),
    (["MIG-00"], {}, [], "NVML does not know MIG instance MIG-00: Not Found"),
]
SELECT = """
import json, os, sys
from bench.machine.nvml import Nvml
found = []
for devices, environment in json.loads(sys.argv[1]):
    os.environ.update({"FAKE_NVML_NAMES": "FAKE device,FAKE device", **environment})
    selection = Nvml().select(devices, environment)
    found.append([selection.uuids, selection.missing])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def selections(with_nvml_double: Callable[..., Any]) -> list[tuple[list[str], list[str]]]:
    cases = json.dumps([(devices, environment) for devices, environment, _, _ in SELECTIONS])
    return list(with_nvml_double(SELECT, cases))


@pytest.mark.parametrize("index", range(len(SELECTIONS)))
def test_a_device_is_found_by_any_name_that_cuda_takes_else_reported_as_missing(
    selections: list[tuple[list[str], list[str]]], index: int
) -> None:
    _, _, expected, sentence = SELECTIONS[index]
    uuids, missing = selections[index]
    assert uuids == expected
    assert len(missing) == bool(sentence)
    assert not sentence or missing[0].startswith(sentence)
