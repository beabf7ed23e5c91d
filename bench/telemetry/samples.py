"""Reads and writes the files of a run's telemetry samples, and summarises them as metrics.

    telemetry-<attempt>.jsonl    samples of one attempt, appended as they are taken
    telemetry.parquet            samples of all attempts, written when one ends

A sample consists of one row for each device. The device is `host` or a GPU's UUID, and a missing reading is null.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce import schema
from reproduce.files.atomic import replacing

if TYPE_CHECKING:
    import pyarrow as pa

HOST = "host"
"""The name of the device in rows with readings of the host."""
READINGS = (
    *("cpu_percent", "memory_gib", "rss_gib"),
    *("busy_percent", "power_w", "energy_j", "sm_clock_mhz", "temperature_c", "throttle_reasons"),
    *("processes", "share"),
)
"""Columns of the samples besides the time `t`, the attempt and the device."""
SHARED_FROM = 1.05
"""Average number of computing processes per GPU above which a run counts as sharing its GPUs.

It is slightly above 1, because a process that is just ending may still be counted."""


def attempt_file(folder: Path, attempt: int) -> Path:
    """Return the path of the file to which the samples of an attempt are appended."""
    return folder / f"telemetry-{attempt}.jsonl"


def aggregates(folder: Path) -> dict[str, float]:
    """Summarise the telemetry of all attempts at a run.

    Args:
        folder: The run's folder.

    Returns:
        The metrics by their names in `reproduce.schema`, which contain the units. CPU use, GPU use, power, clock and
        number of processes are means over all samples; memory and temperature are maxima. A metric without any reading
        is absent. Energy is the difference between the largest and the smallest value of the counter, summed over
        attempts and GPUs; energy spent while no attempt was sampling is not included.

        If the run shared its GPUs, the GPU metrics have the names that `schema.shared` gives, because they describe the
        GPUs rather than the run, and energy is absent.
    """
    return aggregate(read_samples(folder))


def read_samples(folder: Path) -> pa.Table:
    """Read the samples of all attempts at a run.

    Args:
        folder: The run's folder.

    Returns:
        A table with one row for each sample and device, in the order of the attempts. Its columns are t (seconds since
        1970), attempt, device and `READINGS`. It has no rows if there are no samples.
    """
    import pyarrow as pa
    from pyarrow import json as arrow_json

    columns = pa.schema(
        [("t", pa.float64()), ("attempt", pa.int64()), ("device", pa.string())]
        + [(name, pa.float64()) for name in READINGS]
    )
    options = arrow_json.ParseOptions(explicit_schema=columns, unexpected_field_behavior="ignore")
    tables = [columns.empty_table()]
    for path in sorted(folder.glob("telemetry-*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2])):
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]  # a crash may have torn the last line
        try:
            if complete:
                tables.append(arrow_json.read_json(pa.BufferReader(complete), parse_options=options))
        except pa.ArrowInvalid:  # a full disk or damage has torn others, too
            rows = list(_intact_rows(complete))
            tables.append(pa.Table.from_pylist(rows, schema=columns))
    return pa.concat_tables(tables)


def _intact_rows(content: bytes) -> Iterator[dict[str, Any]]:
    """The rows of those lines that are samples: JSON objects with a time, an attempt and a device."""
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.keys() >= {"t", "attempt", "device"}:
            yield row


def write_samples(folder: Path, table: pa.Table) -> None:
    """Write a table of samples to `telemetry.parquet` in the run's folder, replacing the file."""
    import pyarrow.parquet as pq

    with replacing(folder / schema.ARTIFACT_TELEMETRY) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def aggregate(table: pa.Table) -> dict[str, float]:
    """Summarise a table that `read_samples` returned; the result is that of `aggregates`."""
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
