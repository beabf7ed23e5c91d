"""The job script does what it should when bash runs it with stubs of SLURM's commands."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from slurm import rendering
from slurm.profile import Profile
from slurm.rendering import Job, render_job

# --- run for real, with stubs of SLURM's commands --------------------------------------------------

STUBS = {
    # Writes its arguments to a file, waits while the file `wait` exists, and exits with the code in the file `code`.
    "srun": """
        printf '%s\\0' "$@" >"$STUBS/srun.arguments"
        env >"$STUBS/srun.environment"
        touch "$STUBS/started"
        while [ -e "$STUBS/wait" ]; do sleep 0.02; done
        if [ -e "$STUBS/head" ]; then cp "$STUBS/head" "$FOLDER/exit-code-$SLURM_JOB_ID"; fi
        exit "$(cat "$STUBS/code")"
    """,
    # While the file `away` exists, the controller does not answer; it is back at the second question.
    "squeue": """
        cat "$STUBS/state"
        if [ -e "$STUBS/away" ]; then rm "$STUBS/away"; exit 1; fi
    """,
    "scontrol": """
        echo "$@" >>"$STUBS/scontrol.calls"
        exit "$(cat "$STUBS/requeue")"
    """,
}


class Node:
    """A folder in which a rendered job script runs as on the head node of an allocation."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.stubs = folder / "stubs"
        self.stubs.mkdir()
        for name, text in STUBS.items():
            (self.stubs / name).write_text(f"#!/bin/bash\n{text}", encoding="utf-8")
            (self.stubs / name).chmod(0o755)
        self.submission = folder / 'it\'s a "$submission"'
        self.submission.mkdir()
        form = {
            name: fields.pop(name) for name in ("split", "address", "arms", "seeds", "retry_failed") if name in fields
        }
        job = Job("tiny", self.submission, records=folder / "my records", data=folder / "my data", **form)
        self.profile = Profile(**{"time": "1:00:00", "cpus_per_node": 2, "requeues": 2, **fields})
        (self.submission / "job.sh").write_text(render_job(job, self.profile), encoding="utf-8")
        self.set_stubs(code="0", state="RUNNING None", requeue="0")

    def set_stubs(self, **files: str) -> None:
        for name, content in files.items():
            (self.stubs / name).write_text(content, encoding="utf-8")

    def start(self, **environment: str) -> subprocess.Popen[str]:
        known = {
            "PATH": f"{self.stubs}:{os.environ['PATH']}",
            "STUBS": str(self.stubs),
            "FOLDER": str(self.submission),
            "SLURM_JOB_ID": "17",
            "SLURM_JOB_NUM_NODES": "1",
            **environment,
        }
        script = str(self.submission / "job.sh")
        return subprocess.Popen(
            ["bash", script], env=known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
        )

    def run(self, **environment: str) -> tuple[int, str]:
        process = self.start(**environment)
        log, _ = process.communicate(timeout=120)
        return process.returncode, log

    @property
    def requeues(self) -> list[str]:
        calls = self.stubs / "scontrol.calls"
        return calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []

    @property
    def srun(self) -> list[str]:
        return (self.stubs / "srun.arguments").read_text(encoding="utf-8").split("\0")[:-1]

    @property
    def environment(self) -> str:
        return (self.stubs / "srun.environment").read_text(encoding="utf-8")

    @property
    def stop_file(self) -> Path:
        return self.submission / "stop-17"

    @property
    def started(self) -> bool:
        return (self.stubs / "started").exists()


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 60  # long enough for a busy machine
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_asks_again_while_the_controller_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "CONTROLLER_POLL_S", 1)
    node = Node(tmp_path)
    node.set_stubs(code="75", wait="")
    job = node.start()
    wait_until(lambda: node.started)
    node.set_stubs(state="slurm_load_jobs error: Unable to contact slurm controller (connect failure)", away="")
    (node.stubs / "wait").unlink()
    wait_until(lambda: not (node.stubs / "away").exists())
    node.set_stubs(state="RUNNING None")
    job.communicate(timeout=120)
    assert job.returncode == 75
    assert node.requeues == ["requeue 17"]


@pytest.mark.parametrize("code", [0, 1, 2, 70, 130])
def test_the_job_ends_with_the_launchers_exit_code(tmp_path: Path, code: int) -> None:
    node = Node(tmp_path)
    node.set_stubs(code=str(code))
    assert node.run()[0] == code
    assert node.requeues == []


@pytest.mark.parametrize(("head", "requeues"), [("0", []), ("75", ["requeue 17"])])
def test_the_head_nodes_exit_code_counts_and_not_that_of_a_lost_node(
    tmp_path: Path, head: str, requeues: list[str]
) -> None:
    node = Node(tmp_path)
    node.set_stubs(code="137", head=head)
    assert node.run()[0] == int(head)
    assert node.requeues == requeues
    assert not (node.submission / "exit-code-17").exists()


