"""Measures what preemptions and losses cost a run, on the SLURM of the tests, into preemption.json.

    PYTHONPATH=. python results/slurm/preemption.py [--times 3]

As Ray's elastic benchmark does (release/train_tests/benchmark/elastic_training of ray-project/ray), a schedule takes
resources away from a training while it runs, and its end-to-end speed is compared with that of its steps. An
undisturbed job of the same experiment comes first. Needs root and what `make setup-tests` installs; takes some 25
minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from bench.records.states import PROGRESS, read_events
from bench.results.store import with_provenance
from reproduce import schema
from reproduce.data import synthetic
from reproduce.data.writing import prepare

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tests" / "slurm")]
from cluster import Cluster, until  # noqa: E402
from goodput import Disturbance, Seen, cost, tables, wall  # noqa: E402

IMAGES, BATCH, EPOCHS, SIDE = 256, 32, 8, 32
STEPS = IMAGES // BATCH
"""Steps of an epoch. Within five minutes of a checkpoint there is no other, so an epoch is the interval."""
BETWEEN = (3, 8)
"""The least and the most steps from a recovery to the next disturbance."""
EXPERIMENT = {
    "name": "preempted",
    "data": {"path": "gratings"},
    "recipe": {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.02, "resolution": SIDE},
    "arms": {"none": {"network": {"aux": "none"}}},
    "resources": {"workers": 1, "cpus_per_worker": 2, "retries": 100},
    "seeds": [0],
}
SETUP = ["export RAY_worker_niceness=0"]
"""Ray gives way to all other work of a machine; the nodes of a job have none."""
PLACE = {"nodes": 1, "cpus_per_node": 2, "partition": "low"}
PROFILE = {"time": "1:00:00", "requeues": 100, "setup": SETUP, **PLACE}
HEARTBEAT_S = 0.1
"""With it, positions are seen once a second: of a kill, the steps of less than a second may have been missed."""
PATIENCE_S = 900
SEED = 14


class Job:
    """The one run of a job on the cluster, whose positions are followed by a thread from `begin` to `end`."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.place = cluster.shared / name
        self.records, self.scripts = self.place / "records", self.place / "scripts"
        self.number = ""
        self.seen: list[Seen] = []
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._follow, daemon=True)

    def begin(self) -> None:
        self.place.mkdir()
        for name, content in (("preempted", EXPERIMENT), ("profile", PROFILE)):
            (self.place / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        deeper = [sys.executable, "-m", "bench.cli", "slurm", "render", "preempted.yaml", "--profile", "profile.yaml"]
        deeper += ["--arm", "none", "--records", str(self.records), "--data", str(self.cluster.shared / "data")]
        self.records.mkdir()
        self.cluster.login(*deeper, "--output", self.scripts, cwd=self.place)
        script = self.scripts / "job.sh"
        text = script.read_text(encoding="utf-8")
        changed = text.replace("    --arm none\n", f"    --arm none\n    --heartbeat-s {HEARTBEAT_S}\n")
        assert changed != text
        script.write_text(changed, encoding="utf-8")
        environment = {"MLFLOW_TRACKING_URI": ""}
        self.number = self.cluster.login("sbatch", "--parsable", script, env=environment).stdout.strip()
        self._watch.start()

    def end(self) -> None:
        state = self.cluster.wait(self.number, timeout=PATIENCE_S)
        self._over.set()
        self._watch.join()
        assert state == "COMPLETED", self.log

    @property
    def log(self) -> str:
        return (self.scripts / f"grid-{self.number}.log").read_text(encoding="utf-8")

    @property
    def host(self) -> str:
        return self.cluster.job(self.number)["BatchHost"]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for folder in self.records.glob("runs/*") for event in read_events(folder)]

    @property
    def starts(self) -> list[float]:
        """When SLURM started the job, to a second."""
        found = re.findall(r"^(\S+ \S+) job\.sh: job \S+, start ", self.log, flags=re.MULTILINE)
        return [datetime.fromisoformat(text).timestamp() for text in found]

    @property
    def furthest(self) -> int:
        return max((one.position for one in self.seen), default=0)

    def reach(self, position: int) -> None:
        until(lambda: self.furthest >= position, f"position {position}", seconds=PATIENCE_S)

    def _follow(self) -> None:
        while not self._over.wait(0.05):
            for path in self.records.glob(f"runs/*/{PROGRESS}"):
                try:
                    now = json.loads(path.read_bytes())
                except (FileNotFoundError, ValueError):
                    continue
                one = Seen(now["t"], now["attempt"], now["epoch"] * STEPS + now["step"])
                if not self.seen or self.seen[-1] != one:
                    self.seen.append(one)


