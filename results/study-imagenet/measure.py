"""Measures what `study.py` needs and what needs no cluster, into measured.json: every value, not only a median.

    python results/study-imagenet/measure.py --images IMAGENETTE_FOLDER_OR_TAR

Synthetic runs stand for real ones: their events repeat those of the committed Imagenette ablation. All files lie in a
temporary folder of a local disk. Takes some five minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.machine.environment import environment
from bench.records.plan import read_plan, write_plan
from bench.records.states import EVENTS, LOCK, PROGRESS, read_state, run_folder
from bench.telemetry.samples import HOST, READINGS
from reproduce import schema
from reproduce.grid import plan
from reproduce.spec import ExperimentConfig, PlannedRun, load_experiment

HERE = Path(__file__).parent
REFERENCE = HERE.parent / "ablation-imagenette" / "records" / "runs"
RUNS, RUNNING, EPOCHS = 1000, 64, 90
PUBLISHED = 100  # runs with one epoch each that the publisher's passes are measured with
WHOLE = 10  # runs with all epochs that are published from nothing, and read by the report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="Imagenette, a folder or a tar")
    parser.add_argument("--out", type=Path, default=HERE / "measured.json")
    options = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for measure in (_records, _planning, _display, _publishing, _whole_study, _polling, _imports):
            figures |= measure(Path(scratch))
            print(measure.__name__, json.dumps(figures, indent=1), file=sys.stderr)
        figures |= _images(Path(scratch), options.images)
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python results/study-imagenet/measure.py --images IMAGENETTE",
        "environment": environment(),
        "figures": figures,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _figure(unit: str, what: str, values: Sequence[float]) -> dict[str, Any]:
    return {"unit": unit, "what": what, "values": [float(f"{value:.6g}") for value in values]}


def _seconds(call: Callable[[], object], times: int) -> list[float]:
    values = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        values.append(time.perf_counter() - began)
    return values


# --- records ---------------------------------------------------------------------------------------


def _reference_events() -> list[dict[str, Any]]:
    """Start, the epoch with the most metrics, and end of the committed runs."""
    events = [
        json.loads(line)
        for path in sorted(REFERENCE.glob(f"*/{EVENTS}"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    kinds = [[event for event in events if event["kind"] == kind] for kind in (schema.START, schema.EPOCH, schema.END)]
    finished = [event for event in kinds[2] if event["outcome"] == schema.FINISHED]
    return [
        {**max(some, key=lambda event: len(event["metrics"]) if "metrics" in event else 0), "attempt": 1}
        for some in (kinds[0], kinds[1], finished)
    ]


def _write_run(records: Path, planned: PlannedRun, epochs: int, finished: bool) -> None:
    start, epoch, end = _reference_events()
    folder = run_folder(records, planned.key)
    folder.mkdir(parents=True)
    (folder / LOCK).touch()
    events = [{**start, "epochs": EPOCHS}]
    events += [{**epoch, "epoch": number, "t": start["t"] + 60 * (number + 1)} for number in range(epochs)]
    events += [{**end, "t": start["t"] + 60 * (epochs + 1)}] if finished else []
    (folder / EVENTS).write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    (folder / schema.ARTIFACT_CONFIG).write_text(
        yaml.safe_dump(planned.config.model_dump(mode="json")), encoding="utf-8"
    )
    progress = {"t": time.time(), "attempt": 1, "epoch": epochs, "epochs": EPOCHS, "step": 1, "steps": 2}
    (folder / PROGRESS).write_text(
        json.dumps({**progress, "images_per_s": 1e4, "loss": 3.0, "top1": 0.5}), encoding="utf-8"
    )


def _study() -> ExperimentConfig:
    experiment = load_experiment("ablation-imagenet")
    seeds = tuple(range(-(-RUNS // len(experiment.arms))))
    return experiment.model_copy(update={"seeds": seeds})


def _planned() -> list[PlannedRun]:
    path = "imagenet"
    return plan(_study(), data_hashes={path: "-"}, classes={path: 1000}, train_images={path: 1281167})[:RUNS]


def _records(_: Path) -> dict[str, Any]:
    lines = [
        line
        for path in REFERENCE.glob(f"*/{EVENTS}")
        for line in path.read_bytes().splitlines(keepends=True)
        if json.loads(line)["kind"] == schema.EPOCH
    ]
    reading = dict.fromkeys(READINGS, 1234.567890123456)
    rows = [{"t": 1795505258.049, "attempt": 1, "device": device, **reading} for device in (HOST, "GPU-" + 36 * "0")]
    return {
        "epoch_event_bytes": _figure("bytes", "line of an epoch in events.jsonl, committed runs", [*map(len, lines)]),
        "epoch_metrics": _figure(
            "metrics", "of an epoch, committed runs", [len(json.loads(x)["metrics"]) for x in lines]
        ),
        "telemetry_row_bytes": _figure(
            "bytes", "row of telemetry-N.jsonl, composed", [len(json.dumps(row)) + 1 for row in rows]
        ),
    }


def _planning(scratch: Path) -> dict[str, Any]:
    from bench.planning.plan import make_plan
    from reproduce.data.sources import synthetic
    from reproduce.data.writing import prepare

    prepare(synthetic(images=1100, size=16), scratch / "imagenet")
    values = _seconds(lambda: make_plan(_study(), scratch), 4)[1:]  # the first pays for torch's imports
    return {
        "make_plan_s": _figure("s", f"bench.planning.plan.make_plan, {RUNS} runs of 7 networks, torch imported", values)
    }


def _display(scratch: Path) -> dict[str, Any]:
    from bench.orchestration.display import Watch

    records, planned = scratch / "display", _planned()
    write_plan(records, "study", planned, {})
    entries = read_plan(records, "study")
    done = (RUNS - RUNNING) // 2
    held = []
    for index, run in enumerate(planned[: done + RUNNING]):
        running = index >= done
        _write_run(records, run, EPOCHS // 2 if running else EPOCHS, not running)
        if running:
            held.append(os.open(run_folder(records, run.key) / LOCK, os.O_RDONLY))
            fcntl.flock(held[-1], fcntl.LOCK_EX)
    look = Watch(entries, records)
    first = _seconds(lambda: look.rows(now=True), 1)
    middle = _seconds(lambda: look.rows(now=True), 10)
    folder = run_folder(records, planned[0].key)
    one = _seconds(lambda: read_state(folder), 50)
    for lock in held:
        os.close(lock)
    text = f"bench.display.Watch, {RUNS} runs of {EPOCHS} epochs: {done} finished, {RUNNING} running, the rest waiting"
    return {
        "look_first_s": _figure("s", f"{text}; the first look", first),
        "look_s": _figure("s", f"{text}; a later look", middle),
        "read_state_s": _figure("s", f"bench.records.states.read_state, one run of {EPOCHS} epochs", one),
    }


# --- tracking --------------------------------------------------------------------------------------


def _publishing(scratch: Path) -> dict[str, Any]:
    from bench.tracking.publishing import Publisher

    records, planned = scratch / "publishing", _planned()[:PUBLISHED]
    write_plan(records, "study", planned, {})
    for run in planned:
        _write_run(records, run, 1, False)
    publisher = Publisher(records, f"sqlite:///{records}/mlflow.db")
    held = [os.open(run_folder(records, run.key) / LOCK, os.O_RDONLY) for run in planned]
    for lock in held:
        fcntl.flock(lock, fcntl.LOCK_EX)
    first = _seconds(publisher.publish, 1)
    idle = _seconds(publisher.publish, 10)
    epoch = _reference_events()[1]
    news = []
    for number in range(1, 6):
        for run in planned:
            with (run_folder(records, run.key) / EVENTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps({**epoch, "epoch": number, "t": epoch["t"] + 60 * number}) + "\n")
        news += _seconds(publisher.publish, 1)
    for lock in held:
        os.close(lock)
    text = f"{PUBLISHED} running runs, sqlite on a local disk"
    return {
        "publish_new_run_s": _figure("s", f"a run's first pass with one epoch, mean of {text}", [first[0] / PUBLISHED]),
        "publish_idle_run_s": _figure(
            "s", f"a run's share of a pass without news, {text}", [x / PUBLISHED for x in idle]
        ),
        "publish_epoch_s": _figure("s", f"an epoch of a run in a pass, {text}", [x / PUBLISHED for x in news]),
    }


def _whole_study(scratch: Path) -> dict[str, Any]:
    """What a report job has to do where nothing was published before."""
    from analysis.frames import read
    from bench.tracking.publishing import Publisher

    records, planned = scratch / "whole", _planned()[:WHOLE]
    uri = f"sqlite:///{records}/mlflow.db"
    write_plan(records, "study", planned, {})
    for run in planned:
        _write_run(records, run, EPOCHS, True)
    publisher = Publisher(records, uri)
    store = records / "mlflow.db"
    empty = store.stat().st_size
    cold = _seconds(lambda: publisher.publish(final=True), 1)
    reading = _seconds(lambda: read("study", tracking_uri=uri), 3)
    text = f"{WHOLE} finished runs of {EPOCHS} epochs"
    return {
        "publish_whole_run_s": _figure("s", f"publishing a run from nothing, mean of {text}", [cold[0] / WHOLE]),
        "store_run_bytes": _figure(
            "bytes", f"growth of the sqlite store a run, mean of {text}", [(store.stat().st_size - empty) / WHOLE]
        ),
        "report_read_run_s": _figure("s", f"analysis.frames.read a run, {text}", [x / WHOLE for x in reading]),
    }


# --- Ray, imports ----------------------------------------------------------------------------------


def _polling(_: Path) -> dict[str, Any]:
    """CPU of a driver whose 64 threads wait, as `WorkerGroup.train` does, for 8 calls each."""
    import ray

    class Sleeper:
        def sleep(self, seconds: float) -> None:
            time.sleep(seconds)

    ray.init(address="local", include_dashboard=False, object_store_memory=256 * 2**20, log_to_driver=False)
    sleeper: Any = ray.remote(Sleeper).options(max_concurrency=8 * RUNNING, num_cpus=0).remote()
    ray.get(sleeper.sleep.remote(0))
    calls = [[sleeper.sleep.remote(40) for _ in range(8)] for _ in range(RUNNING)]
    over = threading.Event()

    def poll(waiting: list[Any]) -> None:
        while not over.is_set():
            ray.wait(waiting, num_returns=1, timeout=1)

    threads = [threading.Thread(target=poll, args=[waiting]) for waiting in calls]
    for thread in threads:
        thread.start()
    time.sleep(3)
    shares = []
    for _ in range(3):
        cpu, wall = time.process_time(), time.perf_counter()
        time.sleep(8)
        shares.append((time.process_time() - cpu) / (time.perf_counter() - wall))
    over.set()
    for thread in threads:
        thread.join()
    ray.shutdown()
    what = f"driver's CPU, {RUNNING} threads in ray.wait for 8 calls each, 1 s time-out, Ray on one host"
    return {"polling_cores": _figure("cores", what, shares)}


def _imports(_: Path) -> dict[str, Any]:
    code = (
        "import sys; opened = []\n"
        "sys.addaudithook(lambda event, arguments: opened.append(1) if event == 'open' else None)\n"
        "import bench.orchestration.worker, bench.orchestration.session, reproduce.training.loop, torch.nn.parallel\n"
        "print(len(opened))"
    )
    values = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    return {"import_files": _figure("files", "opened by Python for a rank's imports; its look-ups not counted", values)}


# --- images ----------------------------------------------------------------------------------------


def _images(scratch: Path, path: Path) -> dict[str, Any]:
    import cv2

    from reproduce.data import PrepareOptions
    from reproduce.data.encoding import encode
    from reproduce.data.loading.loaders import TrainLoader, TrainLoaderConfig
    from reproduce.data.sources import folder, imagenette
    from reproduce.data.writing import prepare

    listing = imagenette(path).open(scratch, lambda *_: None)
    samples = listing.splits["train"][::5]
    pixels = stored = 0
    for number, sample in enumerate(samples):
        image = cv2.imdecode(np.frombuffer(listing.reader.read(sample), np.uint8), cv2.IMREAD_COLOR)
        encoded = encode(np.ascontiguousarray(image[..., ::-1]), sample.name, PrepareOptions(write_mode="jpg"))
        pixels += encoded.height * encoded.width
        stored += len(encoded.data)
        place = scratch / "resized" / ("val" if number % 20 == 0 else "train") / f"{sample.label:02d}"
        place.mkdir(parents=True, exist_ok=True)
        large = cv2.resize(image, (341, 256), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(place / f"{number}.jpg"), large, [int(cv2.IMWRITE_JPEG_QUALITY), 90])
    prepare(folder(scratch / "resized"), scratch / "prepared")
    loader = TrainLoader(scratch / "prepared", TrainLoaderConfig(batch_size=128, seed_order=0, seed_augmentation=0))
    speeds = []
    for epoch in range(6):
        cpu, images = time.process_time(), 0
        for batch, _ in loader.epoch(epoch, 224):
            images += len(batch)
        speeds.append(images / (time.process_time() - cpu))
    count = f"{len(samples)} training images of Imagenette"
    return {
        "jpeg_bytes_per_pixel": _figure(
            "bytes/pixel", f"{count} (224 x 224), JPEG quality 90 by reproduce.data", [stored / pixels]
        ),
        "loader_images_per_cpu_s": _figure(
            "images/s", f"TrainLoader, 224 px crops of {count} enlarged to 341 x 256, a CPU-second", speeds[1:]
        ),
    }


if __name__ == "__main__":
    main()
