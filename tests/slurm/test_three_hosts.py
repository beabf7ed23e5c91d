"""Jobs on a real SLURM of three hosts."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from cluster import THREE_HOSTS, Cluster, until
from user_folder import OVER_BOTH, RECIPE, UserFolder, user_folder

from slurm.profile import Profile
from slurm.rendering import Job
from slurm.submission import write_scripts
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
CHANGED = ROOT / "reproduce" / "training" / "schedules.py"
THREE = {"workers": 3, "cpus_per_worker": 2}
BATCH = {"batch_size": 30}


@pytest.fixture(scope="module")
def user(cluster_of_three: Cluster) -> UserFolder:
    return user_folder(cluster_of_three, "three")


@pytest.mark.long
def test_a_run_spans_three_hosts_with_copies_of_the_data_on_their_own_disks(user: UserFolder) -> None:
    user.write("over-three", recipe={**RECIPE, **BATCH}, resources=THREE)
    user.ended("over-three", user.submit("over-three", "--no-report", nodes=3, scratch="/tmp")["grid"])
    staged = re.findall(r" (n\d): staged .* to /tmp/deeper-0/\w+ in .* verified", user.log("over-three"))
    assert sorted(staged) == [*THREE_HOSTS]
    start, *_ = events = user.events(user.runs("over-three")["both s0"]["key"])
    assert start["world_size"] == 3
    assert sorted(start["hosts"]) == ["n1", "n2", "n3"]
    assert events[-1]["outcome"] == "finished"


@pytest.mark.long
def test_a_run_on_two_of_three_hosts_goes_on_with_the_third_when_one_is_lost(user: UserFolder) -> None:
    user.write("two-of-three", recipe={**RECIPE, "epochs": 4}, resources=OVER_BOTH)
    job = user.submit("two-of-three", "--no-report", nodes=3)["grid"]
    until(lambda: user.runs("two-of-three")["both s0"]["state"] == "running", "the start", seconds=PATIENCE_S)
    key = user.runs("two-of-three")["both s0"]["key"]
    user.begun(key)
    first = user.events(key)[0]["hosts"]
    lost = next(host for host in first if host != user.cluster.job(job)["BatchHost"])
    try:
        user.cluster.kill_host(lost)
        user.ended("two-of-three", job)
    finally:
        user.cluster.start_host(lost)
    events = user.events(key)
    again = next(event["hosts"] for event in events if event["attempt"] == 2)
    assert lost not in again
    assert sorted({*first, *again}) == [*THREE_HOSTS]
    assert events[-1]["outcome"] == "finished"
    assert user.cluster.job(job)["Restarts"] == "0"


def test_the_launchers_of_an_exclusive_job_use_all_cpus_of_nodes_that_differ(cluster_of_three: Cluster) -> None:
    """A double of Python says what the launcher of each node would take: n1 has four CPUs and n3 two."""
    place = cluster_of_three.shared / "differing"
    place.mkdir()
    python = place / "python"
    code = "from slurm.job.node.allocation import read_allocation as read; print(read().host, read().cpus)"
    python.write_text(f"#!/bin/bash\nexec {sys.executable} -c '{code}'\n", encoding="utf-8")
    python.chmod(0o755)
    fields = {"time": "10:00", "nodes": 2, "cpus_per_node": 2, "exclusive": True, "sbatch": ("--nodelist=n1,n3",)}
    job = Job("differing", place / "folder", records=place / "records", data=place / "data")
    write_scripts(job, Profile(**fields, python=str(python)), "name: differing")
    number = cluster_of_three.login("sbatch", "--parsable", f"{job.folder}/job.sh").stdout.strip()
    assert cluster_of_three.wait(number) == "COMPLETED"
    log = (job.folder / f"grid-{number}.log").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^n\d \d$", log, flags=re.MULTILINE)) == ["n1 4", "n3 2"], log


@pytest.mark.long
def test_the_check_names_the_one_spoilt_host_of_three(user: UserFolder) -> None:
    """It has other code; what the majority has is right."""
    records = user.folder / "check-records"
    records.mkdir()
    (user.folder / "tiny.yaml").write_text(
        yaml.safe_dump(
            {"name": "tiny", "data": {"path": "stripes"}, "recipe": RECIPE, "arms": {"a": {}}, "seeds": [0]}
        ),
        encoding="utf-8",
    )
    profile = user.folder / "check.yaml"
    profile.write_text(yaml.safe_dump({"time": "10:00", "nodes": 3, "cpus_per_node": 2}), encoding="utf-8")
    other = user.folder / "other.py"
    shutil.copy(CHANGED, other)
    with other.open("a", encoding="utf-8") as file:
        file.write("\n# as an older checkout\n")
    command = [sys.executable, "-m", "bench.cli", "slurm", "check", "tiny.yaml", "--profile", profile, "--json"]
    command += ["--seconds", "1", "--records", records, "--data", user.folder / "data"]
    user.cluster.on("n3", "mount", "--bind", other, CHANGED)
    try:
        answer = user.cluster.login(*command, cwd=user.folder, timeout=PATIENCE_S, check=False)
    finally:
        user.cluster.on("n3", "umount", "--lazy", CHANGED)
    assert answer.returncode == 1, answer.stderr
    verdicts = {verdict["host"]: verdict for verdict in json.loads(answer.stdout)}
    assert {host: verdict["problems"] for host, verdict in verdicts.items() if host != "n3"} == {"n1": [], "n2": []}
    assert verdicts["n3"]["verdict"] == "unfit"
    assert "code is " in " ".join(verdicts["n3"]["problems"])
