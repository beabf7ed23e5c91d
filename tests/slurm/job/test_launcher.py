"""The launcher's command: which part a node takes, and what a mistake and a bug end with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.console.exit_codes import BUG, WRONG_INPUT
from slurm.job import launcher
from slurm.job.config import LauncherConfig, parse_arguments

if TYPE_CHECKING:
    from conftest import Submission

ARGUMENTS = ["--folder", "/f", "--experiment", "/f/e.yaml", "--records", "/r", "--data", "/d"]


@pytest.fixture
def _in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a job step of two nodes."""
    step = {"JOB_ID": "17", "PROCID": "0", "STEP_NODELIST": "n1,n2", "CPUS_ON_NODE": "2"}
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def arguments(submission: Submission) -> list[str]:
    config = submission.config
    return [
        *("--folder", str(config.folder), "--experiment", str(config.experiment)),
        *("--records", str(config.records), "--data", str(config.data)),
    ]


def test_outside_srun_the_launcher_says_how_to_start_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert launcher.main(ARGUMENTS) == WRONG_INPUT
    assert "SLURM_JOB_ID: not set; the launcher is started by srun" in capsys.readouterr().err


@pytest.mark.usefixtures("_in_step")
@pytest.mark.parametrize(("rank", "part"), [("0", "head"), ("1", "worker")])
def test_the_node_of_rank_0_is_the_head_node(monkeypatch: pytest.MonkeyPatch, rank: str, part: str) -> None:
    monkeypatch.setenv("SLURM_PROCID", rank)
    parts: list[str] = []
    monkeypatch.setattr(launcher, "run_head_node", lambda *_: parts.append("head") or 3)
    monkeypatch.setattr(launcher, "run_worker_node", lambda *_: parts.append("worker") or 3)
    assert launcher.main(ARGUMENTS) == 3
    assert parts == [part]


@pytest.mark.usefixtures("_in_step")
@pytest.mark.parametrize("bug", [ValueError, OSError, KeyError])
def test_a_bug_has_an_exit_code_of_its_own_and_its_traceback_is_in_the_log(
    submission: Submission, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bug: type[Exception]
) -> None:
    def run(*_: Any) -> int:
        raise bug("of the launcher's own")

    monkeypatch.setattr(launcher, "run_head_node", run)
    assert launcher.main(arguments(submission)) == BUG
    log = capsys.readouterr().err
    assert ": a bug in the launcher; no run is marked as failed\nTraceback" in log
    assert f"{bug.__name__}: " in log
    assert set(submission.statuses().values()) == {"waiting"}


@pytest.mark.usefixtures("_in_step")
def test_the_head_node_leaves_its_exit_code_for_the_job_script(
    submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`srun` itself ends with the highest code of all nodes, also with that of one that was lost."""
    monkeypatch.setattr(launcher, "run_head_node", lambda *_: 75)
    monkeypatch.setattr(launcher, "run_worker_node", lambda *_: 70)
    assert launcher.main(arguments(submission)) == 75
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert launcher.main(arguments(submission)) == 70
    assert submission.config.exit_code_file("17").read_text(encoding="utf-8") == "75"


def test_options_after_two_dashes_are_those_of_deeper_run() -> None:
    config = parse_arguments([*ARGUMENTS, "--scratch", "$TMPDIR", "--", "--arm", "both", "--retry-failed"])
    assert config == LauncherConfig(
        *(Path("/f"), Path("/f/e.yaml"), Path("/r"), Path("/d")),
        scratch="$TMPDIR",
        run_options=("--arm", "both", "--retry-failed"),
    )
