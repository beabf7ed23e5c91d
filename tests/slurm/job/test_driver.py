"""The process of `deeper run`: its command, exit code and output. A python one-liner stands in for `deeper`."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import until

from slurm.job.config import LauncherConfig
from slurm.job.driver import Driver, driver_command

CONFIG = LauncherConfig(Path("/folder"), Path("/folder/experiment.yaml"), records=Path("/records"), data=Path("/data"))


def python(code: str) -> Driver:
    return Driver([sys.executable, "-c", f"import os, signal, sys, time\n{code}"])


def ended(driver: Driver) -> int:
    until(lambda: driver.poll() is not None, "the driver's end", seconds=60)
    code = driver.poll()
    assert code is not None
    return code


def test_the_last_mistake_that_deeper_names_is_kept_and_all_output_passed_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = r"deeper: a\n\x1b[33m(raylet)\x1b[0m warning\ndeeper: resources: too large"
    driver = python(f"print('{said}', file=sys.stderr); sys.exit(2)")
    assert ended(driver) == 2
    assert driver.mistake == "resources: too large"
    assert capsys.readouterr().err == "deeper: a\n(raylet) warning\ndeeper: resources: too large\n"


def test_a_traceback_is_no_mistake_of_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    driver = python("raise ValueError('bug')")
    assert ended(driver) == 1
    assert driver.mistake is None
    assert "ValueError: bug" in capsys.readouterr().err


def test_a_signal_that_ended_the_command_is_its_negative_code() -> None:
    assert ended(python("os.kill(os.getpid(), signal.SIGKILL)")) == -signal.SIGKILL


def test_slurms_signals_do_not_reach_the_command() -> None:
    code = "os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGINT); sys.exit(7)"
    assert ended(python(code)) == 7


def test_a_running_command_has_no_exit_code_and_can_be_killed() -> None:
    driver = python("time.sleep(1000)")
    assert driver.poll() is None
    driver.kill()
    assert ended(driver) == -signal.SIGKILL


def test_the_command_runs_the_experiment_with_the_jobs_ray_and_stop_file() -> None:
    config = replace(CONFIG, run_options=("--arm", "both"))
    command = driver_command(config, "n1:6379", Path("/scratch/data"), Path("/folder/stop-17"), {})
    assert command[1:5] == ["-m", "bench.cli", "run", "/folder/experiment.yaml"]
    assert command[5:] == [
        *("--address", "n1:6379", "--records", "/records", "--data", "/scratch/data"),
        *("--stop-file", "/folder/stop-17", "--heartbeat-s", "15", "--keep-newer-plan"),
        *("--arm", "both", "--no-publish"),
    ]


def test_only_a_tracking_server_is_published_to_while_runs_train() -> None:
    command = driver_command(CONFIG, "n1:6379", Path("/data"), Path("/stop"), {"MLFLOW_TRACKING_URI": "http://m:5000"})
    assert "--no-publish" not in command
