"""Samples host and GPUs in a thread while a run trains."""

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
    """Samples this host and its GPUs in a thread, from `start` to `stop`, during one attempt at a run.

    Samples are appended to `telemetry-<attempt>.jsonl` in the run's folder. A failed poll is counted and logged and
    does not end the thread. An instance cannot be started twice.

    Args:
        folder: The run's folder, which must exist.
        attempt: The number of the attempt, from 1.
        devices: The run's GPUs on this host, by names that `Nvml.select` accepts. Empty for a run on CPUs.
        share: The share of each GPU that the run may use, above 0 and at most 1.
        elsewhere: The number of the run's GPUs on other hosts, which are not sampled.
        rate_hz: Samples per second.

    Attributes:
        folder: The run's folder.
        samples: The number of samples taken so far.
        failed_polls: The number of polls that have failed so far.
        gpu_absent: Which readings of the run's GPUs are missing, and why. None if none are.
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
        """Start the thread and return this sampler."""
        self._thread.start()
        return self

    def stop(self) -> dict[str, float]:
        """Take a last sample, end the thread, and write `telemetry.parquet`.

        Call it once, after `start`. It waits for the thread.

        Returns:
            The metrics of all attempts at the run, as `bench.telemetry.samples.aggregates` returns them.
        """
        self._stopping.set()
        self._thread.join()
        table = read_samples(self.folder)
        write_samples(self.folder, table)
        return aggregate(table)

    def summary(self) -> dict[str, Any]:
        """Describe how complete the samples of this attempt are.

        Returns:
            A mapping with these keys:

            - samples, failed_polls: the number of samples taken and of polls that failed.
            - gpus: the UUIDs of the sampled GPUs.
            - gpu_share: the share of each GPU that the run may use; None if no GPU is sampled.
            - gpu_absent: which readings of the run's GPUs are missing, and why; None if none are.
        """
        return {
            "samples": self.samples,
            "failed_polls": self.failed_polls,
            "gpus": list(self._uuids),
            "gpu_share": self._share if self._uuids else None,
            "gpu_absent": self.gpu_absent,
        }

    def _select(self, devices: Sequence[str]) -> list[str]:
        """Select the devices to sample, and return a sentence on each that cannot be sampled in full."""
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
