"""`deeper run` as a user types it, with real FFCV files, a real Ray cluster, a real MLflow store and a real report."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from bench.records.states import read_events, run_folder
from reproduce import schema
from reproduce.data import synthetic
from reproduce.data.writing import prepare
from tests.patience import PATIENCE_S

EXPERIMENT: dict[str, Any] = {
    "name": "small-grid",
    "data": {"path": "stripes"},
    "recipe": {"epochs": 2, "batch_size": 32, "learning_rate": 0.02, "resolution": 32},
    "resources": {"workers": 2, "cpus_per_worker": 1},
    "arms": {
        "none": {"network": {"aux": "none"}},
        "diverging": {"recipe": {"learning_rate": 1e30}},
        "both": {"network": {"aux": "both"}},
    },
    "seeds": [0],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared data set and an experiment file."""
    folder = tmp_path_factory.mktemp("grid")
    source = synthetic(classes=4, images=256, size=32, seed=0)
    prepare(source, folder / "data" / "stripes")
    write(folder, EXPERIMENT)
    return folder


def write(folder: Path, experiment: dict[str, Any], **changes: Any) -> Path:
    path = folder / f"{changes.get('name', experiment['name'])}.yaml"
    path.write_text(yaml.safe_dump({**experiment, **changes}), encoding="utf-8")
    return path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench.cli", *arguments]


def deeper(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        encoding="utf-8",
    )


def status(folder: Path, experiment: str) -> dict[str, dict[str, Any]]:
    return {run["run"]: run for run in json.loads(deeper(folder, "status", experiment, "--json").stdout)["runs"]}


