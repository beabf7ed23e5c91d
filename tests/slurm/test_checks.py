"""What a profile asks for and a cluster does not have is reported, in one line each, before a job is submitted."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from bench.machine import filesystems
from reproduce.spec import ResourcesConfig
from slurm import status
from slurm.checks import check_submission, partition_mismatches, path_mismatches, slurm_time, world_size_mismatches
from slurm.doctor import cluster_checks, slurm_check
from slurm.profile import Profile
from slurm.queries import SlurmError, parse_partitions

if TYPE_CHECKING:
    from cluster import Cluster

ROOT = Path(__file__).parents[2]
PARTITIONS = parse_partitions("""\
short|short*|up|1:00:00|4|8|64000|(null)|idle|cpu[1-4]
gpu|gpu|up|2-00:00:00|2|64|512000|gpu:a100:4|mixed|gpu[1-2]
gpu|gpu|up|2-00:00:00|3|128|256000|gpu:2|idle|gpu[3-5]
empty|empty|up|1:30:00|0|0|0|(null)|n/a|
""")


def profile(**fields: Any) -> Profile:
    return Profile.model_validate({"time": "1:00:00", "cpus_per_node": 4, **fields})


def lines(**fields: Any) -> list[str]:
    return [str(mismatch) for mismatch in partition_mismatches(profile(**fields), PARTITIONS)]


# --- partitions ----------------------------------------------------------------------------------------


def test_a_profile_that_fits_has_no_mismatch() -> None:
    assert lines(nodes=4, cpus_per_node=8) == []
    assert lines(partition="gpu", time="2-00:00:00", nodes=2, gpus_per_node=4, cpus_per_node=64, memory_gib=500) == []
    assert lines(partition="short,gpu", nodes=4) == []


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"partition": "gpus"},
            "partition: 'gpus' is not a partition of this cluster; it has short, gpu, empty; did you mean gpu?",
        ),
        ({"partition": "empty"}, "partition: empty has no nodes; name another (deeper doctor lists them)"),
        (
            {"gpus_per_node": 1},
            "gpus_per_node: 1 GPUs, but no node of partition short has that many; at most 0",
        ),
        (
            {"partition": "gpu", "gpus_per_node": 8},
            "gpus_per_node: 8 GPUs, but no node of partition gpu has that many; at most 4",
        ),
        ({"cpus_per_node": 9}, "cpus_per_node: 9 CPUs, but no node of partition short has that many; at most 8"),
        ({"memory_gib": 64}, "memory_gib: 64 GiB, but no node of partition short has that many; at most 62"),
        ({"nodes": 5}, "nodes: 5, but only 4 of partition short have all that is asked of a node; at most 4"),
        (
            {"partition": "gpu", "nodes": 3, "gpus_per_node": 3},
            "nodes: 3, but only 2 of partition gpu have all that is asked of a node; at most 2",
        ),
        (
            {"partition": "gpu", "cpus_per_node": 128, "gpus_per_node": 4},
            "nodes: 1, but only 0 of partition gpu have all that is asked of a node; ask less of each node; there are "
            "2 x 64 CPUs, 500 GiB, 4 GPUs; 3 x 128 CPUs, 250 GiB, 2 GPUs",
        ),
        (
            {"partition": "gpu", "nodes": 3, "memory_gib": 300},
            "memory_gib: 300 GiB, which only 2 nodes of partition gpu have; at most 250 for 3 nodes",
        ),
        (
            {"partition": "gpu", "report": {"partition": "cpu"}},
            "report.partition: 'cpu' is not a partition of this cluster; it has short, gpu, empty; did you mean gpu?",
        ),
        (
            {"time": "1:00:01"},
            "time: 1:00:01 is over the limit of partition short; at most 01:00:00; "
            "a longer job is requeued and continues",
        ),
    ],
)
def test_a_mismatch_names_the_field_the_value_and_what_would_be_valid(fields: dict[str, Any], line: str) -> None:
    assert lines(**fields) == [line]


def test_all_mismatches_are_reported_at_once() -> None:
    assert [line.split(":")[0] for line in lines(time="2:00:00", cpus_per_node=9, gpus_per_node=1)] == [
        "time",
        "cpus_per_node",
        "gpus_per_node",
    ]


def test_without_a_default_partition_the_profile_must_name_one() -> None:
    [mismatch] = partition_mismatches(profile(), PARTITIONS[1:])
    assert str(mismatch) == "partition: none is given, and the cluster has no default; it has gpu, empty"


@pytest.mark.parametrize(("seconds", "text"), [(5400, "01:30:00"), (2 * 86400 + 61, "2-00:01:01")])
def test_times_are_formatted_as_slurm_does(seconds: int, text: str) -> None:
    assert slurm_time(seconds) == text


# --- world size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "resources", "line"),
    [
        ({"nodes": 2}, {"workers": 4, "cpus_per_worker": 2}, None),
        (
            {"nodes": 2, "cpus_per_node": 5},
            {"workers": 5, "cpus_per_worker": 2},
            "nodes: 2 with room for 2 workers of 2 CPUs hold 4 workers, but a run of this experiment has 5 "
            "(resources.workers); ask for at least 3",
        ),
        (
            {"cpus_per_node": 64, "gpus_per_node": 4},
            {"workers": 8, "gpus_per_worker": 1},
            "nodes: 1 with room for 4 workers of 1 CPUs and 1 GPUs hold 4 workers, but a run of this experiment has 8 "
            "(resources.workers); ask for at least 2",
        ),
        (
            {},
            {"gpus_per_worker": 1},
            "gpus_per_node: 0, but a worker of this experiment takes 1 GPUs; ask for at least 1",
        ),
        ({"cpus_per_node": 8, "gpus_per_node": 1}, {"gpus_per_worker": 0.25}, None),
        (
            {},
            {"gpus_per_worker": 0.25},
            "gpus_per_node: 0, but a worker of this experiment takes 0.25 GPUs; ask for at least 1",
        ),
        (
            {},
            {"cpus_per_worker": 6},
            "cpus_per_node: 4, but a worker of this experiment takes 6 CPUs; ask for at least 6",
        ),
    ],
)
def test_a_run_must_fit_the_nodes_of_a_job(
    fields: dict[str, Any], resources: dict[str, float], line: str | None
) -> None:
    found = world_size_mismatches(profile(**fields), ResourcesConfig.model_validate(resources))
    assert [str(mismatch) for mismatch in found] == ([] if line is None else [line])


def test_arms_of_different_resources_are_checked_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/sbatch")
    monkeypatch.setattr("slurm.queries.partitions", lambda: PARTITIONS)
    resources = {"small": ResourcesConfig(), "same": ResourcesConfig(), "big": ResourcesConfig(workers=100)}
    with pytest.raises(SlurmError, match=r"nodes: .* but a run of arm big has 100 \(resources\.workers\)"):
        check_submission(profile(), resources, records=tmp_path, data=tmp_path)


# --- paths ---------------------------------------------------------------------------------------------

MOUNTS = """\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:20 / /dev/shm rw - tmpfs tmpfs rw
23 21 0:21 / /ram rw - tmpfs tmpfs rw
24 21 0:22 / /tmp/shared rw - nfs4 server:/shared rw,vers=4.2,local_lock=none
25 21 0:23 / /home rw - nfs server:/home rw,vers=3,nolock,local_lock=none
26 21 0:24 / /lustre rw - lustre mgs:/lustre rw
27 21 0:25 / /gpfs rw - gpfs gpfs rw
"""


@pytest.fixture
def _mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS, encoding="utf-8")
    monkeypatch.setattr(filesystems, "MOUNTS", tmp_path / "mountinfo")


def paths(records: str, data: str, partitions: Any = PARTITIONS) -> list[str]:
    found = path_mismatches(profile(), partitions, records=Path(records), data=Path(data))
    return [str(mismatch) for mismatch in found]


@pytest.mark.usefixtures("_mounts")
@pytest.mark.parametrize("place", ["/project/me", "/tmp/shared/me", "/gpfs/me", "/tmporary"])
def test_folders_that_nodes_may_share_are_accepted(place: str) -> None:
    assert paths(place, place) == []


@pytest.mark.usefixtures("_mounts")
@pytest.mark.parametrize(
    ("place", "lies_on"),
    [
        ("/tmp/me", "/tmp"),
        ("/var/tmp/me", "/var/tmp"),
        ("/run/user/1000", "/run"),
        ("/dev/shm/me", "/dev/shm (tmpfs)"),
        ("/ram/me", "/ram (tmpfs)"),
    ],
)
def test_folders_that_other_nodes_do_not_see_are_refused(place: str, lies_on: str) -> None:
    end = f"{place} is on {lies_on}, which other nodes do not see; name a folder that all nodes share"
    assert paths(place, "/project/data") == [f"--records: {end}"]
    assert paths("/project/records", place) == [f"--data: {end}"]


@pytest.mark.usefixtures("_mounts")
@pytest.mark.parametrize(("place", "cure"), [("/home/me", "without nolock"), ("/lustre/me", "the option flock")])
def test_records_but_not_data_need_locks_that_reach_other_hosts(place: str, cure: str) -> None:
    [line] = paths(place, "/project/data")
    assert line.startswith(f"--records: {place} is on ")
    assert cure in line
    assert paths("/project/records", place) == []


@pytest.mark.usefixtures("_mounts")
def test_a_partition_of_this_host_alone_may_use_any_folder() -> None:
    here = socket.gethostname().partition(".")[0]
    alone = parse_partitions(f"one|one*|up|1:00:00|1|8|64000|(null)|idle|{here}\n")
    assert paths("/tmp/me", "/dev/shm/me", alone) == []


# --- without and with a real SLURM -----------------------------------------------------------------------


def test_without_sbatch_the_message_says_how_to_get_the_scripts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match=r"^SLURM: no sbatch on PATH; .*deeper slurm render"):
        check_submission(profile(), {"a": ResourcesConfig()}, records=tmp_path, data=tmp_path)


def test_without_slurm_the_doctor_only_warns_about_a_given_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cluster_checks(None, records=tmp_path, data=tmp_path) == []
    [check] = cluster_checks("cpu", records=tmp_path, data=tmp_path)
    assert (check.name, check.status) == ("profile cpu", "warn")


def test_status_without_slurm_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "experiments" / "tiny" / "slurm" / "20260101-000000"
    folder.mkdir(parents=True)
    (folder / "jobs.json").write_text('{"grid": "17", "report": "18"}', encoding="utf-8")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = status.view(tmp_path, "tiny")
    Console(width=200).print(status.render(found))
    assert capsys.readouterr().out.splitlines() == [
        "2 jobs were submitted, and nothing is known about them: "
        "SLURM: no squeue on PATH; this works on a login node of a cluster"
    ]
    assert [(job["id"], job["what"], job["state"]) for job in status.as_json(found)] == [
        ("17", "grid", "UNKNOWN"),
        ("18", "report", "UNKNOWN"),
    ]
    assert status.view(tmp_path, "other").jobs == ()


def deeper(cluster: Cluster, *arguments: str) -> str:
    answer = cluster.login(sys.executable, "-m", "bench.cli", *arguments, cwd=ROOT, check=False, env={"COLUMNS": "300"})
    return str(answer.stdout)


def test_the_doctor_describes_a_real_cluster_and_the_mismatches_of_a_profile(cluster: Cluster) -> None:
    (cluster.shared / "greedy.yaml").write_text(
        "{time: '2:00:00', partition: gpu, cpus_per_node: 4, gpus_per_node: 8}", encoding="utf-8"
    )
    told = deeper(cluster, "doctor", "--profile", str(cluster.shared / "greedy.yaml"), "--records", "/dev/shm/records")
    squeezed = " ".join(told.split())
    assert "ok partition main 2 x 4 CPUs, 7 GiB, 2 GPUs; at most 01:00:00; the default; 2 of 2 nodes up" in squeezed
    assert "warn partition gpu 1 x 8 CPUs, 62 GiB, 4 GPUs; at most 01:00:00; no node is up" in squeezed
    assert "time: 2:00:00 is over the limit of partition gpu" in squeezed
    assert "gpus_per_node: 8 GPUs, but no node of partition gpu has that many hint: at most 4" in squeezed
    assert "--records: /dev/shm/records is on /dev/shm (tmpfs), which other nodes do not see" in squeezed


def test_a_submission_is_checked_against_a_real_cluster(cluster: Cluster) -> None:
    project = cluster.shared / "project"
    project.mkdir()
    cluster.login("mount", "--bind", project, project)  # in /tmp, but a mount of its own, as a shared folder would be
    code = f"""
