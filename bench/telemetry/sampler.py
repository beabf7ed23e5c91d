"""A thread that samples host and devices while a run trains.

Samples are appended to `telemetry-<attempt>.jsonl` as they come, so that a killed attempt keeps its own, and all
attempts' are written to `telemetry.parquet` at the end: one row a sample and device (`host` or a GPU's UUID), a
missing reading is null.
"""

from __future__ import annotations

import importlib
import json
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.machine.nvml import Nvml, NvmlAbsent
from bench.records.record import write_parquet
from bench.telemetry.host import Host
from reproduce import schema

HOST = "host"
READINGS = (
    *("cpu_percent", "memory_gib", "rss_gib"),
    *("busy_percent", "power_w", "energy_j", "sm_clock_mhz", "temperature_c", "throttle_reasons"),
    *("processes", "share"),
)
SHARED_FROM = 1.05
"""Mean number of processes on a device above which it counts as shared; one that is just ending does not count."""

log = logging.getLogger(__name__)


class Sampler:
    """Samples from `start` to `stop`; one failed poll is counted and logged, and never ends the thread.

    devices: the GPUs of the run on this host, as `Nvml.select` takes them. share: of each that the run may use.
    elsewhere: how many more the run has on other hosts. What of them is not sampled is told in `gpu_absent`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        attempt: int,
        devices: Sequence[str] = (),
        share: float = 1.0,
        elsewhere: int = 0,
        rate_hz: float = 1.0,
    ) -> None:
        self.folder = folder
        self.samples = 0
        self.failed_polls = 0
        self.gpu_absent: str | None = None
        self._attempt = attempt
        self._period_s = 1.0 / rate_hz
        self._host = Host()
        self._share = share
        self._nvml: Nvml | None = None
        self._uuids: tuple[str, ...] = ()
        if not devices:
            self.gpu_absent = schema.NO_GPU_USED
        else:
            try:
                self._nvml = Nvml()
                selection = self._nvml.select(devices)
                self._uuids = selection.uuids
                silent = [uuid for uuid in self._uuids if not self._nvml.tells_use(uuid)]
                reasons = [*selection.missing, *(f"NVML does not tell how busy {uuid} is" for uuid in silent)]
            except NvmlAbsent as absent:
                reasons = [str(absent)]
            if elsewhere:
                reasons.append(f"{elsewhere} GPUs on other hosts are not sampled")
            self.gpu_absent = "; ".join(reasons) or None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="telemetry", daemon=True)

    def start(self) -> Sampler:
        self._thread.start()
        return self

    def stop(self) -> dict[str, float]:
        """Take a last sample, write `telemetry.parquet`; the aggregates of all attempts (see `aggregates`)."""
        self._stopping.set()
        self._thread.join()
        table = _table(self.folder)
        write_parquet(self.folder / schema.ARTIFACT_TELEMETRY, table)
        return _aggregates(table)

    def summary(self) -> dict[str, Any]:
        """What a reader needs to judge the samples: their count, failed polls, and what is not told of which GPU."""
        return {
            "samples": self.samples,
            "failed_polls": self.failed_polls,
            "gpus": list(self._uuids),
            "gpu_share": self._share if self._uuids else None,
            "gpu_absent": self.gpu_absent,
        }

    def _sample(self) -> None:
        with open(self.folder / f"telemetry-{self._attempt}.jsonl", "ab", buffering=0) as file:
            due = time.monotonic()
            last = False
            while True:
                try:
                    file.write(b"".join(json.dumps(row).encode() + b"\n" for row in self._poll()))
                    self.samples += 1
                except Exception:
                    self.failed_polls += 1
                    log.warning("a telemetry poll failed", exc_info=True)
                if last:
                    return
                now = time.monotonic()
                due = max(due + self._period_s, now)
                last = self._stopping.wait(due - now)

    def _poll(self) -> list[dict[str, Any]]:
        base = {"t": round(time.time(), 3), "attempt": self._attempt}
        rows = [{**base, "device": HOST, **self._host.read()}]
        if self._nvml is not None:
            rows += [{**base, "device": uuid, "share": self._share, **self._nvml.read(uuid)} for uuid in self._uuids]
        return rows


def aggregates(folder: Path) -> dict[str, float]:
    """A run's telemetry as metrics of `reproduce.schema`; what was never read is absent.

    Energy sums, over attempts and devices, the difference between the first and the last counter value; it does not
    hold what was spent while no attempt was sampling. Of devices that the run shared with others the metrics have names
    of their own (`schema.shared`), since they are the devices' and not the run's; energy is given to none.
    """
    return _aggregates(_table(folder))


def _table(folder: Path) -> Any:
    """All attempts' samples as an Arrow table: t, attempt, device and READINGS."""
    pa: Any = importlib.import_module("pyarrow")
    reader: Any = importlib.import_module("pyarrow.json")
    columns = pa.schema(
        [("t", pa.float64()), ("attempt", pa.int64()), ("device", pa.string())]
        + [(name, pa.float64()) for name in READINGS]
    )
    options = reader.ParseOptions(explicit_schema=columns, unexpected_field_behavior="ignore")
    tables = [columns.empty_table()]
    for part in sorted(folder.glob("telemetry-*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2])):
        content = part.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # a crash may have torn the last line
        if whole:
            tables.append(reader.read_json(pa.BufferReader(whole), parse_options=options))
    return pa.concat_tables(tables)


def _aggregates(table: Any) -> dict[str, float]:
    compute: Any = importlib.import_module("pyarrow.compute")
    host = table.filter(compute.equal(table["device"], HOST))
    gpus = table.filter(compute.not_equal(table["device"], HOST))
    counters = gpus.group_by(["attempt", "device"]).aggregate([("energy_j", "min"), ("energy_j", "max")])
    spent = compute.subtract(counters["energy_j_max"], counters["energy_j_min"])
    of_host = {
        schema.HOST_CPU_PERCENT: compute.mean(host["cpu_percent"]),
        schema.HOST_MEMORY_GIB: compute.max(host["memory_gib"]),
    }
    of_gpus = {
        schema.GPU_BUSY_PERCENT: compute.mean(gpus["busy_percent"]),
        schema.GPU_MEMORY_GIB: compute.max(gpus["memory_gib"]),
        schema.GPU_POWER_W: compute.mean(gpus["power_w"]),
        schema.GPU_SM_CLOCK_MHZ: compute.mean(gpus["sm_clock_mhz"]),
        schema.GPU_TEMPERATURE_C: compute.max(gpus["temperature_c"]),
    }
    processes = compute.mean(gpus["processes"])
    share = compute.min(gpus["share"]).as_py()
    if (share is not None and share < 1) or (processes.is_valid and processes.as_py() > SHARED_FROM):
        of_gpus = {schema.shared(name): value for name, value in of_gpus.items()}
    else:
        of_gpus[schema.GPU_ENERGY_J] = compute.sum(spent)
    found = {**of_host, **of_gpus, schema.GPU_PROCESSES: processes}
    return {name: float(value.as_py()) for name, value in found.items() if value.is_valid}
