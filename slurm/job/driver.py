"""Runs `deeper run` as a child process of the launcher on a job's head node."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from slurm.job.config import LauncherConfig
from slurm.job.node.ray_node import ANSI, block_signals

HEARTBEAT_S = 15  # between heartbeats in a run's folder: many runs share one file system
OUTPUT_TIMEOUT_S = 5  # to read what is left of the output once the process has ended
MISTAKE_PREFIX: Final = "deeper: "  # of a line in which `deeper` names a user's mistake


class Driver:
    """A child process that runs `deeper run`.

    A thread copies its standard error to that of this process, which is the job's log, and looks for lines in which
    `deeper` reports a user's mistake. SIGTERM and SIGINT are blocked in the child; a stop file stops its runs.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Start the command."""
        self.mistake: str | None = None
        """The mistake of the user that the command has reported last; None if it has reported none."""
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace", preexec_fn=block_signals
        )
        self._reader = threading.Thread(target=self._pass_on_output, daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """Return the exit code, or None while the command runs.

        When the command has ended, this waits up to `OUTPUT_TIMEOUT_S` for the rest of its output, so that `mistake` is
        complete.

        Returns:
            The exit code; -N if signal N ended the command; None if the command still runs.
        """
        code = self._process.poll()
        if code is not None:
            self._reader.join(timeout=OUTPUT_TIMEOUT_S)
        return code

    def kill(self) -> None:
        """Kill the command's process with SIGKILL and wait until it has ended. Its child processes are not killed."""
        self._process.kill()
        self._process.wait()

    def _pass_on_output(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            line = ANSI.sub("", line)  # Ray colours its messages even in a file
            sys.stderr.write(line)
            if line.startswith(MISTAKE_PREFIX):
                self.mistake = line.removeprefix(MISTAKE_PREFIX).strip()


def driver_command(
    config: LauncherConfig, ray_address: str, data: Path, stop_file: Path, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Return the `deeper run` command of a job.

    Args:
        config: Settings of the launcher.
        ray_address: HOST:PORT of the Ray cluster.
        data: Root folder from which the nodes read the data sets.
        stop_file: File whose existence requests every run to stop.
        environment: Environment variables. If MLFLOW_TRACKING_URI is unset or empty, the command publishes nothing,
            since only one host may use the sqlite store: that of the report job or of the dashboard.
    """
    command = [sys.executable, "-m", "bench.cli", "run", str(config.experiment), "--address", ray_address]
    command += ["--records", str(config.records), "--data", str(data), "--stop-file", str(stop_file)]
    command += ["--heartbeat-s", str(HEARTBEAT_S), "--keep-newer-plan", *config.run_options]
    if not environment.get("MLFLOW_TRACKING_URI"):
        command.append("--no-publish")
    return command
