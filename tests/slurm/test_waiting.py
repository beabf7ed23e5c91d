"""Jobs that wait: for other jobs, and for their turn within an array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from slurm.profile import Profile
from slurm.rendering import Job, render_job, render_report

FOLDER = Path("/project/records/experiments/tiny/slurm/20260101-000000")


def options(profile: dict[str, Any], **form: Any) -> set[str]:
    script = render_job(
        Job("tiny", FOLDER, Path("/project/records"), Path("/project/data"), **form),
        Profile.model_validate({"time": "1:00:00", "cpus_per_node": 2, **profile}),
    )
    return {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")}


@pytest.mark.parametrize(
    ("profile", "form", "expected"),
    [
        ({}, {"split": 4}, "--array=0-3"),
        ({"throttle": 2}, {"split": 4}, "--array=0-3%2"),
        ({"throttle": 2}, {"split": 4, "throttle": 3}, "--array=0-3%3"),
        ({}, {"after": ("17", "afterok:18")}, "--dependency=afterany:17,afterok:18"),
        ({"dependency": "singleton"}, {}, "--dependency=singleton"),
        ({"dependency": "singleton"}, {"after": ("17",)}, "--dependency=singleton,afterany:17"),
    ],
)
def test_the_profile_and_the_command_line_say_how_jobs_wait(
    profile: dict[str, Any], form: dict[str, Any], expected: str
) -> None:
    found = options(profile, **form)
    assert expected in found
    assert ("--kill-on-invalid-dep=yes" in found) == ("dependency" in expected)


def test_a_job_that_waits_for_nothing_has_no_such_option() -> None:
    assert not [option for option in options({"throttle": 2}) if "array" in option or "dep" in option]


def test_the_report_waits_for_its_own_experiment_alone() -> None:
    profile = Profile(time="1:00:00", cpus_per_node=2, dependency="singleton")
    job = Job("tiny", FOLDER, Path("/project/records"), Path("/project/data"), after=("17",))
    assert "dependency" not in render_report(job, profile).split("folder=")[0].split("\n", 3)[3]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--throttle", "2"], "--throttle: 2 elements of an array, but there is none; add --split N"),
        (
            ["--after", "ablation"],
            "--after: 'ablation' is neither the id of a job, e.g. 17, nor one of after",
        ),
        (["--after", "whenever:17"], "--after: 'whenever:17' is neither the id of a job"),
    ],
)
def test_a_mistake_is_one_sentence(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "render", "ablation-imagenet", "--profile", "cpu", *given]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
