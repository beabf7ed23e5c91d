"""The samples of a run: the files that hold them, and the metrics that summarise them.

    telemetry-<attempt>.jsonl    samples of one attempt, appended as they are taken
    telemetry.parquet            samples of all attempts, written when one ends

Each sample is one row per device, which is `host` or a GPU's UUID; a missing reading is null.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reproduce import schema
from reproduce.atomic import replacing

if TYPE_CHECKING:
    import pyarrow as pa

HOST = "host"
"""The device whose readings are the host's."""
READINGS = (
    *("cpu_percent", "memory_gib", "rss_gib"),
    *("busy_percent", "power_w", "energy_j", "sm_clock_mhz", "temperature_c", "throttle_reasons"),
    *("processes", "share"),
)
"""Columns of a sample beside its time `t`, its attempt and its device."""
SHARED_FROM = 1.05
"""A device on which more processes than this compute on average is shared. Above 1, since one may be just ending."""


def attempt_file(folder: Path, attempt: int) -> Path:
    """The file to which the samples of an attempt are appended."""
    return folder / f"telemetry-{attempt}.jsonl"


def aggregates(folder: Path) -> dict[str, float]:
    """Summarise a run's telemetry as metrics of `reproduce.schema`; what was never read is absent.

    Energy is the difference between the first and the last counter value, summed over attempts and devices; energy
    spent while no attempt was sampling is not included. If the run shared its devices, their metrics have names of
    their own (`schema.shared`), since they describe the devices and not the run, and energy is absent.
    """
    return aggregate(read_samples(folder))


def read_samples(folder: Path) -> pa.Table:
    """Read the samples of all attempts: columns t, attempt, device and `READINGS`."""
    import pyarrow as pa
    from pyarrow import json

    columns = pa.schema(
        [("t", pa.float64()), ("attempt", pa.int64()), ("device", pa.string())]
        + [(name, pa.float64()) for name in READINGS]
    )
    options = json.ParseOptions(explicit_schema=columns, unexpected_field_behavior="ignore")
    tables = [columns.empty_table()]
    for path in sorted(folder.glob("telemetry-*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2])):
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]  # a crash may have torn the last line
        if complete:
            tables.append(json.read_json(pa.BufferReader(complete), parse_options=options))
    return pa.concat_tables(tables)


def write_samples(folder: Path, table: pa.Table) -> None:
    """Write `telemetry.parquet`."""
    import pyarrow.parquet as pq

    with replacing(folder / schema.ARTIFACT_TELEMETRY) as file:
        pq.write_table(table, file, compression="zstd")


def aggregate(table: pa.Table) -> dict[str, float]:
    """Summarise samples, as `aggregates` describes."""
    import pyarrow.compute as pc

    host = table.filter(pc.equal(table["device"], HOST))
    gpus = table.filter(pc.not_equal(table["device"], HOST))
    counters = gpus.group_by(["attempt", "device"]).aggregate([("energy_j", "min"), ("energy_j", "max")])
    host_metrics = {
        schema.HOST_CPU_PERCENT: pc.mean(host["cpu_percent"]),
        schema.HOST_MEMORY_GIB: pc.max(host["memory_gib"]),
    }
    gpu_metrics = {
        schema.GPU_BUSY_PERCENT: pc.mean(gpus["busy_percent"]),
        schema.GPU_MEMORY_GIB: pc.max(gpus["memory_gib"]),
        schema.GPU_POWER_W: pc.mean(gpus["power_w"]),
        schema.GPU_SM_CLOCK_MHZ: pc.mean(gpus["sm_clock_mhz"]),
        schema.GPU_TEMPERATURE_C: pc.max(gpus["temperature_c"]),
    }
    processes = pc.mean(gpus["processes"])
    share = pc.min(gpus["share"]).as_py()
    if (share is not None and share < 1) or (processes.is_valid and processes.as_py() > SHARED_FROM):
        gpu_metrics = {schema.shared(name): value for name, value in gpu_metrics.items()}
    else:
        gpu_metrics[schema.GPU_ENERGY_J] = pc.sum(pc.subtract(counters["energy_j_max"], counters["energy_j_min"]))
    metrics = {**host_metrics, **gpu_metrics, schema.GPU_PROCESSES: processes}
    return {name: float(value.as_py()) for name, value in metrics.items() if value.is_valid}