# --- what disturbs a job ---------------------------------------------------------------------------


def time_limit(job: Job) -> None:
    """The signal that SLURM sends for --signal=B:USR1@N."""
    job.cluster.login("scancel", "--batch", "--signal=USR1", job.number)


def preemption(job: Job) -> None:
    """A job of a partition that takes all nodes for five seconds."""
    job.cluster.login("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--wrap", "sleep 5")


def worker_killed(job: Job) -> None:
    job.cluster.on(job.host, "pkill", "-KILL", "--full", "^ray::Worker")


def host_killed(job: Job) -> None:
    """Its power is cut, and it comes back once SLURM has noticed."""
    host, before = job.host, job.cluster.job(job.number)["Restarts"]
    job.cluster.kill_host(host)
    until(lambda: job.cluster.job(job.number)["Restarts"] != before, "the requeue", seconds=PATIENCE_S)
    job.cluster.start_host(host)


KINDS: dict[str, Callable[[Job], None]] = {
    "the signal before a time limit": time_limit,
    "a preemption with 15 s of grace": preemption,
    "SIGKILL of the worker": worker_killed,
    "the loss of the host": host_killed,
}
SIGNALLED = tuple(KINDS)[:2]
"""The kinds that leave the run time for a checkpoint."""


def disturb(job: Job, times: int) -> list[Disturbance]:
    """Disturb a job by each kind several times, in an order and at moments that a seed determines."""
    rng = random.Random(SEED)
    order = [kind for kind in KINDS for _ in range(times)]
    rng.shuffle(order)
    done: list[Disturbance] = []
    for kind in order:
        position = job.furthest + rng.randint(*BETWEEN)
        job.reach(position)
        done.append(Disturbance(kind, time.time(), os.getloadavg()[0]))
        KINDS[kind](job)
        attempts = len(done)
        until(lambda: _attempts(job) > attempts, "the next attempt", seconds=PATIENCE_S)  # noqa: B023
        job.reach(job.furthest + 1)
        print(f"{kind} at {position}: went on after {time.time() - done[-1].t:.0f} s", file=sys.stderr)
    return done


def _attempts(job: Job) -> int:
    return sum(event["kind"] == schema.START for event in job.events)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=3, help="disturbances of each kind")
    parser.add_argument("--out", type=Path, default=HERE / "preemption.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deeper-preemption-") as folder, Cluster(Path(folder)) as cluster:
        prepare(synthetic(classes=4, images=IMAGES, size=SIDE, seed=0), cluster.shared / "data" / "gratings")
        undisturbed, disturbed = Job(cluster, "undisturbed"), Job(cluster, "disturbed")
        undisturbed.begin()
        load = os.getloadavg()[0]
        undisturbed.end()
        disturbed.begin()
        disturbances = disturb(disturbed, options.times)
        disturbed.end()
        ends = [[dict(event) for event in job.events] for job in (undisturbed, disturbed)]
        curves = [
            [event["metrics"][schema.TRAIN_LOSS] for event in events if event["kind"] == schema.EPOCH]
            for events in ends
        ]
        content = {
            "command": "python results/slurm/preemption.py " + " ".join(sys.argv[1:]),
            "what": f"{EPOCHS} epochs of {STEPS} steps of {BATCH} images at {SIDE} px, one worker of 2 CPUs, "
            "precision as the machine has it; hosts that are namespaces of one machine",
            "load_undisturbed": round(load, 1),
            "undisturbed": wall(ends[0], undisturbed.starts[0], STEPS),
            "disturbed": wall(ends[1], disturbed.starts[0], STEPS),
            "bit_equal": curves[0] == curves[1],
            "interval_steps": STEPS,
            "costs": [
                {
                    **cost(disturbance, ends[1], disturbed.seen, disturbed.starts, STEPS),
                    "signalled": disturbance.kind in SIGNALLED,
                }
                for disturbance in disturbances
            ],
        }
    options.out.write_text(json.dumps(with_provenance("preemption", content), indent=1) + "\n", encoding="utf-8")
    print(tables(content))


if __name__ == "__main__":
    main()
