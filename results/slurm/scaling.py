"""Measures training over three hosts of the SLURM of the tests, and the prediction of it, into scaling.json.

    PYTHONPATH=. python results/slurm/scaling.py [--seconds 20]

`deeper slurm check` measures them once for each speed of the hosts' links, which the kernel's token buckets limit.
Needs root and what `make setup-tests` installs; takes some eight minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.results.store import with_provenance
from bench.suites.scaling.prediction import PREDICTED, SPEED

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "tests" / "slurm"))
from cluster import THREE_HOSTS, Cluster  # noqa: E402
from user_folder import RECIPE, user_folder  # noqa: E402

LINKS = {"memory": None, "1 Gbit/s": "1gbit", "200 Mbit/s": "200mbit"}
"""What limits the bytes that leave a host: by name, the rate that the kernel is told."""


def check(cluster: Cluster, name: str, seconds: float) -> dict[str, Any]:
    """Measure the hosts, and return the result of training over them with the load when they were submitted."""
    place = cluster.shared / name.replace("/", "-").replace(" ", "-")
    user = user_folder(cluster, place.name)
    user.prefix = ("env", f"XDG_CACHE_HOME={place}/cache")  # `deeper plan` is not to take these hosts for real ones
    user.write("three", resources={"workers": 3}, recipe={**RECIPE, "batch_size": 48, "resolution": 64})
    user.write_profile(nodes=len(THREE_HOSTS), cpus_per_node=1)
    load = os.getloadavg()[0]
    print(
        user.deeper("slurm", "check", "three.yaml", "--profile", "profile.yaml", "--seconds", f"{seconds:g}").stdout,
        file=sys.stderr,
    )
    [file] = place.glob("records/checks/*/scaling-nodes.json")
    result = json.loads(file.read_text(encoding="utf-8"))
    return {"load": round(load, 1), "setting": result["setting"], "comparisons": result["comparisons"]}


def table(measured: Mapping[str, Any]) -> str:
    """Return the table of the page, in Markdown."""
    lines = [
        "| links | n | load | not connected, images/s | connected, images/s | predicted / measured: median (range) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, found in measured["links"].items():
        [comparison] = found["comparisons"]
        speeds = {
            arrangement: [measured[SPEED] for measured in values]
            for arrangement, values in comparison["rounds"].items()
        }
        ours, apart = speeds[comparison["name"]], speeds[f"{comparison['name']}, not connected"]
        ratios = [predicted / value for predicted, value in zip(speeds[PREDICTED], ours, strict=True)]
        lines.append(
            f"| {name} | {len(ours)} | {found['load']} | {statistics.median(apart):.1f} | "
            f"{statistics.median(ours):.1f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each arrangement trains")
    parser.add_argument("--output", type=Path, default=HERE / "scaling.json")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="deeper-") as folder, Cluster(Path(folder), THREE_HOSTS) as cluster:
        for name, rate in LINKS.items():
            for host in THREE_HOSTS if rate else ():
                cluster.on(
                    host,
                    *("tc", "qdisc", "replace", "dev", "uplink", "root"),
                    *("tbf", "rate", str(rate), "burst", "256kb", "latency", "100ms"),
                )
            found[name] = check(cluster, name, options.seconds)
    content = {"command": f"python results/slurm/scaling.py --seconds {options.seconds:g}", "links": found}
    options.output.write_text(json.dumps(with_provenance("scaling", content), indent=1) + "\n", encoding="utf-8")
    print(table(content))


if __name__ == "__main__":
    main()
