"""`deeper slurm list`, `logs` and `cancel`: what they show and end, with stubs of SLURM's commands and a real SLURM."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster import until

from bench.cli import main
from bench.records.plan import write_plan
from reproduce.grid import plan_without_data
from reproduce.spec import load_experiment
from slurm.profile import Profile
from slurm.rendering import Job
from slurm.submission import create_submission_folder, write_scripts

ROOT = Path(__file__).parents[3]
EXPERIMENT = """
name: {name}
data: {{path: synthetic}}
recipe: {{epochs: 1, batch_size: 16, resolution: 32, learning_rate: 0.01}}
arms: {{heads: {{network: {{aux: both}}}}}}
seeds: [0]
"""
SQUEUE = """
for job in 17_0 17_1 18 21; do
    [[ ,${4#--jobs=}, == *,${job%_*},* ]] && grep "^$job|" queue
done
exit 0
"""
QUEUE = """\
17_0|RUNNING|None|n1|0:03|10:00|0|
17_1|PENDING|JobArrayTaskLimit||0:00|10:00|0|
18|PENDING|Dependency||0:00|30:00|0|
21|COMPLETED|None|n2|1:00|10:00|1|
"""


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the records of two submitted experiments, and SLURM's commands as stubs."""
    monkeypatch.chdir(tmp_path)
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, script in {"squeue": SQUEUE, "scancel": 'echo "$@" >>cancelled', "sacct": "exit 0"}.items():
        (stubs / name).write_text(f"#!/bin/bash\ncd {tmp_path}\n{script}\n", encoding="utf-8")
        (stubs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{stubs}:/usr/bin:/bin")
    (tmp_path / "queue").write_text(QUEUE, encoding="utf-8")
    submit(tmp_path / "records", "first", "20260101-000000", grid="21")
    submit(tmp_path / "records", "second", "20260102-000000", grid="17", report="18")
    return tmp_path


def submit(records: Path, name: str, stamp: str, **jobs: str) -> None:
    """Leave in the records what a submission leaves."""
    experiment = records.parent / f"{name}.yaml"
    experiment.write_text(EXPERIMENT.format(name=name), encoding="utf-8")
    write_plan(records, name, plan_without_data(load_experiment(experiment)), {})
    folder = records / "experiments" / name / "slurm" / stamp
    folder.mkdir(parents=True)
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")


def log(there: Path, name: str) -> Path:
    [folder] = there.glob(f"records/experiments/{'first' if '21' in name else 'second'}/slurm/*")
    return folder / name


def test_the_list_has_every_job_with_its_state(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "list"]) == 0
    lines = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line[0] != "job"] == [
        ["first,", "submitted", "20260101-000000"],
        ["21", "grid", "COMPLETED"],
        ["second,", "submitted", "20260102-000000"],
        ["17_0", "grid", "RUNNING"],
        ["17_1", "grid", "PENDING"],
        ["18", "report", "PENDING"],
    ]


def test_the_list_of_one_experiment_is_json_for_programs(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "list", "first.yaml", "--json"]) == 0
    [job] = json.loads(capsys.readouterr().out)
    assert (job["experiment"], job["id"], job["state"], job["restarts"]) == ("first", "21", "COMPLETED", 1)
    assert job["log"] == str(log(there, "grid-21.log"))


def test_the_list_is_shown_without_an_answer_of_slurm(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (there / "bin" / "squeue").write_text("#!/bin/sh\necho 'Unable to contact' >&2; exit 1", encoding="utf-8")
    assert main(["slurm", "list"]) == 0
    said = capsys.readouterr().out
    assert said.count("UNKNOWN") == 3
    assert "the states are not known: SLURM: squeue: Unable to contact" in said


def test_an_empty_list_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "list", "--records", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"nothing has been submitted from {tmp_path}\n"


def test_the_logs_of_the_newest_submission_have_headings(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log(there, "grid-17_0.log").write_text("one\ntwo\nthree\n", encoding="utf-8")
    assert main(["slurm", "logs", "--lines", "2"]) == 0
    said = capsys.readouterr().out
    assert f"==> {log(there, 'grid-17_0.log')} <==\ntwo\nthree\n" in said
    assert "job 17_1 is PENDING (JobArrayTaskLimit) and has no log yet" in said
    assert "job 18 is PENDING (Dependency)" in said


def test_the_log_of_one_element_is_printed_as_it_is(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log(there, "grid-17_0.log").write_text("one\n", encoding="utf-8")
    assert main(["slurm", "logs", "17_0"]) == 0
    assert capsys.readouterr().out == "one\n"


def test_the_logs_of_an_array_that_slurm_no_longer_knows_are_found(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (there / "queue").write_text("", encoding="utf-8")
    for element in (0, 1):
        log(there, f"grid-17_{element}.log").write_text(f"element {element}\n", encoding="utf-8")
    assert main(["slurm", "logs", "second", "--follow"]) == 0
    said = capsys.readouterr().out
    assert said.index("element 0") < said.index("element 1")


@pytest.mark.parametrize("command", ["logs", "cancel"])
@pytest.mark.parametrize(("target", "kind"), [("99", "job"), ("17_7", "job"), ("third", "experiment")])
def test_an_unknown_target_is_answered_with_what_there_is(
    there: Path, capsys: pytest.CaptureFixture[str], command: str, target: str, kind: str
) -> None:
    assert main(["slurm", command, target]) == 2
    said = capsys.readouterr().err
    assert f"{target!r} is no {kind} that was submitted from --records" in said
    assert "there are first, second" in said
    assert not (there / "cancelled").exists()


def test_an_experiments_jobs_are_cancelled_unless_they_have_ended(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["slurm", "cancel", "second", "21"]) == 0
    assert (there / "cancelled").read_text(encoding="utf-8") == "17_0 17_1 18\n"
    said = capsys.readouterr().out
    assert "job 17_0 of second (grid) is cancelled; it was RUNNING" in said
    assert "job 21 of first has ended: COMPLETED" in said


def test_one_element_of_an_array_is_cancelled_alone(there: Path) -> None:
    assert main(["slurm", "cancel", "17_1"]) == 0
    assert (there / "cancelled").read_text(encoding="utf-8") == "17_1\n"


# --- in a real SLURM -------------------------------------------------------------------------------

# As the launcher it speaks, and goes on until it is told to end.
PYTHON = """#!/bin/bash
case $2 in
    slurm.job.launcher)
        echo "begun on $(hostname)"
        until [ -e "$HERE/end" ]; do sleep 0.1; done
        echo "ended on $(hostname)"
        ;;
esac
"""


def deeper(cluster: Any, records: Path, *arguments: str) -> str:
    command = (sys.executable, "-m", "bench.cli", "slurm", *arguments, "--records", records)
    return str(cluster.login(*command, cwd=ROOT).stdout)


def test_jobs_of_a_real_slurm_are_throttled_listed_followed_and_cancelled(cluster: Any) -> None:
    place = cluster.shared / "commands"
    records = place / "records"
    place.mkdir()
    (place / "python").write_text(PYTHON, encoding="utf-8")
    (place / "python").chmod(0o755)
    submit(records, "tiny", "20260101-000000")
    profile = Profile(
        time="5:00", cpus_per_node=1, throttle=1, python=str(place / "python"), setup=(f"export HERE={place}",)
    )

    def submitted(**form: Any) -> str:
        folder = create_submission_folder(records, "tiny")
        write_scripts(Job("tiny", folder, records, place / "data", **form), profile, "name: tiny")
        code = f"from pathlib import Path; from slurm.submission import submit; submit(Path({str(folder)!r}))"
        cluster.login(sys.executable, "-c", code, cwd=ROOT)
        return str(json.loads((folder / "jobs.json").read_text(encoding="utf-8"))["grid"])

    array = submitted(split=2)
    later = submitted(after=(array,))
    cluster.wait(f"{array}_0", {"RUNNING"})
    until(lambda: "begun" in deeper(cluster, records, "logs", f"{array}_0"), "the log", seconds=120)
    jobs = {job["id"]: job for job in json.loads(deeper(cluster, records, "list", "--json"))}
    assert (jobs[f"{array}_1"]["state"], jobs[f"{array}_1"]["reason"]) == ("PENDING", "JobArrayTaskLimit")
    assert (jobs[later]["state"], jobs[later]["reason"]) == ("PENDING", "Dependency")

    command = (sys.executable, "-m", "bench.cli", "slurm", "logs", f"{array}_0", "--follow", "--records", records)
    follower = cluster.popen(*command, cwd=ROOT)
    assert f"job {array}_1 of tiny (grid) is cancelled" in deeper(cluster, records, "cancel", f"{array}_1")
    (place / "end").touch()
    said, _ = follower.communicate(timeout=180)
    assert said.index("begun on n") < said.index("ended on n") < said.index("job.sh: done")
    assert cluster.wait(later) == "COMPLETED"
