"""What `deeper slurm` writes, submits, prints and refuses; its scripts in a real SLURM, with a double of python."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.cli import main
from bench.records.plan import plan_hash, read_plan
from bench.records.record import Record
from bench.records.states import run_folder
from slurm.profile import Profile, load_profile
from slurm.queries import SlurmError
from slurm.rendering import Job
from slurm.submission import create_submission_folder, submission_order, submit, write_scripts

EXPERIMENT = """
name: tiny # a comment that a copy keeps
data: {path: synthetic}
recipe: {epochs: 1, batch_size: 16, resolution: 32, learning_rate: 0.01}
arms:
  heads: {network: {aux: both}}
  plain: {network: {aux: none}}
seeds: [0, 1]
"""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an experiment and a profile in it, and no SLURM on PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    monkeypatch.delenv("DEEPER_PROFILE", raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
    (tmp_path / "lab.yaml").write_text("{time: '1:00:00', cpus_per_node: 2}", encoding="utf-8")
    return tmp_path


@pytest.fixture
def with_sbatch(bare: Path, synthetic_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with prepared data and an sbatch that accepts everything that the (skipped) check would let pass."""
    (bare / "data").mkdir()
    (bare / "data" / "synthetic").symlink_to(synthetic_data)
    stub(
        bare,
        'echo "$@" >>calls; read -r number <counter || number=17; echo $((number + 1)) >counter; echo "$number;test"',
    )
    (bare / "counter").write_text("17\n", encoding="utf-8")
    monkeypatch.setattr("slurm.checks.check_submission", lambda *_, **__: None)
    return bare


def stub(folder: Path, script: str) -> None:
    """An sbatch that runs `script` in `folder`."""
    sbatch = folder / "bin" / "sbatch"
    sbatch.write_text(f"#!/bin/bash\ncd {folder}\n{script}\n", encoding="utf-8")
    sbatch.chmod(0o755)


def submissions(folder: Path) -> list[Path]:
    return sorted(folder.glob("records/experiments/tiny/slurm/*"))


# --- submit ----------------------------------------------------------------------------------------


def test_submit_writes_everything_that_a_requeued_job_needs(
    with_sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["slurm", "submit", "tiny.yaml", "--profile", "lab.yaml", "--arm", "plain"]) == 0
    [folder] = submissions(with_sbatch)
    assert (folder / "experiment.yaml").read_text(encoding="utf-8") == EXPERIMENT
    assert load_profile(folder / "profile.yaml") == load_profile("lab.yaml")
    assert json.loads((folder / "jobs.json").read_text(encoding="utf-8")) == {"grid": "17", "report": "18"}
    assert all(stat.S_IXUSR & (folder / name).stat().st_mode for name in ("job.sh", "report.sh"))
    grid, report = (with_sbatch / "calls").read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(rf"--parsable --job-name=tiny --time=1:00:00 .* {folder}/job.sh", grid)
    assert re.fullmatch(rf"--parsable --dependency=afterany:17 --job-name=tiny-report .* {folder}/report.sh", report)
    planned = read_plan(with_sbatch / "records", "tiny")
    assert (folder / "plan").read_text(encoding="utf-8") == plan_hash(planned)
    assert len(planned) == 4  # of the whole experiment, as `deeper run` writes it
    said = capsys.readouterr().out
    assert "2 runs submitted as job 17, report as job 18" in said
    assert f"{folder}/grid-17.log" in said
    assert "deeper status tiny" in said
    assert "scancel 17" in said


def test_simultaneous_submissions_have_different_folders(tmp_path: Path) -> None:
    assert len({create_submission_folder(tmp_path, "tiny") for _ in range(3)}) == 3


def test_an_array_is_submitted_without_a_report(with_sbatch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "submit", "tiny.yaml", "--profile", "lab.yaml", "--split", "2", "--no-report"]) == 0
    [folder] = submissions(with_sbatch)
    assert json.loads((folder / "jobs.json").read_text(encoding="utf-8")) == {"grid": "17"}
    assert f"{folder}/grid-17_*.log" in capsys.readouterr().out


