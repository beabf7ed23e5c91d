"""Samplers: the host is always read; a GPU's readings are there, or absent, never zero.

NVML is tested with a double that calls itself FAKE (nvml_double.c): it proves the sampler's logic, not a GPU's numbers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.machine.environment import environment
from bench.telemetry import Sampler, aggregates
from reproduce import schema

SAMPLE = """
import json, sys, time
from pathlib import Path
from typing import Any
from bench.machine.environment import environment
from bench.telemetry import Sampler
sampler = Sampler(Path(sys.argv[1]), attempt=1, rate_hz=50, **json.loads(sys.argv[2])).start()
while sampler.samples < 4:
    time.sleep(0.01)
print(json.dumps([sampler.stop(), sampler.summary(), environment()["gpus"]]))
"""


FIRST, SECOND = "GPU-fa0e0000-0000-0000-0000-000000000000", "GPU-fa1e0000-0000-0000-0000-000000000000"
MIG = "MIG-fa6e0000-0000-0000-0000-000000000000"


def answer_of(script: str, *arguments: str, library: Path, **environment: str) -> Any:
    """What a script prints in a process of its own, which has the double of NVML."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "LD_LIBRARY_PATH": str(library), **environment},
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    return json.loads(done.stdout)


def sample(library: Path, folder: Path, devices: list[str], processes: str = "1", **arguments: Any) -> Any:
    """Aggregates, summary and the environment's GPUs of a sampler."""
    asked = json.dumps({"devices": devices, **arguments})
    return answer_of(SAMPLE, str(folder), asked, library=library, FAKE_NVML_PROCESSES=processes)


def test_a_gpus_readings_are_kept_by_uuid(nvml_double: Path, tmp_path: Path) -> None:
    metrics, summary, gpus = sample(nvml_double, tmp_path, ["0", "fa1e"])
    assert metrics[schema.GPU_BUSY_PERCENT] == 80
    assert metrics[schema.GPU_MEMORY_GIB] == 2
    assert metrics[schema.GPU_POWER_W] == 250
    assert metrics[schema.GPU_SM_CLOCK_MHZ] == 1401
    assert metrics[schema.GPU_TEMPERATURE_C] == 61
    assert metrics[schema.GPU_PROCESSES] == 1
    assert metrics[schema.GPU_ENERGY_J] == 2 * 10 * (summary["samples"] - 1)  # the counter is of both
    assert summary["gpu_absent"] is None
    assert summary["gpus"] == [gpu["uuid"] for gpu in gpus] == [FIRST, SECOND]
    frame = pd.read_parquet(tmp_path / "telemetry.parquet").set_index("device")
    assert set(frame.index) == {"host", FIRST, SECOND}


def test_what_nvml_does_not_tell_is_absent_and_said(nvml_double: Path, tmp_path: Path) -> None:
    metrics, summary, _ = sample(nvml_double, tmp_path, [MIG])
    row = pd.read_parquet(tmp_path / "telemetry.parquet").set_index("device").loc[MIG]
    assert (row["memory_gib"] == 2).all()
    assert row[["busy_percent", "power_w", "energy_j", "temperature_c", "processes"]].isna().all(axis=None)
    assert not {schema.GPU_BUSY_PERCENT, schema.GPU_ENERGY_J} & set(metrics)
    assert summary["gpu_absent"] == f"NVML does not tell how busy {MIG} is"


