"""The thread that samples host and GPUs while a run trains."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.machine.nvml import Nvml, NvmlUnavailableError
from bench.telemetry.host import HostReader
from bench.telemetry.samples import HOST, aggregate, attempt_file, read_samples, write_samples
from reproduce import schema

log = logging.getLogger(__name__)


class Sampler:
    """Samples host and GPUs from `start` to `stop`.

    A poll that fails is counted and logged; it never ends the thread. `gpu_absent` says which readings of the run's
    GPUs are missing and why; it is None if none are.

    Args:
        folder: the run's folder.
        attempt: number of the attempt, from 1.
        devices: the run's GPUs on this host, as `Nvml.select` takes them.
        share: share of each GPU that the run may use, at most 1.
        elsewhere: number of the run's GPUs on other hosts.
        rate_hz: samples per second.
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
        self._host = HostReader()
        self._share = share
        self._nvml: Nvml | None = None
        self._uuids: tuple[str, ...] = ()
        if not devices:
            self.gpu_absent = schema.NO_GPU_USED
        else:
            reasons = self._select(devices)
            if elsewhere:
                reasons.append(f"{elsewhere} GPUs on other hosts are not sampled")
            self.gpu_absent = "; ".join(reasons) or None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="telemetry", daemon=True)

    def start(self) -> Sampler:
        """Start the thread."""
        self._thread.start()
        return self

    def stop(self) -> dict[str, float]:
        """Take a last sample, write `telemetry.parquet` and return the metrics of all attempts; see `aggregates`."""
        self._stopping.set()
        self._thread.join()
        table = read_samples(self.folder)
        write_samples(self.folder, table)
        return aggregate(table)

    def summary(self) -> dict[str, Any]:
        """What a reader needs to judge the samples: how many there are, failed polls, and which GPUs are covered."""
        return {
            "samples": self.samples,
            "failed_polls": self.failed_polls,
            "gpus": list(self._uuids),
            "gpu_share": self._share if self._uuids else None,
            "gpu_absent": self.gpu_absent,
        }

    def _select(self, devices: Sequence[str]) -> list[str]:
        """Select the devices to sample; returns a sentence on each that cannot be sampled in full."""
        try:
            self._nvml = Nvml()
        except NvmlUnavailableError as error:
            return [str(error)]
        selection = self._nvml.select(devices)
        self._uuids = selection.uuids
        silent = [uuid for uuid in self._uuids if not self._nvml.reports_utilization(uuid)]
        return [*selection.missing, *(f"NVML does not tell how busy {uuid} is" for uuid in silent)]

    def _sample(self) -> None:
        with open(attempt_file(self.folder, self._attempt), "ab", buffering=0) as file:
            due = time.monotonic()
            last = False
            while True:
                try:
                    file.write(b"".join(json.dumps(row).encode() + b"\n" for row in self._poll()))
                    self.samples += 1
                except Exception:  # whatever a poll raises, training goes on
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
