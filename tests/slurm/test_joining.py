"""Jobs on a real SLURM that join a Ray cluster which already runs, here as a job of its own on another host."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from cluster import ADDRESSES, Cluster, until
from user_folder import ALONE, RECIPE, UserFolder, user_folder

from reproduce import schema
from tests.patience import PATIENCE_S

PORT = 6379
ADDRESS = f"{ADDRESSES['n2']}:{PORT}"
TOKEN, WRONG = "0123456789abcdef" * 4, "f" * 64
ON_THE_OTHER_HOST = {"nodes": 1, "sbatch": ["--nodelist=n1"]}


def with_token(token: str) -> tuple[str, ...]:
    return ("env", "RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={token}")


@pytest.fixture(scope="module")
def user(cluster: Cluster) -> UserFolder:
    user = user_folder(cluster, "joining")
    user.write("joining", resources=ALONE, recipe={**RECIPE, "epochs": 1})
    return user


@pytest.fixture(scope="module")
def ray_cluster(cluster: Cluster) -> Iterator[str]:
    """The id of the job on n2 that holds the Ray cluster, which has no CPUs of its own."""
    start = f"{sys.executable} -m ray.scripts.scripts start --head --block --port={PORT} --num-cpus=0"
    start += f" --node-ip-address={ADDRESSES['n2']} --temp-dir=/tmp/other --include-dashboard=false"
    start += " --disable-usage-stats --object-store-memory=80000000 --dashboard-agent-listen-port=0"
    options = ("--parsable", "--nodelist=n2", "--cpus-per-task=2", f"--output={cluster.shared}/other.log")
    job = cluster.login(*with_token(TOKEN), "sbatch", *options, f"--wrap={start}").stdout.strip()

    def listens() -> bool:
        return cluster.on("n2", "bash", "-c", f"</dev/tcp/{ADDRESS.replace(':', '/')}", check=False).returncode == 0

    until(listens, "Ray", seconds=PATIENCE_S)
    yield job
    cluster.login("scancel", job)
    cluster.wait(job)


@pytest.mark.long
def test_a_job_joins_a_ray_cluster_with_its_token_and_leaves_it_running(
    cluster: Cluster, user: UserFolder, ray_cluster: str
) -> None:
    there = UserFolder(cluster, user.folder, "right", with_token(TOKEN))
    there.ended("joining", there.submit("joining", "--address", ADDRESS, "--no-report", **ON_THE_OTHER_HOST)["grid"])
    [run] = there.runs("joining").values()
    start, *_ = there.events(run["key"])
    assert (run["state"], start["environment"]["machine"]["hostname"]) == ("finished", "n1")
    assert cluster.job(ray_cluster)["JobState"] == "RUNNING"
    again = UserFolder(cluster, user.folder, "again", with_token(TOKEN))
    again.ended("joining", again.submit("joining", "--address", ADDRESS, "--no-report", **ON_THE_OTHER_HOST)["grid"])
    assert {run["state"] for run in again.runs("joining").values()} == {"finished"}


@pytest.mark.long
def test_a_wrong_token_is_refused_at_submission_in_one_sentence_and_nothing_is_queued(
    cluster: Cluster, user: UserFolder, ray_cluster: str
) -> None:
    there = UserFolder(cluster, user.folder, "wrong", with_token(WRONG))
    there.write_profile(**ON_THE_OTHER_HOST)
    queue = cluster.login("squeue", "--noheader", "--format=%i").stdout
    command = ("slurm", "submit", "joining.yaml", "--profile", "profile.yaml", "--address", ADDRESS)
    answer = there.deeper(*command, check=False)
    said = f"deeper: --address: {ADDRESS}: the Ray cluster refuses the token of this shell; set RAY_AUTH_MODE=token"
    assert answer.returncode == 2
    assert answer.stderr.startswith(said)
    assert answer.stderr.count("\n") == 1
    assert cluster.login("squeue", "--noheader", "--format=%i").stdout == queue
    assert not list(there.records.glob("experiments/joining/slurm/*"))


@pytest.mark.long
def test_a_job_whose_token_a_ray_cluster_refuses_ends_with_one_sentence_and_no_failed_run(
    cluster: Cluster, user: UserFolder, ray_cluster: str
) -> None:
    """Submitted by hand, so that nothing has asked the cluster before."""
    there = UserFolder(cluster, user.folder, "by-hand", with_token(WRONG))
    job = there.submit_by_hand("joining", "--address", ADDRESS, **ON_THE_OTHER_HOST)
    there.ended("joining", job, "FAILED")
    fields = cluster.job(job)
    assert (fields["ExitCode"], fields["Restarts"]) == ("1:0", "0")
    log = there.log("joining")
    assert "n1: the Ray cluster refuses the token of this job; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to" in log
    assert log.count("Ray never came up in this job, so it is not requeued") == 1
    assert not list(there.records.glob(f"runs/*/{schema.ARTIFACT_EVENTS}"))