UNEQUAL = {"FAKE_NVML_NAMES": "FAKE A,FAKE B"}
SELECTIONS: list[tuple[list[str], dict[str, str], list[str], str]] = [
    (["0", "1"], {}, [FIRST, SECOND], ""),
    (["1"], {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, [SECOND], ""),  # the devices are equal
    (["1"], {**UNEQUAL, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [SECOND], ""),
    (["1"], UNEQUAL, [], "which device CUDA calls 1 is not known to NVML, since devices differ and CUDA_DEVICE_ORDER"),
    ([SECOND], UNEQUAL, [SECOND], ""),
    (["GPU-fa1"], {}, [SECOND], ""),
    ([SECOND.removeprefix("GPU-")], {}, [SECOND], ""),  # as torch tells it
    (["GPU-fa"], {}, [], f"NVML does not know device GPU-fa; it has {FIRST}, {SECOND}"),  # which of both?
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
def selections(nvml_double: Path) -> list[tuple[list[str], list[str]]]:
    asked = json.dumps([(devices, environment) for devices, environment, _, _ in SELECTIONS])
    return list(answer_of(SELECT, asked, library=nvml_double))


@pytest.mark.parametrize("index", range(len(SELECTIONS)))
def test_a_device_is_found_by_any_name_that_cuda_takes_and_one_that_is_not_is_said(
    selections: list[tuple[list[str], list[str]]], index: int
) -> None:
    _, _, expected, said = SELECTIONS[index]
    uuids, missing = selections[index]
    assert uuids == expected
    assert len(missing) == bool(said)
    assert not said or missing[0].startswith(said)


def test_gpus_of_other_hosts_are_said_to_be_missing(nvml_double: Path, tmp_path: Path) -> None:
    _, summary, _ = sample(nvml_double, tmp_path, ["0"], elsewhere=4)
    assert summary["gpu_absent"] == "4 GPUs on other hosts are not sampled"


@pytest.mark.parametrize(
    ("share", "processes", "shared"), [(1.0, "1", False), (0.25, "1", True), (1.0, "3", True)], ids=str
)
def test_a_shared_devices_readings_are_not_told_as_the_runs_own(
    nvml_double: Path, tmp_path: Path, share: float, processes: str, shared: bool
) -> None:
    metrics, summary, _ = sample(nvml_double, tmp_path, ["0"], processes, share=share)
    assert (schema.GPU_BUSY_PERCENT in metrics) is (schema.GPU_ENERGY_J in metrics) is not shared
    assert (metrics.get(schema.SHARED_GPU_BUSY_PERCENT) == 80) is shared
    assert metrics[schema.GPU_PROCESSES] == float(processes)
    assert summary["gpu_share"] == share


def test_no_nvml_is_a_reason_and_no_number(tmp_path: Path) -> None:
    sampler = Sampler(tmp_path, attempt=1, devices=["GPU-none"], rate_hz=50).start()
    while sampler.samples < 3:
        pass
    metrics = sampler.stop()
    gpus = [name for name in metrics if "gpu" in name]
    assert environment()["gpus"] or (not gpus and "NVML" in str(sampler.gpu_absent))
    assert 0 <= metrics[schema.HOST_CPU_PERCENT] <= 100
    assert metrics[schema.HOST_MEMORY_GIB] > 0


def test_a_failed_poll_is_counted_and_sampling_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(tmp_path, attempt=1, rate_hz=50)
    read = sampler._host.read
    calls = iter(range(1000))

    def flaky() -> dict[str, float]:
        if next(calls) < 2:
            raise OSError("a poll that fails")
        return read()

    monkeypatch.setattr(sampler._host, "read", flaky)
    sampler.start()
    while sampler.samples < 2:
        pass
    sampler.stop()
    assert sampler.summary()["failed_polls"] == 2
    assert len(pd.read_parquet(tmp_path / "telemetry.parquet")) == sampler.samples


def test_a_killed_attempts_samples_count(tmp_path: Path) -> None:
    rows = [{"t": 1.0, "attempt": 1, "device": "GPU-a", "energy_j": joules} for joules in (10.0, 40.0)]
    (tmp_path / "telemetry-1.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"t": 2.0, "att', encoding="utf-8"
    )
    rows = [{"t": 9.0, "attempt": 2, "device": "GPU-a", "energy_j": joules} for joules in (100.0, 107.0)]
    (tmp_path / "telemetry-2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert aggregates(tmp_path) == {schema.GPU_ENERGY_J: 37.0}


def test_the_environment_names_machine_and_packages() -> None:
    found = environment()
    assert found["machine"]["cores"] == os.cpu_count()
    assert "torch" in found["packages"]
    assert found["gpus"] or found["gpu_absent"]