def test_a_refusal_by_sbatch_is_a_one_line_error(with_sbatch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stub(with_sbatch, "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1")
    assert main(["slurm", "submit", "tiny.yaml", "--profile", "lab.yaml"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "deeper: sbatch: Batch job submission failed: Invalid account"
    assert submissions(with_sbatch) == [], "no dead folder stays"


def test_a_finished_experiment_is_not_submitted_again(with_sbatch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit_tiny = ["slurm", "submit", "tiny.yaml", "--profile", "lab.yaml"]
    assert main(submit_tiny) == 0
    entries = read_plan(with_sbatch / "records", "tiny")
    for entry in entries:
        Record(run_folder(with_sbatch / "records", entry.key)).abandon("wrong")
    capsys.readouterr()
    assert main(submit_tiny) == 0
    assert "nothing to do: all 4 runs have ended, and no job is submitted" in capsys.readouterr().out
    assert len(submissions(with_sbatch)) == 1
    assert main([*submit_tiny, "--retry-failed", "--seed", "1"]) == 0
    assert "2 runs submitted" in capsys.readouterr().out


def test_the_commands_that_follow_a_submission_can_be_typed(
    with_sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["slurm", "submit", "tiny.yaml", "--profile", "lab.yaml", "--records", "my records"]) == 0
    said = [line.partition(":")[2] for line in capsys.readouterr().out.splitlines() if " deeper " in line]
    assert [shlex.split(command)[-1] for command in said] == [str(with_sbatch / "my records")] * 3


def test_submissions_are_ordered_by_time() -> None:
    names = ["20260102-030405", "20260102-030405-2", "20260102-030405-10", "20260103-000000"]
    assert sorted(map(Path, reversed(names)), key=submission_order) == list(map(Path, names))


def test_data_that_this_user_may_not_read_are_refused(
    with_sbatch: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, *_, **__: not str(path).endswith("train.beton"))
    assert main(["slurm", "submit", "tiny.yaml", "--profile", "lab.yaml"]) == 2
    assert "train.beton: cannot be read by this user" in capsys.readouterr().err
    assert submissions(with_sbatch) == []


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_too_little_room_on_the_disk_is_refused(
    with_sbatch: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr("bench.planning.plan.SPARE_BYTES", 2**60)
    assert main(["slurm", "submit", "tiny.yaml", "--profile", "lab.yaml", *options]) == 2
    assert "GiB are needed and" in capsys.readouterr().err


def test_a_ray_cluster_that_does_not_listen_is_refused(with_sbatch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    assert main(["slurm", "submit", "tiny.yaml", "--profile", "lab.yaml", "--address", address]) == 2
    assert f"--address: {address}: no Ray cluster can be joined there: Connection refused" in capsys.readouterr().err


def test_the_id_of_a_job_whose_report_was_refused_is_kept(with_sbatch: Path) -> None:
    stub(with_sbatch, 'case "$*" in *report.sh*) echo "no more jobs" >&2; exit 1;; esac; echo 17')
    job = Job("tiny", with_sbatch / "out", records=with_sbatch, data=with_sbatch)
    write_scripts(job, load_profile("lab.yaml"), EXPERIMENT)
    with pytest.raises(SlurmError, match="job 17 is submitted, its report is not: sbatch: no more jobs"):
        submit(job.folder)
    assert json.loads((job.folder / "jobs.json").read_text(encoding="utf-8")) == {"grid": "17"}


def test_without_slurm_the_message_says_how_to_submit_by_hand(
    bare: Path, synthetic_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bare / "data").mkdir()
    (bare / "data" / "synthetic").symlink_to(synthetic_data)
    assert main(["slurm", "submit", "tiny.yaml", "--profile", "lab.yaml"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "no sbatch on PATH" in line
    assert "deeper slurm render" in line


def test_a_dry_run_writes_nothing(with_sbatch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stub(with_sbatch, 'echo "sbatch: Job 9 to start at noon" >&2; echo "$1" >calls')
    assert main(["slurm", "submit", "tiny.yaml", "--profile", "lab.yaml", "--dry-run"]) == 0
    assert "Job 9 to start at noon" in capsys.readouterr().out
    assert (with_sbatch / "calls").read_text(encoding="utf-8") == "--test-only\n", "nothing but a question"
    (with_sbatch / "bin" / "sbatch").unlink()
    assert main(["slurm", "submit", "tiny.yaml", "--profile", "lab.yaml", "--dry-run"]) == 0
    assert "there is no SLURM here" in capsys.readouterr().out
    assert not (with_sbatch / "records").exists()


# --- render and profiles ---------------------------------------------------------------------------


def test_render_needs_neither_slurm_nor_data(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "render", "tiny.yaml", "--profile", "lab.yaml"]) == 0
    scripts = capsys.readouterr().out
    assert scripts.startswith("#!/bin/bash\n# Runs the experiment tiny. ")
    assert "\n# ===== report.sh" in scripts
    assert {path.name for path in bare.iterdir()} == {"bin", "tiny.yaml", "lab.yaml"}


def test_render_never_overwrites_a_folder(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["slurm", "render", "tiny.yaml", "--profile", "lab.yaml", "--output", "scripts"]
    assert main(command) == 0
    assert {path.name for path in (bare / "scripts").iterdir()} == {
        *("job.sh", "report.sh", "experiment.yaml", "profile.yaml")
    }
    assert f"folder={bare}/scripts\n" in (bare / "scripts" / "job.sh").read_text(encoding="utf-8")
    assert main(command) == 2
    assert "is never overwritten; name another folder" in capsys.readouterr().err


def test_a_shipped_experiment_is_copied(bare: Path) -> None:
    assert main(["slurm", "render", "quickstart", "--profile", "cpu", "--output", "scripts"]) == 0
    assert yaml.safe_load((bare / "scripts" / "experiment.yaml").read_text(encoding="utf-8"))["name"] == "quickstart"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--profile: not given; name one of cpu, gpu-nodes, one-gpu-node"),
        (["--profile", "cpu", "--split", "5"], "--split: 4 runs cannot be split into 5; use 1 to 4"),
        (["--profile", "cpu", "--split", "0"], "--split: 4 runs cannot be split into 0"),
        (["--profile", "cpu", "--arm", "head"], "--arm: 'head' is not in this experiment; it has heads, plain"),
        (["--profile", "cpu", "--address", "auto"], "--address: 'auto' is not HOST:PORT"),
    ],
)
def test_an_invalid_option_is_a_one_line_error(
    bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(bare))
    assert main(["slurm", "render", "tiny.yaml", *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"deeper: {message}")


def test_an_invalid_profile_is_listed_with_its_mistake(
    bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(bare))
    monkeypatch.setenv("COLUMNS", "400")
    (bare / "deeper").mkdir()
    (bare / "deeper" / "lab.yaml").write_text("{time: '1:00', cpus: 2}", encoding="utf-8")
    assert main(["slurm", "profiles"]) == 0
    said = capsys.readouterr().out
    assert "Two CPU nodes, connected by gloo" in said
    assert "cpus: unknown key" in said


def test_help_loads_neither_torch_nor_pydantic_nor_jinja() -> None:
    code = "import sys, slurm.commands; sys.exit(any(name in sys.modules for name in ('torch', 'pydantic', 'jinja2')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- in a real SLURM -------------------------------------------------------------------------------

# A double of python: as the launcher it is interrupted at its first start, otherwise it says what it was asked for.
PYTHON_DOUBLE = """#!/bin/bash
case $2 in
    slurm.job.launcher)
        echo "$@" >>"$HERE/$SLURM_JOB_ID.starts"
        [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || exit 75
        ;;
    *) echo "asked for: ${*:2}" ;;
esac
"""


@pytest.mark.parametrize("split", [None, 2])
def test_a_real_slurm_requeues_each_element_and_then_runs_the_report(cluster: Any, split: int | None) -> None:
    place = cluster.shared / f"it's {'an array' if split else 'one job'}"
    place.mkdir()
    python = place / "python double"
    python.write_text(PYTHON_DOUBLE, encoding="utf-8")
    python.chmod(0o755)
    profile = Profile(
        time="2:00",
        signal_before_s=10,
        nodes=2 if split is None else 1,
        cpus_per_node=1,
        python=str(python),
        setup=[f'export HERE="{place}"'],
        sbatch=['--comment="two words"'],
    )
    job = Job("tiny", place / "folder", records=place / "records", data=place / "data", split=split)
    write_scripts(job, profile, EXPERIMENT)
    code = f"from pathlib import Path; from slurm.submission import submit; submit(Path({str(job.folder)!r}))"
    cluster.login(sys.executable, "-c", code, cwd=Path(__file__).parents[2])
    jobs = json.loads((job.folder / "jobs.json").read_text(encoding="utf-8"))
    assert cluster.wait(jobs["report"]) == "COMPLETED"

    starts = [path.read_text(encoding="utf-8").splitlines() for path in place.glob("*.starts")]
    if split is None:
        assert [len(lines) for lines in starts] == [2 + 2]  # two nodes, two starts
        assert cluster.job(jobs["grid"])["Comment"] == "two words"
    else:
        assert [len(lines) for lines in starts] == [2, 2]
        assert sorted(lines[0].split()[-1] for lines in starts) == ["1/2", "2/2"]
    logs = [path.read_text(encoding="utf-8") for path in job.folder.glob("grid-*.log")]
    assert len(logs) == (split or 1)
    assert all("restart 1 of at most 10" in log and log.rstrip().endswith("job.sh: done") for log in logs)
    report = (job.folder / f"report-{jobs['report']}.log").read_text(encoding="utf-8")
    assert [line.split()[2:4] for line in report.splitlines() if line.startswith("asked for:")] == [
        ["bench.tracking.publisher", "--records"],
        ["bench.cli", "status"],
        ["bench.cli", "report"],
    ]


# Notes what each node's launcher sees; the head node's ends as "all finished", and the other's is killed.
SEEING_DOUBLE = """#!/bin/bash
case $2 in
    slurm.job.launcher)
        { env; echo "THE_PATH=$PATH"; } >"$HERE/$SLURM_PROCID.environment"
        [ "$SLURM_PROCID" = 0 ] || kill -KILL $$
        printf 0 >"$4/exit-code-$SLURM_JOB_ID"
        ;;
esac
"""


def seeing_job(cluster: Any, name: str, **fields: Any) -> Job:
    """A submission over both hosts whose python is a double that notes its environment."""
    place = cluster.shared / name
    place.mkdir()
    python = place / "python"
    python.write_text(SEEING_DOUBLE, encoding="utf-8")
    python.chmod(0o755)
    setup = [f'export HERE="{place}" OF_SETUP=yes PATH="/opt/of-setup:$PATH"']
    profile = {"time": "2:00", "signal_before_s": 10, "nodes": 2, "cpus_per_node": 1, "partition": "main"}
    profile |= {"memory_gib": 1, "python": str(python), "setup": setup, "tracking_uri": "http://tracking:5000"}
    job = Job("tiny", place / "folder", records=place / "records", data=place / "data")
    write_scripts(job, Profile.model_validate({**profile, **fields}), EXPERIMENT)
    return job


def submit_from(cluster: Any, job: Job, *within: str, **environment: str) -> dict[str, str]:
    """Submit a job on the login node from a shell with these variables, or from within an allocation."""
    code = "import sys, pathlib, slurm.submission as it; it.submit(pathlib.Path(sys.argv[1]), report=False)"
    cluster.login(*within, sys.executable, "-c", code, job.folder, cwd=Path(__file__).parents[2], env=environment)
    number = json.loads((job.folder / "jobs.json").read_text(encoding="utf-8"))["grid"]
    log = job.folder / f"grid-{number}.log"
    assert cluster.wait(number) == "COMPLETED", log.read_text(encoding="utf-8")
    fields: dict[str, str] = cluster.job(number)
    return fields


def test_the_profile_wins_over_a_real_submitting_shell_and_the_first_nodes_code_over_a_killed_one(cluster: Any) -> None:
    job = seeing_job(cluster, "foreign shell")
    shell = {"SLURM_MEM_PER_CPU": "100", "SLURM_CPU_BIND": "quiet,mask_cpu:0xf0", "SLURM_NTASKS": "7"}
    shell |= {"SBATCH_PARTITION": "low", "SBATCH_TIMELIMIT": "1", "SBATCH_ARRAY_INX": "0-3", "SBATCH_ACCOUNT": "lab"}
    fields = submit_from(cluster, job, **shell)
    assert (fields["Partition"], fields["TimeLimit"], fields["NumNodes"]) == ("main", "00:02:00", "2")
    assert fields["Account"] == "lab", "what the profile leaves open is the shell's"


def test_a_job_is_submitted_from_within_an_allocation(cluster: Any) -> None:
    allocation = ("salloc", "--quiet", "--nodes=1", "--mem-per-cpu=100", "--time=5")
    fields = submit_from(cluster, seeing_job(cluster, "within salloc"), *allocation)
    assert fields["NumNodes"] == "2"


def test_a_script_that_is_typed_within_an_allocation_undoes_what_that_has_left(cluster: Any) -> None:
    job = seeing_job(cluster, "by hand")
    script = f"sbatch --parsable --partition=high '{job.folder}/job.sh'"
    said = cluster.login("salloc", "--quiet", "--nodes=1", "--mem-per-cpu=100", "--time=5", "bash", "-c", script)
    number = said.stdout.strip()
    assert cluster.wait(number) == "COMPLETED"
    log = (job.folder / f"grid-{number}.log").read_text(encoding="utf-8")
    assert "partition: the profile asks for main, and this job has high" in log


@pytest.mark.parametrize("of_site", [False, True], ids=["in the profile", "of the site"])
def test_variables_reach_the_nodes_of_a_real_job_without_the_shells_environment(cluster: Any, of_site: bool) -> None:
    job = seeing_job(cluster, f"none {of_site}", sbatch=() if of_site else ("--export=NONE",))
    submit_from(cluster, job, ONLY_OF_THE_SHELL="yes", **({"SBATCH_EXPORT": "NONE"} if of_site else {}))
    seen = [(job.folder.parent / f"{rank}.environment").read_text(encoding="utf-8") for rank in (0, 1)]
    tokens = {line for text in seen for line in text.splitlines() if line.startswith("RAY_AUTH_TOKEN=")}
    assert len(tokens) == 1
    for text in seen:
        assert {"OF_SETUP=yes", "MLFLOW_TRACKING_URI=http://tracking:5000"} <= set(text.splitlines())
        assert "\nTHE_PATH=/opt/of-setup:" in text
        assert "ONLY_OF_THE_SHELL" not in text


def test_a_wrong_constraint_is_one_sentence_of_a_real_slurm(cluster: Any) -> None:
    job = seeing_job(cluster, "constrained", constraint="a1000")
    code = f"from pathlib import Path; from slurm.submission import submit; submit(Path({str(job.folder)!r}))"
    refused = cluster.login(sys.executable, "-c", code, cwd=Path(__file__).parents[2], check=False)
    assert "no node has 'a1000' (constraint); sinfo --format=%f lists what they have" in refused.stderr
    assert not job.folder.exists()
