"""A job script that a user submits by hand says, in a real SLURM, where the job differs from its profile."""

from __future__ import annotations

from typing import Any

import pytest

from slurm.profile import Profile
from slurm.rendering import Job, displayed_time
from slurm.submission import write_scripts

PYTHON = """#!/bin/bash
exit 0
"""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1200, "20:00"), (90, "2:00"), (5400, "1:30:00"), (129600, "1-12:00:00"), (86400, "1-00:00:00"), (30, "1:00")],
)
def test_a_time_limit_is_written_as_squeue_shows_it(seconds: int, text: str) -> None:
    assert displayed_time(seconds) == text


def test_a_job_that_is_typed_by_hand_says_where_it_differs_from_the_profile(cluster: Any) -> None:
    place = cluster.shared / "typed"
    place.mkdir()
    python = place / "python"
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)
    job = Job("tiny", place / "folder", records=place / "records", data=place / "data")
    fields = {"time": "1:30:00", "nodes": 2, "cpus_per_node": 1, "gpus_per_node": 0, "memory_gib": 1}
    write_scripts(job, Profile.model_validate({**fields, "python": str(python)}), "name: tiny")

    def log_of(*options: str) -> str:
        said = cluster.login("sbatch", "--parsable", *options, f"{job.folder}/job.sh").stdout
        assert cluster.wait(said.strip(), timeout=60) == "COMPLETED"
        return str((job.folder / f"grid-{said.strip()}.log").read_text(encoding="utf-8"))

    short = log_of("--time=5", "--nodes=1", "--cpus-per-task=2", "--mem=2G")
    assert "time: the profile asks for 1:30:00, and this job has 5:00" in short
    assert "nodes: the profile asks for 2, and this job has 1" in short
    assert "cpus_per_node: the profile asks for 1, and this job has 2" in short
    assert "memory_gib: the profile asks for 1, and this job has 2" in short
    assert short.count("the profile asks for") == 4
    limit = cluster.login("squeue", "--states=all", "--noheader", "--format=%l", "--name=tiny").stdout.split()[-1]
    assert limit == displayed_time(300)
