"""Samplers: the host is always read; a GPU's readings are there, or absent, never zero.

NVML is tested with a library of our own that says so in its device's name: it proves the sampler's logic, not a
GPU's numbers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench.environment import environment
from bench.telemetry import Sampler, aggregates
from bench.telemetry.nvml import visible_devices
from reproduce import schema

# Two devices; the second supports nothing but its memory. The counters move with every call.
FAKE_NVML = r"""
#include <stdio.h>
#include <string.h>
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Utilization;
static int devices[2] = {0, 1};
static unsigned long long energy = 1000000;
enum { OK = 0, NOT_SUPPORTED = 3 };
#define FIRST_ONLY(d) if (*(int *)(d) != 0) return NOT_SUPPORTED
int nvmlInitWithFlags(unsigned int flags) { return OK; }
int nvmlSystemGetDriverVersion(char *text, unsigned int n) { strncpy(text, "FAKE 1.0", n); return OK; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) { *device = &devices[index]; return OK; }
int nvmlDeviceGetUUID(void *d, char *text, unsigned int n) { snprintf(text, n, "GPU-fake-%d", *(int *)d); return OK; }
int nvmlDeviceGetName(void *d, char *text, unsigned int n) { strncpy(text, "FAKE device", n); return OK; }
int nvmlDeviceGetMemoryInfo(void *d, Memory *m) { m->used = 2ULL << 30; return OK; }
int nvmlDeviceGetUtilizationRates(void *d, Utilization *u) { FIRST_ONLY(d); u->gpu = 80; return OK; }
int nvmlDeviceGetPowerUsage(void *d, unsigned int *mw) { FIRST_ONLY(d); *mw = 250000; return OK; }
int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *mj) {
    FIRST_ONLY(d); *mj = energy; energy += 5000; return OK; }
int nvmlDeviceGetClockInfo(void *d, int type, unsigned int *mhz) { FIRST_ONLY(d); *mhz = 1400 + type; return OK; }
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned int *c) { FIRST_ONLY(d); *c = 61; return OK; }
"""

SAMPLE = """
import json, sys, time
from pathlib import Path
from bench.environment import environment
from bench.telemetry import Sampler
sampler = Sampler(Path(sys.argv[1]), attempt=1, devices=json.loads(sys.argv[2]), rate_hz=50).start()
while sampler.samples < 4:
    time.sleep(0.01)
print(json.dumps([sampler.stop(), sampler.summary(), environment()["gpus"]]))
"""


@pytest.fixture(scope="module")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc to build the NVML double")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "fake.c").write_text(FAKE_NVML)
    subprocess.run(
        ["gcc", "-w", "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(folder / "fake.c")], check=True
    )
    return folder


def sample(library: Path, folder: Path, devices: list[str | int]) -> list[dict[str, float]]:
    done = subprocess.run(
        [sys.executable, "-c", SAMPLE, str(folder), json.dumps(devices)],
        env={**os.environ, "LD_LIBRARY_PATH": str(library)},
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(done.stdout))


def test_a_gpus_readings_are_kept_by_uuid_and_what_it_lacks_is_absent(fake_nvml: Path, tmp_path: Path) -> None:
    metrics, summary, gpus = sample(fake_nvml, tmp_path, [0, "fake-1", "GPU-elsewhere"])
    assert metrics[schema.GPU_BUSY_PERCENT] == 80
    assert metrics[schema.GPU_MEMORY_GIB] == 2
    assert metrics[schema.GPU_POWER_W] == 250
    assert metrics[schema.GPU_SM_CLOCK_MHZ] == 1401
    assert metrics[schema.GPU_TEMPERATURE_C] == 61
    assert metrics[schema.GPU_ENERGY_J] == 5 * (summary["samples"] - 1)
    assert summary["gpu_absent"] is None
    assert [gpu["uuid"] for gpu in gpus] == ["GPU-fake-0", "GPU-fake-1"]  # type: ignore[index]
    frame = pd.read_parquet(tmp_path / "telemetry.parquet").set_index("device")
    assert set(frame.index) == {"host", "GPU-fake-0", "GPU-fake-1"}
    poor = frame.loc["GPU-fake-1"]
    assert (poor["memory_gib"] == 2).all()
    assert poor[["busy_percent", "power_w", "energy_j", "throttle_reasons"]].isna().all(axis=None)


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
    (tmp_path / "telemetry-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"t": 2.0, "att')
    rows = [{"t": 9.0, "attempt": 2, "device": "GPU-a", "energy_j": joules} for joules in (100.0, 107.0)]
    (tmp_path / "telemetry-2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert aggregates(tmp_path) == {schema.GPU_ENERGY_J: 37.0}


def test_visible_devices_are_indices_or_uuids() -> None:
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "2, GPU-ab"}) == [2, "GPU-ab"]
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    assert visible_devices({}) == []


def test_the_environment_names_machine_and_packages() -> None:
    found = environment()
    assert found["machine"]["cores"] == os.cpu_count()
    assert "torch" in found["packages"]
    assert found["gpus"] or found["gpu_absent"]
