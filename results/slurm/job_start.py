"""Measures the time from a job's start to that of its run, on the SLURM of the tests, into job-start.json.

    PYTHONPATH=. python results/slurm/job_start.py --before COMMIT [--times 5]

Jobs of two hosts with the code of another commit and with that of this folder take turns. Each trains one run over both
hosts. Needs root and what `make setup-tests` installs; takes some 15 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.machine.revision import ROOT
from bench.records.states import read_events
from bench.results.store import with_provenance
from reproduce import schema
from reproduce.data import synthetic
from reproduce.data.writing import prepare

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tests" / "slurm")]
from cluster import Cluster  # noqa: E402

EXPERIMENT = {
    "name": "started",
    "data": {"path": "gratings"},
    "recipe": {"epochs": 1, "batch_size": 32, "learning_rate": 0.02, "resolution": 32},
    "arms": {"none": {"network": {"aux": "none"}}},
    "resources": {"workers": 2, "cpus_per_worker": 2},
    "seeds": [0],
}
PROFILE = {"time": "20:00", "nodes": 2, "cpus_per_node": 2}
PARTS = re.compile(r"after the job began \((?P<parts>.*)\); starting deeper run")
LAST = ("workers", "deeper run, and the checks of the run")
PATIENCE_S = 900


def start(cluster: Cluster, code: Path, name: str) -> dict[str, Any]:
    """Let a job with the code of a folder start its run.

    Returns:
        The seconds from the beginning of the job's script to the start of the run (`total_s`), those of the parts
        (`parts_s`, as far as the code says them), and the machine's load average.
    """
    place = cluster.shared / name
    records, scripts = place / "records", place / "scripts"
    records.mkdir(parents=True)
    for file, content in (("started", EXPERIMENT), ("profile", PROFILE)):
        (place / f"{file}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    environment = {"PYTHONPATH": str(code), "MLFLOW_TRACKING_URI": ""}
    render = [sys.executable, "-m", "bench.cli", "slurm", "render", "started.yaml", "--profile", "profile.yaml"]
    render += ["--records", str(records), "--data", str(cluster.shared / "data"), "--output", str(scripts)]
    cluster.login(*render, cwd=place, env=environment)
    script = scripts / "job.sh"
    text = script.read_text(encoding="utf-8")
    changed = re.sub(r"^(folder=.*)$", r"\1\ndate +%s.%N >$folder/began", text, count=1, flags=re.MULTILINE)
    script.write_text(changed, encoding="utf-8")
    load = os.getloadavg()[0]
    number = cluster.login("sbatch", "--parsable", script, env=environment).stdout.strip()
    state = cluster.wait(number, timeout=PATIENCE_S)
    log = (scripts / f"grid-{number}.log").read_text(encoding="utf-8")
    assert state == "COMPLETED", log
    (run,) = records.glob("runs/*")
    begun = next(event for event in read_events(run) if event["kind"] == schema.START)
    total = begun["t"] - float((scripts / "began").read_text(encoding="utf-8"))
    parts = {}
    if found := PARTS.search(log):
        for part in found["parts"].split(", "):
            words, seconds, _ = part.rsplit(" ", 2)
            parts[words] = float(seconds)
        parts |= dict(zip(LAST, (begun["workers_s"], total - sum(parts.values()) - begun["workers_s"]), strict=True))
    rounded = {part: round(seconds, 1) for part, seconds in parts.items()}
    return {"total_s": round(total, 1), "parts_s": rounded, "load": round(load, 1)}


def tables(measured: Mapping[str, Any]) -> str:
    """Return the tables of the page, in Markdown."""
    lines = ["| code | n | job start to run start, s: median (range) | load |", "|---|--:|--:|--:|"]
    for code in ("before", "after"):
        starts = measured[code]
        totals = [one["total_s"] for one in starts]
        loads = [one["load"] for one in starts]
        lines.append(
            f"| {code} | {len(starts)} | {statistics.median(totals):.1f} ({min(totals):.1f} to {max(totals):.1f}) "
            f"| {min(loads):g} to {max(loads):g} |"
        )
    ratios = [after["total_s"] / before["total_s"] for before, after in _turns(measured)]
    lines += [
        "",
        f"after / before in the same turn: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        "",
        "| part, after | s: median (range) |",
        "|---|--:|",
    ]
    for part in measured["after"][0]["parts_s"]:
        values = [one["parts_s"][part] for one in measured["after"]]
        lines.append(f"| {part} | {statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f}) |")
    return "\n".join(lines)


def _turns(measured: Mapping[str, Any]) -> Sequence[tuple[dict[str, Any], dict[str, Any]]]:
    return list(zip(measured["before"], measured["after"], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", required=True, metavar="COMMIT", help="the code to compare with")
    parser.add_argument("--times", type=int, default=5, help="jobs with each code")
    parser.add_argument("--out", type=Path, default=HERE / "job-start.json")
    options = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {"before": [], "after": []}
    with tempfile.TemporaryDirectory(prefix="deeper-start-") as folder, Cluster(Path(folder)) as cluster:
        prepare(synthetic(classes=4, images=256, size=32, seed=0), cluster.shared / "data" / "gratings")
        before = cluster.shared / "before"
        git = ["git", "-C", str(ROOT)]
        archive = subprocess.run([*git, "archive", options.before], check=True, capture_output=True).stdout
        before.mkdir()
        subprocess.run(["tar", "-x", "-C", str(before)], input=archive, check=True)
        codes = {"before": before, "after": ROOT}
        for turn in range(-1, options.times):  # the first one fills caches, and is left out
            for code in ("before", "after") if turn % 2 else ("after", "before"):
                one = start(cluster, codes[code], f"{code}{turn + 1}")
                print(code, json.dumps(one), file=sys.stderr)
                if turn >= 0:
                    results[code].append(one)
    content = {
        "command": "python results/slurm/job_start.py " + " ".join(sys.argv[1:]),
        "what": "a run of two workers with 2 CPUs, one on each of two hosts, which are namespaces of one machine",
        "before_commit": options.before,
        **results,
    }
    options.out.write_text(json.dumps(with_provenance("job-start", content), indent=1) + "\n", encoding="utf-8")
    print(tables(content))


if __name__ == "__main__":
    main()
