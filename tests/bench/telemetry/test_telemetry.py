"""The sampler: the host is always read; a GPU's readings are there or absent, never zero.

NVML is replaced by a double that calls itself FAKE (nvml_double.c), which tests the sampler's logic, not the numbers.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.machine.environment import environment
from bench.telemetry import Sampler, aggregates
from bench.telemetry.host import HostReader
from bench.telemetry.samples import read_samples
from reproduce import schema

FIRST, SECOND = "GPU-fa0e0000-0000-0000-0000-000000000000", "GPU-fa1e0000-0000-0000-0000-000000000000"
MIG = "MIG-fa6e0000-0000-0000-0000-000000000000"

WithDouble = Callable[..., Any]

SAMPLE = """
import json, sys, time
from pathlib import Path
from bench.machine.environment import environment
from bench.telemetry import Sampler
sampler = Sampler(Path(sys.argv[1]), attempt=1, rate_hz=50, **json.loads(sys.argv[2])).start()
while sampler.samples < 4:
    time.sleep(0.01)
print(json.dumps([sampler.stop(), sampler.summary(), environment()["gpus"]]))
"""


def wait_for_samples(sampler: Sampler, count: int) -> None:
    deadline = time.monotonic() + 60
    while sampler.samples < count:
        assert time.monotonic() < deadline, f"{sampler.samples} samples in 60 s"
        time.sleep(0.01)


def sample(
    with_nvml_double: WithDouble, folder: Path, devices: list[str], processes: str = "1", **arguments: Any
) -> Any:
    """Metrics and summary of a sampler, and the environment's GPUs."""
    options = json.dumps({"devices": devices, **arguments})
    return with_nvml_double(SAMPLE, str(folder), options, FAKE_NVML_PROCESSES=processes)


def test_readings_of_a_gpu_are_kept_by_uuid(with_nvml_double: WithDouble, tmp_path: Path) -> None:
    metrics, summary, gpus = sample(with_nvml_double, tmp_path, ["0", "fa1e"])
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


def test_readings_that_nvml_lacks_are_absent_and_reported(with_nvml_double: WithDouble, tmp_path: Path) -> None:
    metrics, summary, _ = sample(with_nvml_double, tmp_path, [MIG])
    row = pd.read_parquet(tmp_path / "telemetry.parquet").set_index("device").loc[MIG]
    assert (row["memory_gib"] == 2).all()
    assert row[["busy_percent", "power_w", "energy_j", "temperature_c"]].isna().all(axis=None)
    assert not {schema.GPU_BUSY_PERCENT, schema.GPU_ENERGY_J} & set(metrics)
    assert summary["gpu_absent"] == f"NVML does not tell how busy {MIG} is"


def test_gpus_of_other_hosts_are_reported_as_missing(with_nvml_double: WithDouble, tmp_path: Path) -> None:
    _, summary, _ = sample(with_nvml_double, tmp_path, ["0"], elsewhere=4)
    assert summary["gpu_absent"] == "4 GPUs on other hosts are not sampled"


@pytest.mark.parametrize(
    ("share", "processes", "shared"), [(1.0, "1", False), (0.25, "1", True), (1.0, "3", True)], ids=str
)
def test_metrics_of_a_shared_device_have_names_of_their_own(
    with_nvml_double: WithDouble, tmp_path: Path, share: float, processes: str, shared: bool
) -> None:
    metrics, summary, _ = sample(with_nvml_double, tmp_path, ["0"], processes, share=share)
    assert (schema.GPU_BUSY_PERCENT in metrics) is (schema.GPU_ENERGY_J in metrics) is not shared
    assert (metrics.get(schema.SHARED_GPU_BUSY_PERCENT) == 80) is shared
    assert metrics[schema.GPU_PROCESSES] == float(processes)
    assert summary["gpu_share"] == share


def test_without_nvml_there_is_a_reason_and_no_number(tmp_path: Path) -> None:
    sampler = Sampler(tmp_path, attempt=1, devices=["GPU-none"], rate_hz=50).start()
    wait_for_samples(sampler, 3)
    metrics = sampler.stop()
    gpus = [name for name in metrics if "gpu" in name]
    assert environment()["gpus"] or (not gpus and "NVML" in str(sampler.gpu_absent))
    assert 0 <= metrics[schema.HOST_CPU_PERCENT] <= 100
    assert metrics[schema.HOST_MEMORY_GIB] > 0


def test_a_failed_poll_is_counted_and_sampling_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = HostReader.read
    calls = itertools.count()

    def fail_twice(reader: HostReader) -> dict[str, float]:
        if next(calls) < 2:
            raise OSError("a poll that fails")
        return read(reader)

    monkeypatch.setattr(HostReader, "read", fail_twice)
    sampler = Sampler(tmp_path, attempt=1, rate_hz=50).start()
    wait_for_samples(sampler, 2)
    sampler.stop()
    assert sampler.summary()["failed_polls"] == 2
    assert len(pd.read_parquet(tmp_path / "telemetry.parquet")) == sampler.samples


def test_samples_of_a_killed_attempt_count(tmp_path: Path) -> None:
    rows = [{"t": 1.0, "attempt": 1, "device": "GPU-a", "energy_j": joules} for joules in (10.0, 40.0)]
    (tmp_path / "telemetry-1.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"t": 2.0, "att', encoding="utf-8"
    )
    rows = [{"t": 9.0, "attempt": 2, "device": "GPU-a", "energy_j": joules} for joules in (100.0, 107.0)]
    (tmp_path / "telemetry-2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert aggregates(tmp_path) == {schema.GPU_ENERGY_J: 37.0}


def test_lines_of_samples_that_a_full_disk_or_damage_has_torn_are_skipped(tmp_path: Path) -> None:
    good = b'{"t": 1.0, "attempt": 1, "device": "host", "cpu_percent": 20}\n'
    lines = [good, good[:30] + good, bytes(40) + b"\n", b"[1]\n", good]
    (tmp_path / "telemetry-1.jsonl").write_bytes(b"".join(lines))
    table = read_samples(tmp_path)
    assert table["cpu_percent"].to_pylist() == [20, 20]