def test_what_the_submitting_shell_left_is_undone_and_differences_are_said(tmp_path: Path) -> None:
    node = Node(tmp_path, memory_gib=4, partition="gpu")
    left = {"SLURM_MEM_PER_CPU": "100", "SLURM_CPU_BIND": "quiet,mask_cpu:0x3", "SLURM_EXPORT_ENV": "NONE"}
    code, log = node.run(SLURM_MEM_PER_NODE="2048", SLURM_JOB_PARTITION="low", SLURM_CPUS_PER_TASK="2", **left)
    assert code == 0
    assert not [name for name in left if f"\n{name}=" in node.environment]
    assert "SLURM_MEM_PER_NODE=2048\n" in node.environment
    assert "--export=ALL" in node.srun
    assert "partition: the profile asks for gpu, and this job has low" in log
    assert "memory_gib: the profile asks for 4, and this job has 2" in log
    assert "cpus_per_node" not in log


def test_an_interrupted_job_is_requeued(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.set_stubs(code="75")
    code, log = node.run(SLURM_RESTART_COUNT="1")
    assert code == 75
    assert "restart 2 of at most 2" in log
    assert node.requeues == ["requeue 17"]


def test_an_interrupted_job_is_not_requeued_more_often_than_allowed(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.set_stubs(code="75")
    code, log = node.run(SLURM_RESTART_COUNT="2")
    assert code == 75
    assert "interrupted after 2 restarts, and the profile allows 2" in log
    assert node.requeues == []


def test_a_refused_requeue_is_reported(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.set_stubs(code="75", requeue="1")
    code, log = node.run()
    assert code == 75
    assert "SLURM refused the requeue" in log


@pytest.mark.parametrize(
    ("state", "requeued"), [("RUNNING None", True), ("COMPLETING TimeLimit", True), ("COMPLETING None", False)]
)
def test_a_cancelled_job_is_not_requeued(tmp_path: Path, state: str, requeued: bool) -> None:
    node = Node(tmp_path)
    node.set_stubs(wait="", code="75")
    job = node.start()
    wait_until(lambda: node.started)
    node.set_stubs(state=state)
    (node.stubs / "wait").unlink()
    assert job.wait(10) == 75
    assert node.requeues == (["requeue 17"] if requeued else [])


def test_a_job_that_has_restarted_too_often_starts_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    code, log = node.run(SLURM_RESTART_COUNT="3")
    assert code == 75
    assert "has restarted 3 times, and the profile allows 2" in log
    assert not node.started


def test_an_array_element_runs_its_part_and_requeues_only_itself(tmp_path: Path) -> None:
    node = Node(tmp_path, split=4)
    node.set_stubs(code="75")
    node.run(SLURM_ARRAY_JOB_ID="17", SLURM_ARRAY_TASK_ID="2")
    assert node.srun[-3:] == ["--", "--part", "3/4"]
    assert node.requeues == ["requeue 17_2"]


@pytest.mark.parametrize("missing", ["SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID"])
def test_outside_slurm_the_script_says_how_to_submit_it(tmp_path: Path, missing: str) -> None:
    node = Node(tmp_path, split=2)
    environment = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "0", missing: ""}
    code, log = node.run(**environment)
    assert code == 2
    assert "submit it: sbatch " in log
    assert not node.started


@pytest.mark.parametrize(
    "state", ["", "TIMEOUT TimeLimit", "COMPLETING None", "slurm_load_jobs error: Invalid job id specified"]
)
def test_an_allocation_that_has_ended_is_reported(tmp_path: Path, state: str) -> None:
    node = Node(tmp_path)
    node.set_stubs(state=state)
    code, log = node.run()
    assert code == 2
    assert "the allocation 17 has ended" in log
    assert not node.started


def test_a_job_starts_even_if_the_controller_does_not_answer(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.set_stubs(state="slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    assert node.run()[0] == 0


@pytest.mark.parametrize("code", [0, 1, 75])
def test_the_signal_before_the_time_limit_is_passed_on_and_the_exit_code_kept(tmp_path: Path, code: int) -> None:
    node = Node(tmp_path)
    node.set_stubs(wait="", code=str(code))
    node.stop_file.write_text("of an earlier start", encoding="utf-8")
    job = node.start()
    wait_until(lambda: node.started)
    assert not node.stop_file.exists()
    for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM):  # each ends one `wait`
        job.send_signal(number)
        time.sleep(0.1)
        assert job.poll() is None

    def has_asked_to_stop() -> bool:
        job.send_signal(signal.SIGUSR1)  # bash notices none that comes in the moment in which it begins to wait
        return node.stop_file.exists() and node.stop_file.read_text(encoding="utf-8") == "time limit"

    wait_until(has_asked_to_stop)
    (node.stubs / "wait").unlink()
    assert job.wait(10) == code
    assert node.requeues == ([] if code != 75 else ["requeue 17"])
    assert not node.stop_file.exists()


def test_ctrl_c_in_an_allocation_stops_the_runs_and_requeues_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.set_stubs(wait="", code="75")
    job = node.start()
    wait_until(lambda: node.started)
    job.send_signal(signal.SIGINT)
    wait_until(lambda: node.stop_file.exists() and node.stop_file.read_text(encoding="utf-8") == "cancelled")
    (node.stubs / "wait").unlink()
    assert job.wait(10) == 130
    assert node.requeues == []


def test_a_second_ctrl_c_ends_the_job_at_once(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.set_stubs(wait="")
    job = node.start()
    wait_until(lambda: node.started)
    job.send_signal(signal.SIGINT)
    wait_until(node.stop_file.exists)
    job.send_signal(signal.SIGINT)
    assert job.wait(10) == 128 + signal.SIGTERM


# --- what is passed on ------------------------------------------------------------------------------


def test_profile_and_options_reach_the_launcher_unchanged(tmp_path: Path) -> None:
    node = Node(
        tmp_path,
        container='env "GREETING=it\'s me"',
        python="/opt/my python",
        scratch="$TMPDIR/a b",
        interface="ib0",
        gpus_per_node=2,
        arms=("it's; one", "$two"),
        seeds=(0, 3),
        retry_failed=True,
        allow_other_machine=True,
    )
    node.run()
    launcher = node.srun[node.srun.index("env") :]
    assert launcher == [
        *("env", "GREETING=it's me", "/opt/my python", "-m", "slurm.job.launcher"),
        *("--folder", str(node.submission), "--experiment", str(node.submission / "experiment.yaml")),
        *("--records", str(tmp_path / "my records"), "--data", str(tmp_path / "my data")),
        *("--scratch", "$TMPDIR/a b", "--interface", "ib0", "--object-store-mib", "512", "--"),
        *("--arm=it's; one", "--arm=$two", "--seed", "0", "--seed", "3", "--retry-failed"),
        "--allow-other-machine",
    ]
    assert {"--nodes=1", "--ntasks=1", "--cpus-per-task=2", "--gpus-per-node=2", "--no-kill"} <= set(node.srun)
    assert "DEEPER_JOB_BEGAN=" in node.environment


def test_the_launcher_of_an_exclusive_job_takes_all_cpus_of_its_node(tmp_path: Path) -> None:
    node = Node(tmp_path, exclusive=True, gpus_per_node=2)
    _, log = node.run(SLURM_CPUS_PER_TASK="2")
    assert "--gpus-per-node=2" in node.srun
    assert not [argument for argument in node.srun if argument.startswith("--cpus-per-task")]
    assert "SLURM_CPUS_PER_TASK" not in node.environment
    assert "cpus_per_node" not in log


def test_the_set_up_runs_first_and_may_use_unset_variables(tmp_path: Path) -> None:
    node = Node(tmp_path, setup=['export GREETING="$NOT_SET hello"'], tracking_uri="http://tracking:5000")
    assert node.run()[0] == 0
    assert "GREETING= hello\n" in node.environment
    assert "MLFLOW_TRACKING_URI=http://tracking:5000\n" in node.environment


def test_every_job_has_its_own_ray_token_unless_it_joins_a_cluster(tmp_path: Path) -> None:
    tokens = set()
    for name, form in (("a", {}), ("b", {}), ("joined", {"address": "head:6379"})):
        (tmp_path / name).mkdir()
        node = Node(tmp_path / name, **form)
        node.run(RAY_AUTH_TOKEN="the user's")
        tokens |= {line for line in node.environment.splitlines() if line.startswith("RAY_AUTH_TOKEN=")}
    assert len(tokens) == 3
    assert "RAY_AUTH_TOKEN=the user's" in tokens


def test_a_folder_that_the_node_does_not_see_is_reported(tmp_path: Path) -> None:
    node = Node(tmp_path)
    script = (node.submission / "job.sh").read_text(encoding="utf-8")
    job = Job("tiny", Path("/not/here"), records=tmp_path, data=tmp_path)
    (node.submission / "job.sh").write_text(render_job(job, node.profile), encoding="utf-8")
    assert script != (node.submission / "job.sh").read_text(encoding="utf-8")
    code, log = node.run()
    assert code == 2
    assert "does not see /not/here; --records must be on" in log