from slurm.checks import *
for partition in ("main", "mian"):
    try:
        profile = Profile(partition=partition, time="10:00", nodes=2, cpus_per_node=4)
        resources = dict(a=ResourcesConfig(workers=8))
        check_submission(profile, resources, records=Path("{project}"), data=Path("{project}"))
        print("fits")
    except SlurmError as error:
        print(error)
"""
    assert cluster.login(sys.executable, "-c", code, cwd=ROOT).stdout.splitlines() == [
        "fits",
        "partition: 'mian' is not a partition of this cluster; it has main, low, high, gpu; did you mean main?",
    ]


def test_status_lists_the_jobs_of_a_real_cluster(cluster: Cluster) -> None:
    records = cluster.shared / "status"
    folder = records / "experiments" / "tiny" / "slurm" / "20260101-000000"
    folder.mkdir(parents=True)
    grid = cluster.login("sbatch", "--parsable", "--time=5", "--output=/dev/null", "--wrap=sleep 300").stdout.strip()
    after = ("--parsable", f"--dependency=afterany:{grid}", "--time=5", "--output=/dev/null", "--wrap=true")
    report = cluster.login("sbatch", *after).stdout.strip()
    (folder / "jobs.json").write_text(f'{{"grid": "{grid}", "report": "{report}"}}', encoding="utf-8")
    cluster.wait(grid, {"RUNNING"})
    (records / "experiments" / "tiny" / "plan.json").write_text("[]", encoding="utf-8")
    told = " ".join(deeper(cluster, "status", "tiny", "--records", str(records)).split())
    assert f"logs in {folder}" in told
    assert f"{grid} grid RUNNING n" in told
    assert f"of 5 min 00 s 0 grid-{grid}.log" in told
    assert f"{report} report PENDING (Dependency) - 0 s of 5 min 00 s 0 report-{report}.log" in told
    cluster.login("scancel", grid, report)


def test_a_slurm_without_a_cluster_is_no_fault_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "sinfo: error: fetch_config: DNS SRV lookup failed\nsinfo: fatal: Could not establish a configuration source"
    program = tmp_path / "sinfo"
    program.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert slurm_check().status == "ok"
    assert cluster_checks(None, records=tmp_path, data=tmp_path) == []
    [check] = cluster_checks("cpu", records=tmp_path, data=tmp_path)
    assert (check.name, check.detail) == ("profile cpu", "no SLURM here to compare it with")
