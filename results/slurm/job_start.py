"""Measures where the seconds from a job's start to its first run's go, on the SLURM of the tests, into job-start.json.

    PYTHONPATH=. python results/slurm/job_start.py [--times 3]

Jobs of one host and of two take turns. Needs root and what `make setup-tests` installs; takes some five minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.results.store import with_provenance

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "tests" / "slurm"))
from cluster import Cluster  # noqa: E402
from user_folder import ALONE, OVER_BOTH, RECIPE, UserFolder, user_folder  # noqa: E402

HOSTS = {1: ALONE, 2: OVER_BOTH}
NOTES_WHEN_IT_BEGAN = 'printf %s "$DEEPER_JOB_BEGAN" >"$folder/began"'
PARTS = ("script and launcher", "data", "Ray", "other nodes", "deeper run", "workers")


def start(user: UserFolder, hosts: int, number: int) -> dict[str, float]:
    """Submit a job of one run: the seconds of each part of its start, of all, and the load when it was submitted."""
    name, load = f"start-{hosts}-{number}", os.getloadavg()[0]
    user.write(name, resources=HOSTS[hosts], seeds=[number], recipe={**RECIPE, "epochs": 1})
    user.ended(name, user.submit(name, "--no-report", nodes=hosts, setup=[NOTES_WHEN_IT_BEGAN])["grid"])
    [said] = re.findall(r"after the job began \((.*)\)", user.log(name))
    parts = {part: float(seconds) for part, seconds in re.findall(r"([a-zA-Z ]+) ([\d.]+) s", said)}
    [run] = user.runs(name).values()
    began, *_ = user.events(run["key"])
    [noted] = user.records.glob(f"experiments/{name}/slurm/*/began")
    total = began["t"] - float(noted.read_text(encoding="utf-8"))
    parts = {part.strip(): seconds for part, seconds in parts.items()}
    parts |= {"deeper run": round(total - sum(parts.values()) - began["workers_s"], 1)}
    parts |= {"workers": round(began["workers_s"], 1)}
    return {**parts, "all": round(total, 1), "load": round(load, 1)}


def tables(measured: Mapping[str, Any]) -> str:
    """Return the table of the page, in Markdown."""
    lines = [f"| hosts | n | load | {' | '.join(PARTS)} | all |", f"|--:|--:|--:|{'--:|' * len(PARTS)}--:|"]
    for hosts, starts in measured["starts"].items():
        cells = [f"{statistics.median(one[part] for one in starts):.1f}" for part in PARTS]
        alls, loads = ([one[name] for one in starts] for name in ("all", "load"))
        all_of_it = f"{statistics.median(alls):.1f} ({min(alls):.1f} to {max(alls):.1f})"
        load = f"{min(loads):.1f} to {max(loads):.1f}"
        lines.append(f"| {hosts} | {len(starts)} | {load} | {' | '.join(cells)} | {all_of_it} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=3, help="jobs of each kind")
    parser.add_argument("--out", type=Path, default=HERE / "job-start.json")
    options = parser.parse_args()
    starts: dict[str, list[dict[str, float]]] = {str(hosts): [] for hosts in HOSTS}
    with tempfile.TemporaryDirectory(prefix="deeper-") as folder, Cluster(Path(folder)) as cluster:
        user = user_folder(cluster, "user")
        for number in range(options.times):
            for hosts in HOSTS:
                starts[str(hosts)].append(start(user, hosts, number))
                print(hosts, json.dumps(starts[str(hosts)][-1]), file=sys.stderr)
    content = {"command": f"python results/slurm/job_start.py --times {options.times}", "starts": starts}
    options.out.write_text(json.dumps(with_provenance("job-start", content), indent=1) + "\n", encoding="utf-8")
    print(tables(content))


if __name__ == "__main__":
    main()