def test_a_failing_run_leaves_the_others_alone_and_nothing_is_repeated(place: Path) -> None:
    first = deeper(place, "run", "small-grid.yaml", "--report")
    assert first.returncode == 1, first.stderr
    runs = status(place, "small-grid")
    assert {name: run["state"] for name, run in runs.items()} == {
        "none s0": "finished",
        "diverging s0": "failed",
        "both s0": "finished",
    }
    assert "epoch 1, step" in runs["diverging s0"]["error"]
    for chatter in ("ray", "INFO", "Warning", "mlflow."):
        assert chatter not in first.stdout.replace("starting Ray", "").replace("deeper dashboard", "")

    again = deeper(place, "run", "small-grid.yaml")
    assert again.returncode == 1
    assert "starting Ray" not in again.stdout, "runs that have ended are not started again"
    for run in runs.values():
        starts = [event for event in read_events(run_folder(place / "records", run["key"])) if event["kind"] == "start"]
        assert len(starts) == 1
        assert starts[0]["resources"]["precision"] in ("bf16", "float32")

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{place / 'records' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small-grid")
    tracked = client.search_runs([experiment.experiment_id])
    by_key = {run.data.tags[schema.TAG_KEY]: run for run in tracked if schema.TAG_KEY in run.data.tags}
    assert len(by_key) == len([run for run in tracked if schema.TAG_KEY in run.data.tags]) == 3
    both = by_key[runs["both s0"]["key"]]
    assert both.info.status == "FINISHED"
    assert both.data.metrics[schema.FINAL_TOP1] == runs["both s0"]["metrics"][schema.FINAL_TOP1]
    assert len(client.get_metric_history(both.info.run_id, schema.VAL_TOP1)) == 2
    assert by_key[runs["diverging s0"]["key"]].info.status == "FAILED"

    assert first.stdout.endswith("reports/small-grid/index.html\n")
    page = (place / "reports" / "small-grid" / "index.html").read_text(encoding="utf-8")
    assert "both" in page
    assert "diverging" in page


def test_a_run_larger_than_the_cluster_is_refused_with_what_would_fit(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write(place, EXPERIMENT, name="huge", resources={"workers": 1, "gpus_per_worker": 1})
    refused = deeper(place, "run", "huge.yaml")
    assert refused.returncode == 2
    assert "resources.workers: 1 workers with 1 CPUs and 1 GPUs each do not fit; 0 would, on " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_run_with_more_cores_than_this_machine_is_refused_before_ray_starts(place: Path) -> None:
    write(place, EXPERIMENT, name="wide", resources={"workers": 8, "cpus_per_worker": 3200})
    refused = deeper(place, "run", "wide.yaml", "--records", str(place / "nothing"))
    assert refused.returncode == 2
    assert "cpus_per_worker: 3200 needs 25600 CPUs" in refused.stderr
    assert not (place / "nothing").exists()


def test_data_that_is_not_prepared_is_reported_before_anything_starts(place: Path) -> None:
    write(place, EXPERIMENT, name="elsewhere", data={"path": "nowhere"})
    refused = deeper(place, "run", "elsewhere.yaml")
    assert refused.returncode == 2
    assert "data.path: nowhere is not prepared in" in refused.stderr
    assert "deeper data prepare /path/to/images --output" in refused.stderr


def test_a_path_that_repeats_the_folder_of_the_data_sets_is_told_without_it(place: Path) -> None:
    write(place, EXPERIMENT, name="twice", data={"path": "data/stripes"})
    refused = deeper(place, "plan", "twice.yaml")
    assert refused.returncode == 2
    assert "data.path: data/stripes is not prepared in" in refused.stderr
    assert refused.stderr.rstrip().endswith("paths begin in that folder: write stripes")


LONG = {
    **EXPERIMENT,
    "name": "long-run",
    "recipe": {**EXPERIMENT["recipe"], "epochs": 12},
    "arms": {"both": {"network": {"aux": "both"}}},
}


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """The records of `LONG` after an undisturbed run."""
    write(place, LONG)
    assert deeper(place, "run", "long-run.yaml", "--records", str(place / "whole")).returncode == 0
    return place / "whole"


def started(place: Path, records: Path, key: str) -> subprocess.Popen[bytes]:
    """A command that runs `LONG`, returned once the run has completed an epoch."""
    arguments = command("run", "long-run.yaml", "--records", str(records))
    driver = subprocess.Popen(arguments, cwd=place, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while not any(event["kind"] == "epoch" for event in read_events(run_folder(records, key))):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return driver


def curve(records: Path, key: str) -> list[tuple[float, float]]:
    epochs = [event["metrics"] for event in read_events(run_folder(records, key)) if event["kind"] == "epoch"]
    return [(metrics[schema.TRAIN_LOSS], metrics[schema.VAL_LOSS]) for metrics in epochs]


def _steps(driver: psutil.Process, said: str, folder: Path) -> bool:
    return any(event["kind"] == "epoch" for event in read_events(folder))


def _workers_start(driver: psutil.Process, said: str, folder: Path) -> bool:
    for child in driver.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if "ray::Worker" in " ".join(child.cmdline()):
                return True
    return False


def _ray_starts(driver: psutil.Process, said: str, folder: Path) -> bool:
    return "starting Ray" in said


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, _steps),
        (signal.SIGINT, _ray_starts),
        pytest.param(signal.SIGINT, _steps, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, _workers_start, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, _workers_start, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, _ray_starts, marks=pytest.mark.long),
    ],
    ids=lambda value: getattr(value, "__name__", None) or value.name,
)
def test_a_signal_to_the_whole_group_ends_the_command_with_code_75_and_without_messages_of_ray(
    place: Path, number: signal.Signals, moment: Callable[[psutil.Process, str, Path], bool]
) -> None:
    """Ctrl-C and `timeout` send a signal to the driver and to all processes that it has started.

    If Ray's processes obeyed it, the driver would lose its GCS, and Ray would end it after 60 s.
    """
    write(place, LONG)
    records = place / f"{number.name}-{moment.__name__}"
    (planned,) = json.loads(deeper(place, "plan", "long-run.yaml", "--json").stdout)
    terminal, theirs = pty.openpty()
    driver = subprocess.Popen(
        command("run", "long-run.yaml", "--records", str(records)),
        cwd=place,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said, sent, deadline = "", False, time.monotonic() + PATIENCE_S
    while driver.poll() is None and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):  # the other side is closed
                said += os.read(terminal, 1 << 16).decode(errors="replace")
        if not sent and moment(psutil.Process(driver.pid), said, run_folder(records, planned["key"])):
            os.killpg(driver.pid, number)
            sent = True
    os.close(terminal)
    assert sent
    assert driver.wait(timeout=PATIENCE_S) == 75, said
    for of_ray in ("GCS", "raylet", "Traceback", "ray.", "(pid"):
        assert of_ray not in said
    reason = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted by hand"}[number]
    assert f"stopped ({reason})" in said
    if moment is _steps:
        end = read_events(run_folder(records, planned["key"]))[-1]
        assert (end["kind"], end["outcome"], end["reason"]) == ("end", "interrupted", reason)


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 75), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_stopped_or_killed_command_is_resumed_to_the_same_result(
    place: Path, whole: Path, number: int, code: int
) -> None:
    (key,) = (path.name for path in (whole / "runs").iterdir())
    broken = place / f"broken-{number}"
    driver = started(place, broken, key)
    driver.send_signal(number)
    assert driver.wait(timeout=PATIENCE_S) == code
    assert deeper(place, "run", "long-run.yaml", "--records", str(broken)).returncode == 0
    assert len(curve(whole, key)) == 12
    assert curve(broken, key) == curve(whole, key), "bit for bit"


@pytest.mark.long
def test_a_killed_worker_is_replaced_and_the_run_resumes_to_the_same_result(place: Path, whole: Path) -> None:
    (key,) = (path.name for path in (whole / "runs").iterdir())
    broken = place / "broken-worker"
    driver = started(place, broken, key)
    workers = [
        child for child in psutil.Process(driver.pid).children(recursive=True) if "ray::Worker" in child.cmdline()[0]
    ]
    assert len(workers) == 2
    workers[-1].kill()
    assert driver.wait(timeout=PATIENCE_S) == 0
    starts = [event for event in read_events(run_folder(broken, key)) if event["kind"] == "start"]
    assert [event["attempt"] for event in starts] == [1, 2]
    assert curve(broken, key) == curve(whole, key), "bit for bit"
