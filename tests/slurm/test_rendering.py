"""The job scripts match the golden files, and every name and option reaches them as it is.

After a change of the templates, run DEEPER_GOLDEN=write pytest tests/slurm/test_rendering.py and read the difference.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reproduce.spec import SpecError
from slurm.profile import SHIPPED, Profile, load_profile
from slurm.rendering import Job, render_job, render_report

GOLDEN = Path(__file__).parent / "golden"
PYTHON = "/project/deeper/.venv/bin/python"
FORMS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "one-gpu-node": {"split": 4, "seeds": (0, 1), "retry_failed": True},
    "gpu-nodes": {"address": "head:6379"},
}


def golden_job(form: dict[str, Any]) -> Job:
    records = Path("/project/records")
    folder = records / "experiments/ablation-imagenet/slurm/20260102-030405"
    return Job(experiment="ablation-imagenet", folder=folder, records=records, data=Path("/project/data"), **form)


def golden_profile(name: str) -> Profile:
    return load_profile(SHIPPED / f"{name}.yaml").model_copy(update={"python": PYTHON})


# --- golden files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_scripts_match_the_golden_files(name: str) -> None:
    for kind, render in (("job", render_job), ("report", render_report)):
        script = render(golden_job(FORMS[name]), golden_profile(name))
        golden = GOLDEN / f"{name}-{kind}.sh"
        if os.environ.get("DEEPER_GOLDEN") == "write":
            golden.write_text(script, encoding="utf-8")
        assert script == golden.read_text(encoding="utf-8"), f"{golden.name} differs; see the top of this file"


def test_every_shipped_profile_has_golden_files() -> None:
    assert set(FORMS) == {path.stem for path in SHIPPED.glob("*.yaml")}
    assert {path.name for path in GOLDEN.iterdir()} == {
        f"{name}-{kind}.sh" for name in FORMS for kind in ("job", "report")
    }


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_accepts_the_golden_files(golden: Path) -> None:
    subprocess.run(["bash", "-n", golden], check=True)
    if not shutil.which("shellcheck") and not os.environ.get("CI"):
        pytest.skip("shellcheck is not installed")
    assert subprocess.run(["shellcheck", golden], capture_output=True, text=True, encoding="utf-8").stdout == ""


def test_a_percent_sign_in_a_path_is_no_placeholder_of_sbatch() -> None:
    job = dataclasses.replace(golden_job({}), folder=Path("/data/100%j"))
    assert "#SBATCH --output=/data/100%%j/grid-%j.log" in render_job(job, golden_profile("cpu")).splitlines()
    assert "#SBATCH --output=/data/100%%j/report-%j.log" in render_report(job, golden_profile("cpu")).splitlines()


def test_a_line_break_in_a_path_cannot_end_a_directive() -> None:
    job = dataclasses.replace(golden_job({}), folder=Path("/data/a\nrm -rf b"))
    with pytest.raises(SpecError, match="has a character that a job script cannot hold"):
        render_job(job, golden_profile("cpu"))


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" '\"$`\\;#&|%"), min_size=1))
def test_any_name_reaches_the_launcher_as_it_is(name: str) -> None:
    job = dataclasses.replace(golden_job({}), arms=(name,), data=Path("/data") / name.replace("/", ""))
    script = render_job(job, golden_profile("cpu"))
    array = script[script.index("launcher=(") : script.index("\n)", script.index("launcher=(")) + 2]
    said = subprocess.run(
        ["bash"], input=f"folder=/f\n{array}\nprintf '%s\\0' \"${{launcher[@]}}\"".encode(), stdout=-1
    )
    words = said.stdout.decode().split("\0")
    assert f"--arm={name}" in words  # in one word: an arm may begin with a hyphen
    assert words[words.index("--data") + 1] == str(job.data)


def test_the_report_has_a_partition_and_options_of_its_own() -> None:
    report = {"partition": "cpu", "memory_gib": 8, "sbatch": ["--mail-type=END"]}
    profile = Profile.model_validate(
        {"time": "1:00:00", "cpus_per_node": 2, "partition": "gpu", "account": "lab", "qos": "long", "report": report}
    )
    lines = [line for line in render_report(golden_job({}), profile).splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --partition=cpu", "#SBATCH --account=lab", "#SBATCH --mem=8G", "#SBATCH --mail-type=END"} <= {
        *lines
    }
    assert not [line for line in lines if "qos" in line], "the partition's own"


def test_options_of_sbatch_keep_spaces_and_quotes() -> None:
    profile = Profile(
        time="1:00:00", cpus_per_node=2, sbatch=['--comment="two words, it\'s"', "--nice=5", "--overcommit"]
    )
    lines = render_job(golden_job({}), profile).splitlines()
    assert "#SBATCH --comment='two words, it'\"'\"'s'" in lines
    assert {"#SBATCH --nice=5", "#SBATCH --overcommit"} <= set(lines)


def test_directives_come_before_the_first_command() -> None:
    lines = render_job(golden_job({}), golden_profile("cpu")).splitlines()
    assert all(line.startswith("#") for line in lines[: max(i for i, line in enumerate(lines) if "#SBATCH" in line)])
